package mlscore

import (
	"slices"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// ProtocolVersion is a version of MLS.
type ProtocolVersion uint16

// MLS10 is RFC 9420, the only version there is.
const MLS10 ProtocolVersion = 1

// ExtensionType is a code point of the "MLS Extension Types" registry (RFC 9420 §17.3).
type ExtensionType uint16

// The default extension types, which every client supports and no capabilities list (§7.2), and the
// one that marks a KeyPackage as last resort (mls-extensions).
const (
	ExtensionApplicationID        ExtensionType = 0x0001
	ExtensionRatchetTree          ExtensionType = 0x0002
	ExtensionRequiredCapabilities ExtensionType = 0x0003
	ExtensionExternalPub          ExtensionType = 0x0004
	ExtensionExternalSenders      ExtensionType = 0x0005
	ExtensionLastResort           ExtensionType = 0x000a
)

func (t ExtensionType) isDefault() bool {
	return t >= ExtensionApplicationID && t <= ExtensionExternalSenders
}

// Extension is one entry of a list of extensions.
type Extension struct {
	Type ExtensionType
	Data []byte
}

// Extensions is a list in which no type occurs twice (§13.4).
type Extensions []Extension

// Find returns the data of the extension of type t.
func (x Extensions) Find(t ExtensionType) ([]byte, bool) {
	for _, e := range x {
		if e.Type == t {
			return e.Data, true
		}
	}
	return nil, false
}

// With returns a copy of the list in which e replaces any extension of its type.
func (x Extensions) With(e Extension) Extensions {
	out := slices.Clone(x)
	for i := range out {
		if out[i].Type == e.Type {
			out[i] = e
			return out
		}
	}
	return append(out, e)
}

// Without returns a copy of the list that lacks type t.
func (x Extensions) Without(t ExtensionType) Extensions {
	return slices.DeleteFunc(slices.Clone(x), func(e Extension) bool { return e.Type == t })
}

// checkUnique refuses a type that occurs twice (§13.4).
func (x Extensions) checkUnique() error {
	if len(x) < 2 {
		return nil
	}
	types := make([]ExtensionType, len(x))
	for i, e := range x {
		types[i] = e.Type
	}
	slices.Sort(types)
	for i := 1; i < len(types); i++ {
		if types[i] == types[i-1] {
			return fail(ErrMalformed, "§13.4", "extensions", "type %#04x occurs twice in one list", uint16(types[i]))
		}
	}
	return nil
}

func (x Extensions) encode(w *codec.Writer) {
	w.Vector(func(w *codec.Writer) {
		for _, e := range x {
			w.Uint16(uint16(e.Type))
			w.Bytes(e.Data)
		}
	})
}

func decodeExtensions(r *codec.Reader) Extensions {
	var x Extensions
	r.Vector(func(r *codec.Reader) {
		x = append(x, Extension{ExtensionType(r.Uint16()), r.Bytes()})
	})
	if err := x.checkUnique(); err != nil {
		r.Fail(err)
	}
	return x
}

// RequiredCapabilities is the content of the required_capabilities extension (§11.1).
type RequiredCapabilities struct {
	Extensions  []ExtensionType
	Proposals   []ProposalType
	Credentials []CredentialType
}

// Extension encodes c as an extension.
func (c RequiredCapabilities) Extension() Extension {
	var w codec.Writer
	encodeCodes(&w, c.Extensions)
	encodeCodes(&w, c.Proposals)
	encodeCodes(&w, c.Credentials)
	return Extension{ExtensionRequiredCapabilities, w.Buffer()}
}

// parseRequiredCapabilities reads the extension's data.
func parseRequiredCapabilities(data []byte) (c RequiredCapabilities, err error) {
	r := codec.NewReader(data, codec.DefaultLimits)
	c.Extensions = decodeCodes[ExtensionType](r)
	c.Proposals = decodeCodes[ProposalType](r)
	c.Credentials = decodeCodes[CredentialType](r)
	return c, malformed("required_capabilities", r.Finish())
}

// RequiredCapabilities decodes the required_capabilities extension of a list; without the extension, nothing is
// required. It returns ErrMalformed if the data cannot be decoded.
func (x Extensions) RequiredCapabilities() (RequiredCapabilities, error) {
	data, ok := x.Find(ExtensionRequiredCapabilities)
	if !ok {
		return RequiredCapabilities{}, nil
	}
	return parseRequiredCapabilities(data)
}

// ExternalSender is a party outside the group that may send it proposals (§12.1.8.1).
type ExternalSender struct {
	SignatureKey []byte
	Credential   Credential
}

// ExternalSendersExtension encodes a list of external senders for the GroupContext.
func ExternalSendersExtension(senders []ExternalSender) (Extension, error) {
	var w codec.Writer
	w.Vector(func(w *codec.Writer) {
		for _, s := range senders {
			w.Bytes(s.SignatureKey)
			s.Credential.encode(w)
		}
	})
	data, err := w.Finish()
	return Extension{ExtensionExternalSenders, data}, malformed("external_senders", err)
}

// ExternalSenders decodes the external_senders extension of a list, which numbers its senders from 0; without the
// extension, the result is empty. It returns ErrMalformed if the data cannot be decoded.
func (x Extensions) ExternalSenders() ([]ExternalSender, error) {
	data, ok := x.Find(ExtensionExternalSenders)
	if !ok {
		return nil, nil
	}
	var senders []ExternalSender
	r := codec.NewReader(data, codec.DefaultLimits)
	r.Vector(func(r *codec.Reader) {
		senders = append(senders, ExternalSender{r.Bytes(), decodeCredential(r)})
	})
	return senders, malformed("external_senders", r.Finish())
}

// encodeCodes writes a vector of 16-bit code points.
func encodeCodes[T ~uint16](w *codec.Writer, codes []T) {
	w.Varint(2 * len(codes))
	for _, c := range codes {
		w.Uint16(uint16(c))
	}
}

func decodeCodes[T ~uint16](r *codec.Reader) []T {
	return codec.Uint16Vector[T](r, nil)
}

// isGREASE reports whether a code point is one of those reserved by §13.5.
func isGREASE(code uint16) bool {
	return code&0x0f0f == 0x0a0a && code>>8 == code&0xff && code != 0xfafa
}

// equal reports whether two lists are equal, order included.
func (x Extensions) equal(o Extensions) bool {
	return slices.EqualFunc(x, o, func(a, b Extension) bool {
		return a.Type == b.Type && string(a.Data) == string(b.Data)
	})
}
