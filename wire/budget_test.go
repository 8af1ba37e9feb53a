package wire

import (
	"bytes"
	"reflect"
	"runtime"
	"testing"
)

// hostile returns encodings for a type. In each of them one of the type's arrays has n empty elements.
func hostile(t reflect.Type, n int) (list [][]byte) {
	return insides(t, n, 0)
}

// headOf returns the head of a data item.
func headOf(major byte, n int) []byte {
	switch {
	case n < 24:
		return []byte{major<<5 | byte(n)}
	case n < 1<<8:
		return []byte{major<<5 | 24, byte(n)}
	case n < 1<<16:
		return []byte{major<<5 | 25, byte(n >> 8), byte(n)}
	}
	return []byte{major<<5 | 26, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
}

func insides(t reflect.Type, n, depth int) (list [][]byte) {
	if depth > maxDepth || reflect.PointerTo(t).Implements(unmarshaler) {
		return nil
	}
	switch t.Kind() {
	case reflect.Pointer:
		return insides(t.Elem(), n, depth)
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return nil
		}
		for _, nothing := range []byte{0xa0, 0x80, 0x40, 0x60, 0x00, 0xf6} {
			list = append(list, append(headOf(4, n), bytes.Repeat([]byte{nothing}, n)...))
		}
		for _, inner := range insides(t.Elem(), n, depth+1) {
			list = append(list, append(headOf(4, 1), inner...))
			if few := 1000; len(inner) > few { // many arrays with a few elements
				for _, small := range insides(t.Elem(), 100, depth+1) {
					list = append(list, append(headOf(4, n/100), bytes.Repeat(small, n/100)...))
				}
			}
		}
	case reflect.Struct:
		f := fieldsOf(t)
		for key, field := range f.byKey {
			for _, inner := range insides(field, n, depth+1) {
				list = append(list, append(append(headOf(5, 1), headOf(0, int(key))...), inner...))
			}
		}
		if len(f.byKey) == 0 {
			for i, field := range f.list {
				for _, inner := range insides(field, n, depth+1) {
					b := headOf(4, i+1)
					b = append(b, make([]byte, i)...)
					list = append(list, append(b, inner...))
				}
			}
		}
	}
	return list
}

// allocated returns the bytes that decoding allocates.
func allocated(b []byte, v any) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_ = Decode(b, MaxSessionFrame, v)
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// perByte and besides bound the memory that decoding n bytes may allocate: elements, their contents, an encoding for
// comparison, and an error.
const (
	perByte = 3 * maxGrowth
	extra   = 256 << 10
)

// TestDecodeAllocatesLittle checks that decoding n bytes allocates at most a constant for each byte, for any input,
// into every type that crosses the wire.
func TestDecodeAllocatesLittle(t *testing.T) {
	for name, v := range samples() {
		for _, n := range []int{1000, 131072} {
			for _, b := range hostile(reflect.TypeOf(v).Elem(), n) {
				if got := allocated(b, empty(v)); got > perByte*uint64(len(b))+extra {
					t.Errorf("%s: %d bytes (%x…) cost %d", name, len(b), b[:min(12, len(b))], got)
				}
			}
		}
	}
}

// TestHonestArraysAreAffordable checks that the largest arrays that nodes and devices send are decoded.
func TestHonestArraysAreAffordable(t *testing.T) {
	for name, v := range samples() {
		b, err := Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		w := walker{rest: b, budget: maxGrowth*len(b) + growthSlack}
		w.value(reflect.TypeOf(v).Elem(), 0)
		if w.bad || w.budget < maxGrowth*len(b)/2 {
			t.Errorf("%s: %d bytes leave %d of the budget, %v", name, len(b), w.budget, w.bad)
		}
		if len(w.rest) != 0 {
			t.Errorf("%s: %d bytes were not gone through", name, len(w.rest))
		}
	}
}

// FuzzAffordable checks that decoding arbitrary input ends, and allocates no more than its bound.
func FuzzAffordable(f *testing.F) {
	for _, v := range samples() {
		b, err := Encode(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add(append([]byte{0xa1, 0x01, 0x9a, 0, 0, 0x40, 0}, bytes.Repeat([]byte{0xa0}, 0x4000)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, v := range []any{new(NotifyRequest), new(Entry), new(Frame), new(Error)} {
			if got := allocated(b, v); got > perByte*uint64(len(b))+4*extra {
				t.Errorf("%T: %d bytes cost %d", v, len(b), got)
			}
		}
	})
}
