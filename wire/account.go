package wire

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// AccountID names the account of a person at an organization: 16 random bytes that the organization draws when it makes
// the account, and again when it gives the name of a removed account to somebody. A UserID is a name, and names are
// given again; an AccountID is not. The zero AccountID stands for one that is not known: certificates of earlier
// releases hold none.
//
// A device certificate holds it as the serialNumber of its subject, 32 lower-case hexadecimal digits: the attribute
// that distinguishes holders whose names are the same (RFC 3739 §3.1.2).
type AccountID [16]byte

// String is 32 hexadecimal digits, "" for the zero AccountID.
func (a AccountID) String() string {
	if a == (AccountID{}) {
		return ""
	}
	return hex.EncodeToString(a[:])
}

// Same reports whether two certificates of one name can be of one account: the ids are equal, or one is not known.
func (a AccountID) Same(b AccountID) bool {
	return a == b || a == (AccountID{}) || b == (AccountID{})
}

// ParseAccountID reads what String writes, except "".
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

// AccountOf reads the account of a device certificate; zero if it holds none. It verifies nothing.
func AccountOf(cert *x509.Certificate) AccountID {
	a, err := ParseAccountID(cert.Subject.SerialNumber)
	if err != nil {
		return AccountID{}
	}
	return a
}
