package codec

import (
	"bytes"
	"errors"
	"testing"
)

// known reports whether an error is one that a Reader may return.
func known(err error) bool {
	for _, kind := range []error{ErrTruncated, ErrTrailing, ErrNotMinimal, ErrPrefix, ErrPresence, ErrLimit} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// FuzzVarint checks that a decoded header is encoded to the same bytes, and that no other bytes decode to the same
// number.
func FuzzVarint(f *testing.F) {
	for _, b := range boundaries {
		f.Add(unhex(f, b.text))
	}
	f.Add([]byte{0x40, 0x3f})
	f.Add([]byte{0xc0})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewReader(data, Limits{})
		n := r.Varint()
		if err := r.Err(); err != nil {
			if n != 0 || !known(err) {
				t.Fatalf("%x: %d, %v", data, n, err)
			}
			return
		}
		used := data[:len(data)-r.Len()]
		if got := AppendVarint(nil, n); !bytes.Equal(got, used) {
			t.Fatalf("%x is read as %d, which is written %x", used, n, got)
		}
	})
}

// schema reads values in the order of a script of bytes, and writes the values that it read.
type schema struct {
	script []byte
	depth  int
}

// next removes one step from the script.
func (s *schema) next() byte {
	if len(s.script) == 0 {
		return 0
	}
	op := s.script[0]
	s.script = s.script[1:]
	return op
}

// copyAll runs the whole script.
func (s schema) copyAll(r *Reader, w *Writer) {
	for len(s.script) > 0 && r.Err() == nil {
		s.copyOne(r, w)
	}
}

// copyOne reads one value and writes it.
func (s *schema) copyOne(r *Reader, w *Writer) {
	switch op := s.next(); op % 9 {
	case 0:
		w.Uint8(r.Uint8())
	case 1:
		w.Uint16(r.Uint16())
	case 2:
		w.Uint32(r.Uint32())
	case 3:
		w.Uint64(r.Uint64())
	case 4:
		w.Varint(int(r.Varint()))
	case 5:
		w.Bytes(r.Bytes())
	case 6:
		present := r.Optional()
		w.Optional(present)
		if present {
			w.Bytes(r.Bytes())
		}
	case 7:
		w.Fixed(r.Fixed(int(op) / 9))
	default:
		s.copyVector(r, w)
	}
}

// copyVector reads a vector. The next step of the script applies to all its elements.
func (s *schema) copyVector(r *Reader, w *Writer) {
	rest := s.script
	var elements []Writer
	r.Vector(func(r *Reader) {
		element := schema{script: rest, depth: s.depth + 1}
		var ew Writer
		if element.depth > 20 {
			ew.Uint8(r.Uint8())
		} else {
			element.copyOne(r, &ew)
		}
		elements = append(elements, ew)
	})
	s.next()
	w.Vector(func(w *Writer) {
		for _, e := range elements {
			w.Fixed(e.Buffer())
		}
	})
}

// FuzzReader checks that values read in any order are written to the same bytes, and that every shorter input fails.
func FuzzReader(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3}, bytes.Repeat([]byte{7}, 15))
	f.Add([]byte{4, 5, 6}, []byte{0x40, 0x50, 3, 1, 2, 3, 1, 1, 9})
	f.Add([]byte{8, 1, 5}, []byte{4, 0, 1, 0, 2, 1, 3})
	f.Add([]byte{8, 8, 8, 0}, []byte{5, 4, 3, 2, 1, 0})
	f.Add(bytes.Repeat([]byte{8}, 18), nested(18))
	f.Add([]byte{7 + 9*3, 5}, []byte{1, 2, 3, 0xbf, 0xff, 0xff, 0xff})
	f.Add([]byte{6, 6}, []byte{0, 2})
	f.Fuzz(func(t *testing.T, script, data []byte) {
		if len(script) > 64 || len(data) > 1<<12 {
			return
		}
		limits := Limits{Count: 100}
		input := bytes.Clone(data)
		r := NewReader(data, limits)
		var w Writer
		schema{script: script}.copyAll(r, &w)
		if !bytes.Equal(data, input) {
			t.Fatal("the input was written to")
		}
		if err := r.Err(); err != nil {
			if !known(err) || r.Len() != 0 {
				t.Fatalf("error %v, %d bytes left", err, r.Len())
			}
			return
		}
		used := data[:len(data)-r.Len()]
		got, err := w.Finish()
		if err != nil || !bytes.Equal(got, used) {
			t.Fatalf("read %x, wrote %x, %v", used, got, err)
		}
		if left := r.Len(); (r.Finish() == nil) != (left == 0) {
			t.Fatalf("%d bytes are left, and Finish says %v", left, r.Err())
		}
		for k := range used {
			r := NewReader(used[:k], limits)
			var w Writer
			schema{script: script}.copyAll(r, &w)
			if !errors.Is(r.Err(), ErrTruncated) {
				t.Fatalf("the first %d bytes of %x: %v", k, used, r.Err())
			}
		}
	})
}
