package codec

import (
	"encoding/binary"
	"fmt"
)

// Writer appends encodings to a buffer. Its zero value is ready to use.
type Writer struct {
	buf []byte
	err error
}

// NewWriter returns a Writer that appends to b, which may be nil, and uses b's capacity.
func NewWriter(b []byte) *Writer { return &Writer{buf: b} }

// Finish returns the encoding and the first error: a vector is longer than MaxLength.
func (w *Writer) Finish() ([]byte, error) { return w.buf, w.err }

// Buffer returns the bytes that have been written, even after an error.
func (w *Writer) Buffer() []byte { return w.buf }

// Err returns the first error.
func (w *Writer) Err() error { return w.err }

// FirstSize is the initial capacity in bytes of a Writer without a buffer: most encodings fit.
const FirstSize = 192

// room returns the buffer, allocated if it has no capacity.
func (w *Writer) room() []byte {
	if w.buf == nil {
		w.buf = make([]byte, 0, FirstSize)
	}
	return w.buf
}

// Uint8 writes an octet.
func (w *Writer) Uint8(v uint8) { w.buf = append(w.room(), v) }

// Uint16 writes a big-endian uint16.
func (w *Writer) Uint16(v uint16) { w.buf = binary.BigEndian.AppendUint16(w.room(), v) }

// Uint32 writes a big-endian uint32.
func (w *Writer) Uint32(v uint32) { w.buf = binary.BigEndian.AppendUint32(w.room(), v) }

// Uint64 writes a big-endian uint64.
func (w *Writer) Uint64(v uint64) { w.buf = binary.BigEndian.AppendUint64(w.room(), v) }

// Fixed writes b without a header.
func (w *Writer) Fixed(b []byte) { w.buf = append(w.buf, b...) }

// Optional writes a presence octet (RFC 9420 §2.1.1).
func (w *Writer) Optional(present bool) {
	if present {
		w.Uint8(1)
	} else {
		w.Uint8(0)
	}
}

// Varint writes a vector header (RFC 9420 §2.1.2).
func (w *Writer) Varint(n int) {
	if n < 0 || n > MaxLength {
		w.fail(n)
		return
	}
	w.buf = AppendVarint(w.room(), uint32(n))
}

// Bytes writes opaque<V>.
func (w *Writer) Bytes(b []byte) {
	w.Varint(len(b))
	w.Fixed(b)
}

// String writes opaque<V>.
func (w *Writer) String(s string) {
	w.Varint(len(s))
	w.buf = append(w.buf, s...)
}

// Vector writes a vector. body writes its content.
func (w *Writer) Vector(body func(*Writer)) {
	start := len(w.buf)
	w.buf = append(w.room(), 0) // space for the most common header
	body(w)
	n := len(w.buf) - start - 1
	if n > MaxLength {
		w.fail(n)
		return
	}
	var header [4]byte
	h := AppendVarint(header[:0], uint32(n))
	if extra := len(h) - 1; extra > 0 {
		w.buf = append(w.buf, h[:extra]...)
		copy(w.buf[start+len(h):], w.buf[start+1:start+1+n])
	}
	copy(w.buf[start:], h)
}

func (w *Writer) fail(n int) {
	if w.err == nil {
		w.err = fmt.Errorf("%w: vector of %d bytes, at most %d", ErrLimit, n, MaxLength)
	}
}

// AppendVarint appends a vector header for n, which must not exceed MaxLength.
func AppendVarint(b []byte, n uint32) []byte {
	switch {
	case n < 1<<6:
		return append(b, byte(n))
	case n < 1<<14:
		return append(b, 0x40|byte(n>>8), byte(n))
	case n <= MaxLength:
		return append(b, 0x80|byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	panic(fmt.Sprintf("codec: vector of %d bytes", n))
}

// AppendBytes appends opaque<V>.
func AppendBytes(b, v []byte) []byte {
	return append(AppendVarint(b, uint32(len(v))), v...)
}
