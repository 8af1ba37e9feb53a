package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// MaxLength is the largest length that a vector header can carry: 2^30 - 1 bytes.
const MaxLength = 1<<30 - 1

// The kinds of decoding errors. Every error of a Reader wraps one of them.
var (
	ErrTruncated  = fmt.Errorf("input ends early: %w", io.ErrUnexpectedEOF)
	ErrTrailing   = errors.New("bytes follow the value")
	ErrNotMinimal = errors.New("vector header is not in its shortest form")
	ErrPrefix     = errors.New("vector header has the reserved prefix 11")
	ErrPresence   = errors.New("presence octet is neither 0 nor 1")
	ErrLimit      = errors.New("over the limit of the decoder")
)

// Limits bound the input that a Reader accepts. A zero field means the value in DefaultLimits.
type Limits struct {
	Bytes int // size of the whole input
	Count int // elements of one vector
	Depth int // nesting of vectors
}

// DefaultLimits suit every message of a group of a few hundred thousand members: 256 MiB of input, 4 Mi elements in a
// vector, 16 levels of nested vectors.
var DefaultLimits = Limits{Bytes: 256 << 20, Count: 4 << 20, Depth: 16}

func (l Limits) orDefault() Limits {
	if l.Bytes <= 0 {
		l.Bytes = DefaultLimits.Bytes
	}
	if l.Count <= 0 {
		l.Count = DefaultLimits.Count
	}
	if l.Depth <= 0 {
		l.Depth = DefaultLimits.Depth
	}
	return l
}

// Reader decodes from a byte slice. The slices that it returns are views into the input, with their capacity cut to
// their length: a caller that keeps a view keeps the whole input in memory.
type Reader struct {
	rest   []byte
	limits Limits
	depth  int
	err    error
}

// NewReader returns a Reader of b with limits.
func NewReader(b []byte, limits Limits) *Reader {
	r := new(Reader)
	r.Reset(b, limits)
	return r
}

// Reset sets r to the result of NewReader, for a caller that decodes many inputs with one Reader.
func (r *Reader) Reset(b []byte, limits Limits) {
	*r = Reader{rest: b, limits: limits.orDefault()}
	if len(b) > r.limits.Bytes {
		r.fail(fmt.Errorf("%w: %d bytes of input, at most %d", ErrLimit, len(b), r.limits.Bytes))
	}
}

// Err returns the first error.
func (r *Reader) Err() error { return r.err }

// Len returns the number of unread bytes.
func (r *Reader) Len() int { return len(r.rest) }

// Fail records err, unless there is an error already. A caller uses it for a value that is out of range.
func (r *Reader) Fail(err error) { r.fail(err) }

func (r *Reader) fail(err error) {
	if r.err == nil {
		r.err = err
		r.rest = nil
	}
}

// Finish returns the first error, or ErrTrailing if there are unread bytes.
func (r *Reader) Finish() error {
	if r.err == nil && len(r.rest) > 0 {
		r.fail(fmt.Errorf("%w: %d", ErrTrailing, len(r.rest)))
	}
	return r.err
}

