package mlscore

import (
	"crypto/subtle"
	"fmt"
	"io"
)

// Secret holds key material. No verb of fmt prints the material, even as a field of another struct: the bytes are
// behind two pointers. fmt follows at most one pointer, and only for a bad verb, for which it prints the field again.
// Equal compares two Secrets in constant time; == compares identities.
//
// The zero Secret is empty.
type Secret struct{ p **[]byte }

// NewSecret copies b. The caller may erase its own copy.
func NewSecret(b []byte) Secret {
	return ownSecret(append([]byte(nil), b...))
}

// ownSecret takes ownership of b without a copy.
func ownSecret(b []byte) Secret {
	s := &struct { // one allocation for both pointers
		p *[]byte
		b []byte
	}{b: b}
	s.p = &s.b
	return Secret{&s.p}
}

// Bytes returns the key material itself, not a copy: it is zeroed when the Secret is erased. Do not log it.
func (s Secret) Bytes() []byte {
	if s.p == nil {
		return nil
	}
	return **s.p
}

// Len returns the number of bytes.
func (s Secret) Len() int { return len(s.Bytes()) }

// Equal reports whether two Secrets are equal, in constant time; lengths are not hidden.
func (s Secret) Equal(o Secret) bool { return subtle.ConstantTimeCompare(s.Bytes(), o.Bytes()) == 1 }

// Clone returns a copy, so that the original can be erased.
func (s Secret) Clone() Secret {
	if s.p == nil {
		return Secret{}
	}
	return NewSecret(**s.p)
}

// Erase zeroes the bytes, also for every copy of this Secret value. It cannot reach copies that the garbage collector
// or an encoding made.
func (s Secret) Erase() {
	if s.p != nil {
		clear(**s.p)
		**s.p = nil
	}
}

// Format prevents every verb of fmt from printing the bytes.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "secret") }

// MarshalText prevents text encoders from writing the bytes.
func (s Secret) MarshalText() ([]byte, error) { return []byte("secret"), nil }

// eraseAll erases several Secrets.
func eraseAll(secrets ...Secret) {
	for _, s := range secrets {
		s.Erase()
	}
}
