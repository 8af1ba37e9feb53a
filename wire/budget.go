package wire

import (
	"encoding/binary"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// The bound on the memory that decoding allocates for elements of arrays: a number of bytes for each byte of input,
// plus a constant. An array of empty elements is the cheapest to send: one byte for a structure of hundreds of bytes.
const (
	maxGrowth   = 16
	growthSlack = 16 << 10
)

// smallInput is the size of input below which nothing is checked: small input cannot cost much, and most messages are
// small.
const smallInput = 64

// costly caches for each type whether decoding it can allocate more than maxGrowth allows: whether it contains an
// array of anything but bytes.
var costly sync.Map // reflect.Type to bool

func isCostly(t reflect.Type) bool {
	if known, ok := costly.Load(t); ok {
		return known.(bool)
	}
	found := findCostly(t, map[reflect.Type]bool{})
	costly.Store(t, found)
	return found
}

func findCostly(t reflect.Type, seen map[reflect.Type]bool) bool {
	if seen[t] {
		return false
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Pointer, reflect.Array:
		return findCostly(t.Elem(), seen)
	case reflect.Slice, reflect.Map:
		return t.Elem().Kind() != reflect.Uint8
	case reflect.Struct:
		for i := range t.NumField() {
			if findCostly(t.Field(i).Type, seen) {
				return true
			}
		}
	}
	return false
}

// affordable reports whether decoding b into a type allocates no more for elements than the bound. It reads only the
// heads of data items. It leaves malformed input to the decoder, which rejects it before it allocates.
func affordable(b []byte, t reflect.Type) bool {
	if len(b) < smallInput || !isCostly(t) {
		return true
	}
	w := walker{rest: b, budget: maxGrowth*len(b) + growthSlack}
	w.value(t, 0)
	return w.budget >= 0
}

// walker walks through an encoding and the type that it is decoded into.
type walker struct {
	rest   []byte
	budget int  // bytes that may still be allocated; negative if the input costs too much or does not fit the type
	bad    bool // the decoder does not accept the input
}

// head reads the head of a data item (RFC 8949 §3).
func (w *walker) head() (major byte, n uint64) {
	if len(w.rest) == 0 {
		w.bad = true
		return 0, 0
	}
	first := w.rest[0]
	major, n = first>>5, uint64(first&0x1f)
	w.rest = w.rest[1:]
	size := 0
	switch {
	case n < 24:
		return major, n
	case n < 28:
		size = 1 << (n - 24)
	default:
		w.bad = true
		return 0, 0
	}
	if len(w.rest) < size {
		w.bad = true
		return 0, 0
	}
	var raw [8]byte
	copy(raw[8-size:], w.rest)
	w.rest = w.rest[size:]
	return major, binary.BigEndian.Uint64(raw[:])
}

var unmarshaler = reflect.TypeFor[cbor.Unmarshaler]()

// value skips one data item. t is nil if the item is not decoded into a known type.
func (w *walker) value(t reflect.Type, depth int) {
	if w.bad || w.budget < 0 {
		return
	}
	if depth > 2*maxDepth {
		w.bad = true
		return
	}
	optional := false
	for t != nil && t.Kind() == reflect.Pointer {
		t, optional = t.Elem(), depth > 0
		w.budget -= int(t.Size())
	}
	if t != nil && reflect.PointerTo(t).Implements(unmarshaler) {
		t = nil
	}
	major, n := w.head()
	if !w.bad && t != nil && !fits(t, optional, major, n) {
		w.budget = -1
		return
	}
	switch major {
	case 2, 3: // bytes, text
		if n > uint64(len(w.rest)) {
			w.bad = true
			return
		}
		w.rest = w.rest[n:]
	case 4:
		w.array(t, n, depth)
	case 5:
		w.pairs(t, n, depth)
	case 6: // a tag, which the decoder refuses
		w.bad = true
	}
}

// fits reports whether a data item with this head can be decoded into a type. For each item that does not fit, the
// decoder makes an error and continues: that would cost more than the item itself.
func fits(t reflect.Type, optional bool, major byte, n uint64) bool {
	switch t.Kind() {
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return major == 0 || optional && major == 7
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return major <= 1 || optional && major == 7
	case reflect.String:
		return major == 3 || optional && major == 7
	case reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return major == 2 && n == uint64(t.Len()) || optional && major == 7
		}
		return major == 4 || optional && major == 7
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return major == 2 || optional && major == 7
		}
		return major == 4 || optional && major == 7
	case reflect.Struct:
		f := fieldsOf(t)
		return !f.array && major == 5 || f.array && major == 4 && n == uint64(len(f.list)) || optional && major == 7
	case reflect.Map:
		return major == 5 || optional && major == 7
	}
	return true
}