// Fixed reads n bytes.
func (r *Reader) Fixed(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || n > len(r.rest) {
		r.fail(fmt.Errorf("%w: %d bytes wanted, %d left", ErrTruncated, n, len(r.rest)))
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

// Uint8 reads an octet.
func (r *Reader) Uint8() uint8 {
	if b := r.Fixed(1); b != nil {
		return b[0]
	}
	return 0
}

// Uint16 reads a big-endian uint16.
func (r *Reader) Uint16() uint16 {
	if b := r.Fixed(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

// Uint32 reads a big-endian uint32.
func (r *Reader) Uint32() uint32 {
	if b := r.Fixed(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// Uint64 reads a big-endian uint64.
func (r *Reader) Uint64() uint64 {
	if b := r.Fixed(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// Optional reads the presence octet of an optional value (RFC 9420 §2.1.1).
func (r *Reader) Optional() bool {
	switch v := r.Uint8(); v {
	case 0:
		return false
	case 1:
		return true
	default:
		r.fail(fmt.Errorf("%w: %d", ErrPresence, v))
		return false
	}
}

// Varint reads a vector header (RFC 9420 §2.1.2): 1, 2 or 4 octets, only the shortest form.
func (r *Reader) Varint() uint32 {
	first := r.Uint8()
	if r.err != nil {
		return 0
	}
	var v uint32
	switch first >> 6 {
	case 0:
		return uint32(first)
	case 1:
		v = uint32(first&0x3f)<<8 | uint32(r.Uint8())
		if r.err == nil && v < 1<<6 {
			r.fail(fmt.Errorf("%w: %d in 2 octets", ErrNotMinimal, v))
		}
	case 2:
		low := r.Fixed(3)
		if low == nil {
			return 0
		}
		v = uint32(first&0x3f)<<24 | uint32(low[0])<<16 | uint32(low[1])<<8 | uint32(low[2])
		if v < 1<<14 {
			r.fail(fmt.Errorf("%w: %d in 4 octets", ErrNotMinimal, v))
		}
	default:
		r.fail(ErrPrefix)
	}
	if r.err != nil {
		return 0
	}
	return v
}

// Bytes reads opaque<V>. The result is nil only after an error.
func (r *Reader) Bytes() []byte {
	n := r.Varint()
	if r.err != nil {
		return nil
	}
	return r.Fixed(int(n)) // n is below 2^30
}

// Vector reads a vector: it calls element for each element until the vector's bytes are read. An element must take at
// least one byte. element is called with r itself, whose input ends at the end of the vector during the call.
func (r *Reader) Vector(element func(*Reader)) {
	body := r.Bytes()
	if r.err != nil || !r.nests() {
		return
	}
	after := r.rest
	r.rest = body
	r.depth++
	for count := 1; len(r.rest) > 0; count++ {
		if count > r.limits.Count {
			r.fail(fmt.Errorf("%w: more than %d elements in a vector", ErrLimit, r.limits.Count))
			break
		}
		before := len(r.rest)
		element(r)
		if r.err == nil && len(r.rest) == before {
			r.fail(fmt.Errorf("%w: empty element", ErrTruncated))
		}
	}
	r.depth--
	if r.err == nil {
		r.rest = after
	}
}

// Uint16Vector reads a vector of 16-bit values, as Vector with Uint16 does. The values overwrite list, which may be
// nil. For an empty vector the result is list[:0].
func Uint16Vector[T ~uint16](r *Reader, list []T) []T {
	list = list[:0]
	body := r.Bytes()
	if r.err != nil || !r.nests() || len(body) == 0 {
		return list
	}
	if (len(body)+1)/2 > r.limits.Count {
		r.fail(fmt.Errorf("%w: more than %d elements in a vector", ErrLimit, r.limits.Count))
		return list
	}
	if len(body)%2 != 0 {
		r.fail(fmt.Errorf("%w: vector of %d bytes, elements of 2", ErrTruncated, len(body)))
		return list
	}
	list = slices.Grow(list, len(body)/2)
	for ; len(body) > 0; body = body[2:] {
		list = append(list, T(binary.BigEndian.Uint16(body)))
	}
	return list
}

// nests reports whether the depth limit allows one more nested vector.
func (r *Reader) nests() bool {
	if r.depth+1 > r.limits.Depth {
		r.fail(fmt.Errorf("%w: vectors nested more than %d deep", ErrLimit, r.limits.Depth))
		return false
	}
	return true
}

// Since returns the bytes that were read since an earlier Mark.
func (r *Reader) Since(mark []byte) []byte {
	if r.err != nil {
		return nil
	}
	n := len(mark) - len(r.rest)
	return mark[:n:n]
}

// Mark returns the present position, for Since.
func (r *Reader) Mark() []byte { return r.rest }

// Rest reads all remaining bytes.
func (r *Reader) Rest() []byte { return r.Fixed(len(r.rest)) }
