package wire

import (
	"bytes"
	"fmt"
	"reflect"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// MaxElements is the largest number of elements in one array: the addresses of a delivery list.
const MaxElements = 131072

// MaxFrame is the default limit of one frame between nodes or from a client, in bytes.
const MaxFrame = 1 << 20

// MaxEntry is the default limit of one log entry, in bytes. What is larger travels as a blob.
const MaxEntry = 1 << 20

// maxDepth is how deep arrays and maps nest. The deepest value, an entry with the change of a
// delivery list in a bundle, needs six.
const maxDepth = 8

var encMode = mustEnc()

var decMode = mustDec()

func mustEnc() cbor.UserBufferEncMode {
	opts := cbor.CoreDetEncOptions()
	opts.TagsMd = cbor.TagsForbidden
	opts.NilContainers = cbor.NilContainerAsEmpty
	mode, err := opts.UserBufferEncMode()
	if err != nil {
		panic(err) // the options are constants: a test would have met it
	}
	return mode
}

func mustDec() cbor.DecMode {
	mode, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxArrayElements:  MaxElements,
		MaxMapPairs:       16,
		MaxNestedLevels:   maxDepth,
		UTF8:              cbor.UTF8RejectInvalid,
		NaN:               cbor.NaNDecodeForbidden,
		Inf:               cbor.InfDecodeForbidden,
	}.DecMode()
	if err != nil {
		panic(err) // as above
	}
	return mode
}

// Checker is a value with rules that its encoding cannot express.
type Checker interface{ Check() error }

// Encode writes v in the one encoding that Decode accepts. It does not check v: who makes a value does.
func Encode(v any) ([]byte, error) {
	b, err := encMode.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return b, nil
}

// scratch has buffers for encodings that are only looked at.
var scratch = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// maxScratch is the largest buffer that is kept for another use, in bytes: a frame with what stands around
// it, so that a stream of large frames makes no garbage.
const maxScratch = MaxFrame + 128<<10

// look shows fn the encoding of v after a prefix. fn must not keep the bytes.
func look(prefix string, v any, fn func(b []byte)) error {
	buf, ok := scratch.Get().(*bytes.Buffer)
	if !ok {
		buf = new(bytes.Buffer)
	}
	buf.Reset()
	buf.WriteString(prefix)
	err := encMode.MarshalToBuffer(v, buf)
	if err != nil {
		err = fmt.Errorf("encode %T: %w", v, err)
	} else {
		fn(buf.Bytes())
	}
	if buf.Cap() <= maxScratch {
		scratch.Put(buf)
	}
	return err
}

// Size is the length of what Encode would write, in bytes.
func Size(v any) (n int, err error) {
	err = look("", v, func(b []byte) { n = len(b) })
	return n, err
}

// Decode reads into v, a pointer, at most limit bytes and all of b. It refuses with TooLarge what
// exceeds the limit and with Malformed what Encode would not have written. If v is a Checker, its
// rules hold afterwards.
func Decode(b []byte, limit int, v any) error {
	if len(b) > limit {
		return Errorf(TooLarge, "decode", "%T of %d bytes, at most %d", v, len(b), limit)
	}
	if !affordable(b, reflect.TypeOf(v)) {
		return Errorf(Malformed, "decode", "%T: %d bytes with elements of another type, or with too many for their size", v, len(b))
	}
	if err := decMode.Unmarshal(b, v); err != nil {
		return Errorf(Malformed, "decode", "%T: %v", v, err)
	}
	same := false
	if err := look("", v, func(again []byte) { same = bytes.Equal(again, b) }); err != nil {
		return Errorf(Malformed, "decode", "%T: %v", v, err)
	}
	if !same {
		return Errorf(Malformed, "decode", "%T: not in the deterministic encoding", v)
	}
	if c, ok := v.(Checker); ok {
		return c.Check()
	}
	return nil
}
