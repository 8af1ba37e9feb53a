package mlscore

import (
	"crypto/subtle"
	"fmt"
	"io"
)

// Secret holds key material. It prints nothing, whatever struct holds it and whatever verb prints
// that: the bytes stand behind two pointers. fmt follows one at most, and that one only where a verb
// is bad and it begins anew at the field. Two Secrets are compared with Equal, in constant time; ==
// compares identities.
//
// The zero Secret is empty.
type Secret struct{ p **[]byte }

// NewSecret copies b. The caller may erase its own copy.
func NewSecret(b []byte) Secret {
	return ownSecret(append([]byte(nil), b...))
}

// ownSecret takes b over without a copy.
func ownSecret(b []byte) Secret {
	s := &struct { // one allocation for both pointers
		p *[]byte
		b []byte
	}{b: b}
	s.p = &s.b
	return Secret{&s.p}
}

// Bytes gives the key material itself, not a copy: it is zeroed when the Secret is erased. Do not
// log it.
func (s Secret) Bytes() []byte {
	if s.p == nil {
		return nil
	}
	return **s.p
}

// Len is the number of bytes.
func (s Secret) Len() int { return len(s.Bytes()) }

// Equal compares in constant time; lengths are not hidden.
func (s Secret) Equal(o Secret) bool { return subtle.ConstantTimeCompare(s.Bytes(), o.Bytes()) == 1 }

// Clone copies, so that the original can be erased.
func (s Secret) Clone() Secret {
	if s.p == nil {
		return Secret{}
	}
	return NewSecret(**s.p)
}

// Erase zeroes the bytes. Every copy of this Secret value sees them zeroed; copies that the garbage
// collector or an encoding made are out of reach.
func (s Secret) Erase() {
	if s.p != nil {
		clear(**s.p)
		**s.p = nil
	}
}

// Format keeps every verb of fmt from printing the bytes.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "secret") }

// MarshalText keeps encoders of text from writing the bytes.
func (s Secret) MarshalText() ([]byte, error) { return []byte("secret"), nil }

// eraseAll erases a number of Secrets.
func eraseAll(secrets ...Secret) {
	for _, s := range secrets {
		s.Erase()
	}
}