func (w *walker) array(t reflect.Type, n uint64, depth int) {
	if n > uint64(len(w.rest)) {
		w.bad = true
		return
	}
	element := func(int) reflect.Type { return nil }
	switch {
	case t == nil:
	case t.Kind() == reflect.Slice:
		w.budget -= int(n) * int(t.Elem().Size())
		element = func(int) reflect.Type { return t.Elem() }
	case t.Kind() == reflect.Array:
		element = func(int) reflect.Type { return t.Elem() }
	case t.Kind() == reflect.Struct:
		fields := fieldsOf(t)
		element = func(i int) reflect.Type { return fields.at(i) }
	}
	for i := 0; i < int(n) && !w.bad && w.budget >= 0; i++ {
		w.value(element(i), depth+1)
	}
}

func (w *walker) pairs(t reflect.Type, n uint64, depth int) {
	if n > uint64(len(w.rest)) {
		w.bad = true
		return
	}
	var fields *fields
	if t != nil && t.Kind() == reflect.Struct {
		fields = fieldsOf(t)
	}
	for i := 0; i < int(n) && !w.bad && w.budget >= 0; i++ {
		var to reflect.Type
		switch {
		case fields != nil && len(w.rest) > 0 && w.rest[0]>>5 == 0:
			_, key := w.head()
			to = fields.byKey[key]
		case t != nil && t.Kind() == reflect.Map:
			w.budget -= int(t.Key().Size() + t.Elem().Size())
			to = t.Elem()
			w.value(t.Key(), depth+1)
		default:
			w.value(nil, depth+1)
		}
		w.value(to, depth+1)
	}
}

// fields holds the fields of a structure, by their key and by their position.
type fields struct {
	byKey map[uint64]reflect.Type
	list  []reflect.Type
	array bool // the structure is encoded as an array
}

func (f *fields) at(i int) reflect.Type {
	if i >= len(f.list) {
		return nil
	}
	return f.list[i]
}

var allFields sync.Map // reflect.Type to *fields

func fieldsOf(t reflect.Type) *fields {
	if known, ok := allFields.Load(t); ok {
		return known.(*fields)
	}
	f := &fields{byKey: make(map[uint64]reflect.Type)}
	collectFields(t, f)
	allFields.Store(t, f)
	return f
}

func collectFields(t reflect.Type, f *fields) {
	for i := range t.NumField() {
		field := t.Field(i)
		tag, options, _ := strings.Cut(field.Tag.Get("cbor"), ",")
		if field.Name == "_" && strings.Contains(options, "toarray") {
			f.array = true
		}
		if field.Anonymous && tag == "" && field.Type.Kind() == reflect.Struct {
			collectFields(field.Type, f) // the fields of an embedded structure belong to the outer one
			continue
		}
		if field.Name == "_" || tag == "-" || !field.IsExported() {
			continue
		}
		f.list = append(f.list, field.Type)
		if key, err := strconv.ParseUint(tag, 10, 64); err == nil {
			f.byKey[key] = field.Type
		}
	}
}
