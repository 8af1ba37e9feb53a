package mlscore

import (
	"bytes"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// hexData is binary data in a file of test vectors. Optional data is a *hexData.
type hexData []byte

// UnmarshalText reads hexadecimal digits.
func (h *hexData) UnmarshalText(text []byte) error {
	b := make([]byte, hex.DecodedLen(len(text)))
	if _, err := hex.Decode(b, text); err != nil {
		return err
	}
	*h = b
	return nil
}

// MarshalText writes hexadecimal digits.
func (h hexData) MarshalText() ([]byte, error) {
	return hex.AppendEncode(nil, h), nil
}

// decodeVector decodes a case strictly: a missing field and an unknown field fail the case, since their values would
// not be checked.
func decodeVector(raw []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return &Error{Kind: ErrMalformed, Object: "case", Detail: "is not of the format", Err: err}
	}
	return completeJSON(raw, reflect.TypeOf(v).Elem(), "case")
}

// completeJSON refuses raw, which decoded as a t, if a field of t is missing.
func completeJSON(raw json.RawMessage, t reflect.Type, object string) error {
	null := string(bytes.TrimSpace(raw)) == "null"
	switch t.Kind() {
	case reflect.Pointer:
		if null {
			return nil
		}
		return completeJSON(raw, t.Elem(), object)
	case reflect.Slice:
		if null {
			break
		}
		if t.Elem().Kind() == reflect.Uint8 {
			return nil // hexData
		}
		var list []json.RawMessage
		if err := json.Unmarshal(raw, &list); err != nil {
			return malformed(object, err)
		}
		for i := range list {
			if err := completeJSON(list[i], t.Elem(), fmt.Sprintf("%s[%d]", object, i)); err != nil {
				return err
			}
		}
		return nil
	case reflect.Struct:
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(raw, &fields); err != nil {
			return malformed(object, err)
		}
		for i := range t.NumField() {
			name := t.Field(i).Tag.Get("json")
			value, ok := fields[name]
			if !ok {
				return fail(ErrMalformed, "", object, "lacks %q", name)
			}
			if err := completeJSON(value, t.Field(i).Type, object+"."+name); err != nil {
				return err
			}
		}
		return nil
	}
	if null {
		return fail(ErrMalformed, "", object, "is null")
	}
	return nil
}

// same compares a computed value with the one in a case.
func same(object string, got, want []byte) error {
	if subtle.ConstantTimeCompare(got, want) == 1 {
		return nil
	}
	return fail(ErrInvalid, "", object, "is %s, the vector says %s", shortHex(got), shortHex(want))
}

// shortHex formats bytes, shortened for a report.
func shortHex(b []byte) string {
	const most = 32
	if len(b) > most {
		return fmt.Sprintf("%x… (%d bytes)", b[:most], len(b))
	}
	return fmt.Sprintf("%x", b)
}

// sameNumber compares a computed number with the one in a case.
func sameNumber[T ~int | ~uint32 | ~uint64](object string, got, want T) error {
	if got == want {
		return nil
	}
	return fail(ErrInvalid, "", object, "is %d, the vector says %d", got, want)
}

// secretOf returns a secret of a case, which must have the length of the suite's hash.
func (s *suite) secretOf(object string, b []byte) (Secret, error) {
	if len(b) != s.hashLen() {
		return Secret{}, fail(ErrMalformed, "", object, "%d bytes, not %d", len(b), s.hashLen())
	}
	return NewSecret(b), nil
}

// privateKeyOf returns a private key of a case. The published vectors have some keys of P-521 without their leading
// zero byte, although their own rules and SerializePrivateKey require the full length.
func (s *suite) privateKeyOf(b []byte) []byte {
	_, dh := s.kem.(*dhKEM)
	if k, ok := s.signature.(*ecdsaScheme); ok && dh && len(b) < k.size {
		return append(make([]byte, k.size-len(b)), b...)
	}
	return b
}

// reencodes decodes all of data and compares data with the encoding of the result.
func reencodes[T any](object string, data []byte, decode func(*codec.Reader) T, encode func(T, *codec.Writer)) (T, error) {
	r := codec.NewReader(data, codec.DefaultLimits)
	v := decode(r)
	if err := r.Finish(); err != nil {
		return v, malformed(object, err)
	}
	var w codec.Writer
	encode(v, &w)
	b, err := w.Finish()
	if err != nil {
		return v, malformed(object, err)
	}
	return v, within(object, ErrInvalid, same("the second encoding", b, data))
}
