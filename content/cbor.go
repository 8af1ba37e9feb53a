package content

import (
	"bytes"
	"encoding/binary"
	"math"
	"unicode/utf8"
)

// Major types of CBOR (RFC 8949 §3.1).
const (
	majorUint   = 0
	majorNegint = 1
	majorBytes  = 2
	majorText   = 3
	majorArray  = 4
	majorMap    = 5
	majorTag    = 6
	majorSimple = 7
)

// The encodings of simple values that the format uses.
const (
	cborFalse = 0xf4
	cborTrue  = 0xf5
	cborNull  = 0xf6
)

// maxKeyNumber is the largest magnitude of an integer key (§6.2).
const maxKeyNumber = 1<<53 - 1

// Tags of bignums (RFC 8949 §3.4.3).
const (
	tagUnsignedBignum = 2
	tagNegativeBignum = 3
)

// A reader reads deterministic CBOR (RFC 8949 §4.2.1, §6.1) with the restrictions of §6.2. Each method reads forward
// once, and checks a length against the rest of the input before it allocates. Slices that it returns point into b.
type reader struct {
	b      []byte
	at     int
	limits Limits
	parts  int // parts read so far, and those that arrays of parts announce
}

// A head is the first part of an item: its type and the number that follows.
type head struct {
	major byte
	info  byte // the low five bits of the first byte
	arg   uint64
}

// head reads the head of an item and refuses a number that has a shorter form.
func (r *reader) head() (head, error) {
	start := r.at
	if start >= len(r.b) {
		return head{}, malformed(start, "the content ends within an item")
	}
	h := head{major: r.b[start] >> 5, info: r.b[start] & 31}
	r.at++
	switch {
	case h.info < 24:
		h.arg = uint64(h.info)
		return h, nil
	case h.info > 27:
		return h, malformed(start, "indefinite length, or reserved additional information: %d", h.info)
	}
	n := 1 << (h.info - 24)
	if len(r.b)-r.at < n {
		return h, malformed(start, "the content ends within an item")
	}
	var eight [8]byte
	copy(eight[8-n:], r.b[r.at:])
	h.arg = binary.BigEndian.Uint64(eight[:])
	r.at += n
	least := [...]uint64{24, 1 << 8, 1 << 16, 1 << 32}[h.info-24]
	if h.major == majorSimple {
		if n == 1 && h.arg < 32 {
			return h, malformed(start, "a simple value has a shorter encoding")
		}
		return h, nil // item checks the floating-point numbers
	}
	if h.arg < least {
		return h, malformed(start, "a number has a shorter encoding")
	}
	return h, nil
}

// want reads the head of an item of one type.
func (r *reader) want(major byte, what string) (head, error) {
	start := r.at
	h, err := r.head()
	if err == nil && h.major != major {
		err = malformed(start, "%s has CBOR type %d, wanted %d", what, h.major, major)
	}
	return h, err
}

// uint reads an unsigned integer of at most most.
func (r *reader) uint(most uint64, what string) (uint64, error) {
	start := r.at
	h, err := r.want(majorUint, what)
	if err == nil && h.arg > most {
		err = malformed(start, "%s is %d, at most %d", what, h.arg, most)
	}
	return h.arg, err
}

// array reads the head of an array and returns its length. Each element has at least one byte.
func (r *reader) array(what string) (int, error) {
	start := r.at
	h, err := r.want(majorArray, what)
	if err == nil && h.arg > uint64(len(r.b)-r.at) {
		err = malformed(start, "%s has %d elements, more than the content has bytes", what, h.arg)
	}
	if err != nil {
		return 0, err
	}
	return int(h.arg), nil
}

// string reads the content of a byte string or a text string whose head was read.
func (r *reader) string(h head, what string) ([]byte, error) {
	start := r.at
	if h.arg > uint64(len(r.b)-r.at) {
		return nil, malformed(start, "%s has %d bytes, more than the content", what, h.arg)
	}
	r.at += int(h.arg)
	s := r.b[start:r.at:r.at]
	if h.major == majorText && !utf8.Valid(s) {
		return nil, malformed(start, "%s is not UTF-8", what)
	}
	return s, nil
}

// bytes reads a byte string. It returns nil for an empty one.
func (r *reader) bytes(what string) ([]byte, error) {
	h, err := r.want(majorBytes, what)
	if err != nil {
		return nil, err
	}
	s, err := r.string(h, what)
	if len(s) == 0 {
		return nil, err
	}
	return s, err
}

// text reads a text string.
func (r *reader) text(what string) (string, error) {
	h, err := r.want(majorText, what)
	if err != nil {
		return "", err
	}
	s, err := r.string(h, what)
	return string(s), err
}

// null reports whether the next item is null, and reads it if so.
func (r *reader) null() bool {
	if r.at >= len(r.b) || r.b[r.at] != cborNull {
		return false
	}
	r.at++
	return true
}

// raw reads an item with at most levels levels of maps, arrays and tags, and returns its encoding.
func (r *reader) raw(levels int) (Raw, error) {
	start := r.at
	if err := r.item(levels); err != nil {
		return nil, err
	}
	return Raw(r.b[start:r.at:r.at]), nil
}

