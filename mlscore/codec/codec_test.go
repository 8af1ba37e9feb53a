package codec

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// requireError checks that err is the wanted error of the package and none of the others.
func requireError(t testing.TB, what string, err, want error) {
	t.Helper()
	for _, kind := range []error{ErrTruncated, ErrTrailing, ErrNotMinimal, ErrPrefix, ErrPresence, ErrLimit} {
		if is := errors.Is(err, kind); is != (kind == want) {
			t.Errorf("%s: error %v, want %v", what, err, want)
			return
		}
	}
}

// boundaries are lengths on both sides of each length at which the header grows (RFC 9420 §2.1.2).
var boundaries = []struct {
	n    uint32
	text string
}{
	{0, "00"},
	{1, "01"},
	{37, "25"}, // the RFC's example
	{0x3e, "3e"},
	{0x3f, "3f"},
	{0x40, "4040"},
	{0x41, "4041"},
	{15293, "7bbd"}, // the RFC's example
	{0x3ffe, "7ffe"},
	{0x3fff, "7fff"},
	{0x4000, "80004000"},
	{0x4001, "80004001"},
	{0x123456, "80123456"},
	{494878333, "9d7f3e7d"}, // the RFC's example
	{MaxLength - 1, "bffffffe"},
	{MaxLength, "bfffffff"},
}

func TestSection2_1_2_Headers(t *testing.T) {
	for _, b := range boundaries {
		want := unhex(t, b.text)
		var w Writer
		w.Varint(int(b.n))
		if got, err := w.Finish(); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d is written as %x, %v; want %x", b.n, got, err, want)
		}
		r := NewReader(want, Limits{})
		if got := r.Varint(); got != b.n || r.Finish() != nil {
			t.Errorf("%x is read as %d, %v; want %d", want, got, r.Err(), b.n)
		}
		for k := range want {
			r := NewReader(want[:k], Limits{})
			if got := r.Varint(); got != 0 {
				t.Errorf("%x gives %d", want[:k], got)
			}
			requireError(t, fmt.Sprintf("%x", want[:k]), r.Finish(), ErrTruncated)
			if !errors.Is(r.Err(), io.ErrUnexpectedEOF) {
				t.Errorf("%x: %v is not io.ErrUnexpectedEOF", want[:k], r.Err())
			}
		}
	}
}

func TestSection2_1_2_HeadersRefused(t *testing.T) {
	for _, c := range []struct {
		text string
		want error
	}{
		{"4000", ErrNotMinimal},
		{"4025", ErrNotMinimal}, // the RFC's example
		{"403f", ErrNotMinimal},
		{"80000000", ErrNotMinimal},
		{"8000003f", ErrNotMinimal},
		{"80000040", ErrNotMinimal},
		{"80003fff", ErrNotMinimal},
		{"c0", ErrPrefix},
		{"ff", ErrPrefix},
		{"c000000000000000", ErrPrefix},
		{"ffffffffffffffff", ErrPrefix},
	} {
		r := NewReader(unhex(t, c.text), Limits{})
		if got := r.Varint(); got != 0 {
			t.Errorf("%s gives %d", c.text, got)
		}
		requireError(t, c.text, r.Err(), c.want)
		r = NewReader(unhex(t, c.text), Limits{})
		if got := r.Bytes(); got != nil {
			t.Errorf("%s gives %x", c.text, got)
		}
		requireError(t, c.text, r.Err(), c.want)
	}
}

// TestSection2_1_2_EveryTwoByteHeader goes through all headers of up to two bytes.
func TestSection2_1_2_EveryTwoByteHeader(t *testing.T) {
	for v := range 0x8000 {
		b := []byte{byte(v >> 8), byte(v)}
		r := NewReader(b, Limits{})
		n := r.Varint()
		switch {
		case v < 0x4000: // one byte, and one byte left
			if r.Err() != nil || n != uint32(v>>8) || r.Len() != 1 {
				t.Fatalf("%x: %d, %v", b, n, r.Err())
			}
		case v < 0x4040:
			requireError(t, hex.EncodeToString(b), r.Err(), ErrNotMinimal)
		default:
			if r.Finish() != nil || n != uint32(v-0x4000) {
				t.Fatalf("%x: %d, %v", b, n, r.Err())
			}
		}
	}
}

func TestWriterLengthLimits(t *testing.T) {
	for _, n := range []int{-1, MaxLength + 1, math.MaxInt} {
		var w Writer
		w.Varint(n)
		_, err := w.Finish()
		requireError(t, fmt.Sprint(n), err, ErrLimit)
	}
	defer func() {
		if recover() == nil {
			t.Error("AppendVarint takes a length that has no header")
		}
	}()
	AppendVarint(nil, MaxLength+1)
}

