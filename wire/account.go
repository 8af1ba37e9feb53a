package wire

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// AccountID identifies the account of a person at an organization: 16 random bytes. The organization draws them when
// it creates the account, and again when it gives the name of a removed account to another person. A UserID is a
// name, and names are given again; an AccountID is not. The zero AccountID means that the account is not known:
// certificates of earlier releases hold none.
//
// A device certificate holds the AccountID as the serialNumber of its subject, 32 lower-case hexadecimal digits: the
// attribute that distinguishes holders with the same name (RFC 3739 §3.1.2).
type AccountID [16]byte

// String returns 32 hexadecimal digits, or "" for the zero AccountID.
func (a AccountID) String() string {
	if a == (AccountID{}) {
		return ""
	}
	return hex.EncodeToString(a[:])
}

// Same reports whether two certificates with the same name can belong to one account: the ids are equal, or one is
// not known.
func (a AccountID) Same(b AccountID) bool {
	return a == b || a == (AccountID{}) || b == (AccountID{})
}

// ParseAccountID parses the output of String, except "".
func ParseAccountID(s string) (AccountID, error) {
	var a AccountID
	if len(s) != 2*len(a) || strings.ToLower(s) != s {
		return AccountID{}, fmt.Errorf("account %.80q: wanted 32 hexadecimal digits in lower case", s)
	}
	if _, err := hex.Decode(a[:], []byte(s)); err != nil {
		return AccountID{}, fmt.Errorf("account %.80q: %w", s, err)
	}
	if a == (AccountID{}) {
		return a, errors.New("account of zeros")
	}
	return a, nil
}

// AccountOf returns the account in a device certificate, or zero if the certificate holds none. It verifies nothing.
func AccountOf(cert *x509.Certificate) AccountID {
	a, err := ParseAccountID(cert.Subject.SerialNumber)
	if err != nil {
		return AccountID{}
	}
	return a
}
