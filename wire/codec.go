package wire

import (
	"bytes"
	"fmt"
	"reflect"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// MaxElements bounds the elements of one array: the addresses of a delivery list.
const MaxElements = 131072

// MaxFrame is the default limit of one frame between nodes or from a client, in bytes.
const MaxFrame = 1 << 20

// MaxEntry is the default limit of one log entry, in bytes. Larger content travels as a blob.
const MaxEntry = 1 << 20

// maxDepth bounds the nesting of arrays and maps. The deepest value, an entry with the change of a delivery list in a
// bundle, needs six levels.
const maxDepth = 8

var encMode = mustEnc()

var decMode = mustDec()

func mustEnc() cbor.UserBufferEncMode {
	opts := cbor.CoreDetEncOptions()
	opts.TagsMd = cbor.TagsForbidden
	opts.NilContainers = cbor.NilContainerAsEmpty
	mode, err := opts.UserBufferEncMode()
	if err != nil {
		panic(err) // the options are constants: a test would have found the error
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

// Checker is implemented by values with rules that their encoding cannot express.
type Checker interface{ Check() error }

// Encode encodes v in the one form that Decode accepts. It does not check v: the maker of a value does.
func Encode(v any) ([]byte, error) {
	b, err := encMode.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return b, nil
}

// scratch holds buffers for encodings that are only inspected.
var scratch = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// maxScratch is the largest buffer that is kept for reuse, in bytes: a frame with its framing, so that a stream of
// large frames makes no garbage.
const maxScratch = MaxFrame + 128<<10

// look calls fn with the encoding of v after a prefix. fn must not keep the bytes.
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

// Size returns the length of the encoding of v, in bytes.
func Size(v any) (n int, err error) {
	err = look("", v, func(b []byte) { n = len(b) })
	return n, err
}

// Decode decodes b into v, a pointer. It returns TooLarge if b has more than limit bytes, and Malformed if Encode
// would not have written all of b. If v is a Checker, its rules hold afterwards.
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