// TestWriterVectorTooLong checks that a vector over MaxLength is refused. Its memory is only reserved: nothing but
// the race detector touches it.
func TestWriterVectorTooLong(t *testing.T) {
	if testing.Short() {
		t.Skip("reserves 1 GiB: not with -short")
	}
	w := NewWriter(make([]byte, 0, MaxLength+16))
	w.Vector(func(w *Writer) { w.buf = w.buf[:1+MaxLength+1] })
	w.Vector(func(*Writer) {})
	requireError(t, "vector", w.Err(), ErrLimit)
	if err := w.Err().Error(); !strings.Contains(err, fmt.Sprint(MaxLength+1)) {
		t.Errorf("error %q is not that of the first vector", err)
	}
}

// TestVectorHeaders checks that Writer.Vector, which writes its header last, writes the same as Bytes, at every
// length at which the header grows, and inside other vectors.
func TestVectorHeaders(t *testing.T) {
	for _, n := range []int{0, 1, 0x3e, 0x3f, 0x40, 0x41, 0x3ffe, 0x3fff, 0x4000, 0x4001, 70000} {
		body := bytes.Repeat([]byte{0xab}, n)
		var flat, inner Writer
		flat.Bytes(body)
		nested := NewWriter([]byte("before"))
		nested.Vector(func(w *Writer) {
			w.Uint8(7)
			w.Vector(func(w *Writer) { w.Fixed(body) })
			w.String("after")
		})
		inner.Uint8(7)
		inner.Fixed(flat.Buffer())
		inner.String("after")
		if want := AppendBytes([]byte("before"), inner.Buffer()); !bytes.Equal(nested.Buffer(), want) || nested.Err() != nil {
			t.Errorf("vector of %d bytes in another one: %.20x…, want %.20x…", n, nested.Buffer(), want)
		}
	}
}

func TestReadBack(t *testing.T) {
	var w Writer
	w.Uint8(1)
	w.Uint16(0x0203)
	w.Uint32(0x04050607)
	w.Uint64(0x08090a0b0c0d0e0f)
	w.Optional(true)
	w.Optional(false)
	w.Fixed([]byte("fixed"))
	w.Bytes([]byte("bytes"))
	w.Bytes(nil)
	w.String("string")
	w.Vector(func(w *Writer) { w.Uint16(1); w.Uint16(2) })
	b, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	const want = "01" + "0203" + "04050607" + "08090a0b0c0d0e0f" + "01" + "00" + "6669786564" + "056279746573" + "00" + "06737472696e67" + "0400010002"
	if hex.EncodeToString(b) != want {
		t.Fatalf("written: %x, want %s", b, want)
	}
	read := func(r *Reader) string {
		var list []uint16
		s := fmt.Sprintf("%x %x %x %x %v %v %q %q %q %q", r.Uint8(), r.Uint16(), r.Uint32(), r.Uint64(), r.Optional(), r.Optional(),
			r.Fixed(5), r.Bytes(), r.Bytes(), r.Bytes())
		r.Vector(func(r *Reader) { list = append(list, r.Uint16()) })
		return fmt.Sprint(s, list)
	}
	r := NewReader(b, Limits{})
	if got := read(r); got != `1 203 4050607 8090a0b0c0d0e0f true false "fixed" "bytes" "" "string"[1 2]` || r.Finish() != nil {
		t.Errorf("read: %s, %v", got, r.Err())
	}
	for k := range b {
		r := NewReader(b[:k], Limits{})
		read(r)
		requireError(t, fmt.Sprintf("the first %d bytes", k), r.Finish(), ErrTruncated)
	}
}

func TestTrailingBytes(t *testing.T) {
	r := NewReader([]byte{1, 0, 2}, Limits{})
	r.Uint16()
	requireError(t, "one byte more", r.Finish(), ErrTrailing)
	requireError(t, "asked again", r.Finish(), ErrTrailing)
	r = NewReader([]byte{2, 5, 6, 9}, Limits{})
	r.Vector(func(r *Reader) { r.Uint8() })
	requireError(t, "behind a vector", r.Finish(), ErrTrailing)
}

func TestSection2_1_1_Presence(t *testing.T) {
	for v := range 256 {
		r := NewReader([]byte{byte(v)}, Limits{})
		got := r.Optional()
		if v < 2 {
			if got != (v == 1) || r.Finish() != nil {
				t.Errorf("%d: %v, %v", v, got, r.Err())
			}
			continue
		}
		if got {
			t.Errorf("%d counts as present", v)
		}
		requireError(t, fmt.Sprint(v), r.Finish(), ErrPresence)
	}
}