// item reads an item without a result.
func (r *reader) item(levels int) error {
	start := r.at
	h, err := r.head()
	if err != nil {
		return err
	}
	if (h.major == majorArray || h.major == majorMap || h.major == majorTag) && levels <= 0 {
		return exceeded("levels of maps, arrays and tags of an extension", MaxExtensionDepth+1, MaxExtensionDepth)
	}
	switch h.major {
	case majorBytes, majorText:
		_, err = r.string(h, "a string")
		return err
	case majorArray:
		if h.arg > uint64(len(r.b)-r.at) {
			return malformed(start, "an array has %d elements, more than the content has bytes", h.arg)
		}
		for range h.arg {
			if err := r.item(levels - 1); err != nil {
				return err
			}
		}
	case majorMap:
		return r.mapping(h, levels)
	case majorTag:
		if h.arg == tagUnsignedBignum || h.arg == tagNegativeBignum {
			return r.bignum()
		}
		return r.item(levels - 1)
	case majorSimple:
		if !shortest(h) {
			return malformed(start, "a floating-point number has a shorter encoding, or is a NaN other than f97e00")
		}
	}
	return nil
}

// mapping reads the pairs of a map whose head was read. Keys are integers, text strings or byte strings (§6.2), in the
// order of their encodings; so no key can repeat.
func (r *reader) mapping(h head, levels int) error {
	if h.arg > uint64(len(r.b)-r.at)/2 {
		return malformed(r.at, "a map has %d pairs, more than the content has bytes", h.arg)
	}
	var last []byte
	for i := range h.arg {
		key, err := r.key(last, i == 0)
		if err != nil {
			return err
		}
		last = key
		if err := r.item(levels - 1); err != nil {
			return err
		}
	}
	return nil
}

// key reads a map key and returns its encoding, which must be greater than last unless it is the first key.
func (r *reader) key(last []byte, first bool) ([]byte, error) {
	start := r.at
	h, err := r.head()
	if err != nil {
		return nil, err
	}
	switch h.major {
	case majorUint:
		if h.arg > maxKeyNumber {
			return nil, malformed(start, "an integer key of a map is above 2^53-1")
		}
	case majorNegint: // the number is -1-arg
		if h.arg > maxKeyNumber-1 {
			return nil, malformed(start, "an integer key of a map is below -(2^53-1)")
		}
	case majorBytes, majorText:
		if _, err := r.string(h, "a map key"); err != nil {
			return nil, err
		}
	default:
		return nil, malformed(start, "a map key has CBOR type %d, wanted an integer or a string", h.major)
	}
	key := r.b[start:r.at]
	if !first && bytes.Compare(last, key) >= 0 {
		return nil, malformed(start, "a map key repeats or is out of order")
	}
	return key, nil
}

// bignum reads the content of a bignum: an integer that fits 64 bits must not be one.
func (r *reader) bignum() error {
	start := r.at
	b, err := r.bytes("a bignum")
	if err != nil {
		return err
	}
	if len(b) <= 8 || b[0] == 0 {
		return malformed(start, "a bignum has a shorter encoding")
	}
	return nil
}

// shortest reports whether a simple value or a floating-point number has its shortest encoding, and no NaN but the
// half-width quiet NaN (§6.2). Typed arrays (tags 80 to 87), which may have other NaNs, hold them in a byte string.
func shortest(h head) bool {
	const (
		half    = 25
		single  = 26
		double  = 27
		halfNaN = 0x7e00
	)
	switch h.info {
	case half:
		nan := h.arg&0x7c00 == 0x7c00 && h.arg&0x03ff != 0
		return !nan || h.arg == halfNaN
	case single:
		return !fitsHalf(uint32(h.arg))
	case double:
		f := math.Float64frombits(h.arg)
		return !math.IsNaN(f) && float64(float32(f)) != f
	}
	return true
}

// fitsHalf reports whether a single-precision number is a NaN or has an exact half-precision encoding.
func fitsHalf(bits uint32) bool {
	exponent := int(bits>>23&0xff) - 127
	fraction := bits & 0x7fffff
	switch {
	case exponent == 128: // infinity or NaN
		return true
	case exponent == -127: // zero, or far below the range of half precision
		return fraction == 0
	case exponent >= -14 && exponent <= 15:
		return fraction&0x1fff == 0
	case exponent >= -24 && exponent < -14: // subnormal in half precision
		return fraction&(1<<(-1-exponent)-1) == 0
	}
	return false
}

// appendHead appends the head of an item in its shortest form.
func appendHead(b []byte, major byte, arg uint64) []byte {
	m := major << 5
	switch {
	case arg < 24:
		return append(b, m|byte(arg))
	case arg <= math.MaxUint8:
		return append(b, m|24, byte(arg))
	case arg <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, m|25), uint16(arg))
	case arg <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, m|26), uint32(arg))
	}
	return binary.BigEndian.AppendUint64(append(b, m|27), arg)
}

func appendBytes(b, s []byte) []byte {
	return append(appendHead(b, majorBytes, uint64(len(s))), s...)
}

func appendText(b []byte, s string) []byte {
	return append(appendHead(b, majorText, uint64(len(s))), s...)
}