// TestFirstErrorStays checks that nothing is read after an error, and that the first error is reported.
func TestFirstErrorStays(t *testing.T) {
	mine := errors.New("mine")
	for name, spoil := range map[string]func(*Reader){
		"truncated": func(r *Reader) { r.Fixed(100) },
		"negative":  func(r *Reader) { r.Fixed(-1) },
		"failed":    func(r *Reader) { r.Fail(mine) },
		"in vector": func(r *Reader) { r.Vector(func(r *Reader) { r.Fail(mine) }) },
	} {
		r := NewReader([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, Limits{})
		mark := r.Mark()
		spoil(r)
		first := r.Err()
		if first == nil {
			t.Errorf("%s: no error", name)
		}
		r.Fail(errors.New("another"))
		called := false
		r.Vector(func(*Reader) { called = true })
		if r.Uint8() != 0 || r.Uint16() != 0 || r.Uint32() != 0 || r.Uint64() != 0 || r.Varint() != 0 || r.Optional() ||
			r.Bytes() != nil || r.Fixed(0) != nil || r.Rest() != nil || r.Since(mark) != nil || r.Len() != 0 || called {
			t.Errorf("%s: something is read after the error", name)
		}
		if r.Finish() != first {
			t.Errorf("%s: %v took the place of %v", name, r.Err(), first)
		}
	}
}

func TestViewsCannotGrow(t *testing.T) {
	b := []byte{2, 10, 11, 12, 13}
	r := NewReader(b, Limits{})
	mark := r.Mark()
	v := r.Bytes()
	since := r.Since(mark)
	_ = append(v, 99)
	_ = append(since, 99)
	_ = append(NewReader(b, Limits{}).Fixed(1), 99)
	if !bytes.Equal(b, []byte{2, 10, 11, 12, 13}) {
		t.Errorf("appending to what was read wrote into the input: %v", b)
	}
	if !bytes.Equal(since, b[:3]) || !bytes.Equal(r.Rest(), b[3:]) || r.Finish() != nil {
		t.Errorf("since %v, error %v", since, r.Err())
	}
}

// TestElementsStayInTheirVector checks that an element cannot read beyond its vector.
func TestElementsStayInTheirVector(t *testing.T) {
	r := NewReader([]byte{3, 0, 1, 0, 2, 0, 3}, Limits{})
	var list []uint16
	r.Vector(func(r *Reader) { list = append(list, r.Uint16()) })
	requireError(t, "half an element", r.Finish(), ErrTruncated)
	r = NewReader([]byte{1, 0}, Limits{})
	r.Vector(func(*Reader) {})
	requireError(t, "an element without bytes", r.Finish(), ErrTruncated)
	r = NewReader([]byte{0}, Limits{})
	r.Vector(func(*Reader) { t.Error("an empty vector has an element") })
	if r.Finish() != nil {
		t.Error(r.Err())
	}
}

func TestByteLimit(t *testing.T) {
	for n, want := range map[int]error{9: nil, 10: nil, 11: ErrLimit} {
		r := NewReader(make([]byte, n), Limits{Bytes: 10})
		r.Rest()
		requireError(t, fmt.Sprintf("%d bytes, 10 allowed", n), r.Finish(), want)
	}
	r := NewReader(make([]byte, 1), Limits{Bytes: -1})
	r.Rest()
	requireError(t, "default limit", r.Finish(), nil)
}

func TestCountLimit(t *testing.T) {
	for n, want := range map[int]error{0: nil, 9: nil, 10: nil, 11: ErrLimit, 1000: ErrLimit} {
		r := NewReader(AppendBytes(nil, make([]byte, n)), Limits{Count: 10})
		called := 0
		r.Vector(func(r *Reader) { r.Uint8(); called++ })
		requireError(t, fmt.Sprintf("%d elements, 10 allowed", n), r.Finish(), want)
		if called > 10 {
			t.Errorf("%d elements were read, 10 are allowed", called)
		}
	}
	// The count limit applies to each vector: two vectors of 10 are allowed.
	b := AppendBytes(AppendBytes(nil, make([]byte, 10)), make([]byte, 10))
	r := NewReader(b, Limits{Count: 10})
	for range 2 {
		r.Vector(func(r *Reader) { r.Uint8() })
	}
	requireError(t, "two vectors", r.Finish(), nil)
	// The limit applies to vectors of 16-bit values, too.
	for n, want := range map[int]error{0: nil, 9: nil, 10: nil, 11: ErrLimit} {
		r := NewReader(AppendBytes(nil, make([]byte, 2*n)), Limits{Count: 10})
		if list := Uint16Vector[uint16](r, nil); want == nil && len(list) != n {
			t.Errorf("%d values of %d were read", len(list), n)
		}
		requireError(t, fmt.Sprintf("%d values, 10 allowed", n), r.Finish(), want)
	}
}

// nested wraps a byte in depth vectors.
func nested(depth int) []byte {
	b := []byte{5}
	for range depth {
		b = AppendBytes(nil, b)
	}
	return b
}

func descend(r *Reader, depth int) {
	if depth == 0 {
		r.Uint8()
		return
	}
	r.Vector(func(r *Reader) { descend(r, depth-1) })
}

func TestDepthLimit(t *testing.T) {
	for depth, want := range map[int]error{1: nil, 3: nil, 4: nil, 5: ErrLimit, 60: ErrLimit} {
		r := NewReader(nested(depth), Limits{Depth: 4})
		descend(r, depth)
		requireError(t, fmt.Sprintf("%d vectors deep, 4 allowed", depth), r.Finish(), want)
	}
	deepest := DefaultLimits.Depth
	for depth, want := range map[int]error{deepest: nil, deepest + 1: ErrLimit} {
		r := NewReader(nested(depth), Limits{})
		descend(r, depth)
		requireError(t, fmt.Sprintf("%d vectors deep by default", depth), r.Finish(), want)
	}
	// Consecutive vectors are not nested.
	r := NewReader(bytes.Repeat(nested(1), 10), Limits{Depth: 1})
	for range 10 {
		descend(r, 1)
	}
	requireError(t, "side by side", r.Finish(), nil)
}

// TestLyingLengthAllocatesNothing checks that a header that promises a gigabyte allocates nothing except its error.
func TestLyingLengthAllocatesNothing(t *testing.T) {
	lies := [][]byte{
		{0xbf, 0xff, 0xff, 0xff},
		append([]byte{0xbf, 0xff, 0xff, 0xff}, make([]byte, 100)...),
		{0x7f, 0xff, 1},
		{0x3f},
	}
	for _, read := range []func(*Reader){
		func(r *Reader) { r.Bytes() },
		func(r *Reader) { r.Vector(func(r *Reader) { r.Uint8() }) },
		func(r *Reader) { r.Fixed(1 << 30) },
	} {
		for _, lie := range lies {
			const runs = 100
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range runs {
				r := NewReader(lie, Limits{})
				read(r)
				requireError(t, hex.EncodeToString(lie[:1]), r.Err(), ErrTruncated)
			}
			runtime.ReadMemStats(&after)
			if bytes := (after.TotalAlloc - before.TotalAlloc) / runs; bytes > 4<<10 {
				t.Errorf("%x…: %d bytes allocated", lie[:1], bytes)
			}
		}
	}
}

// TestReadingAllocatesNothing checks that the Reader returns views.
func TestReadingAllocatesNothing(t *testing.T) {
	b := AppendBytes(AppendBytes(nil, make([]byte, 50000)), make([]byte, 100))
	n := 0
	element := func(r *Reader) { n += int(r.Uint8()) }
	if allocs := testing.AllocsPerRun(100, func() {
		r := Reader{rest: b, limits: DefaultLimits}
		n += len(r.Bytes())
		r.Vector(element)
		n += r.Len()
	}); allocs > 1 { // the reader of the vector
		t.Errorf("%v allocations", allocs)
	}
}

// TestUint16Vector checks that Uint16Vector reads and refuses the same input as Vector with Uint16.
func TestUint16Vector(t *testing.T) {
	for _, text := range []string{"", "00", "020001", "0400010002", "0100", "03000100", "0400", "4001", "c0", "0e0001000200030004000500060007"} {
		for _, limits := range []Limits{{}, {Count: 1}, {Depth: 1}, {Count: 6}} {
			one, other := NewReader(unhex(t, text), limits), NewReader(unhex(t, text), limits)
			var want []uint16
			one.Vector(func(r *Reader) { want = append(want, r.Uint16()) })
			got := Uint16Vector[uint16](other, nil)
			if one.Err() != nil {
				want = nil
			}
			if fmt.Sprint(got) != fmt.Sprint(want) || one.Len() != other.Len() {
				t.Errorf("%s, %+v: %v, want %v", text, limits, got, want)
			}
			used := []uint16{7, 7, 7, 7, 7, 7, 7, 7}
			again := NewReader([]byte("something else"), Limits{Bytes: 1})
			again.Reset(unhex(t, text), limits)
			if got := Uint16Vector(again, used); fmt.Sprint(got) != fmt.Sprint(want) || (len(got) > 0 && &got[0] != &used[0]) || fmt.Sprint(again.Err()) != fmt.Sprint(other.Err()) {
				t.Errorf("%s, %+v, in place of another list: %v, want %v", text, limits, got, want)
			}
			for _, kind := range []error{ErrTruncated, ErrNotMinimal, ErrPrefix, ErrLimit} {
				if errors.Is(one.Err(), kind) != errors.Is(other.Err(), kind) {
					t.Errorf("%s, %+v: error %v, want %v", text, limits, other.Err(), one.Err())
				}
			}
		}
	}
}
