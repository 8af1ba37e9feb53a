package client

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"strings"

	"github.com/mlsfed/mlsfed/wire"
)

// compactScheme begins a compact invitation. All characters of the scheme and of base32 are in the alphanumeric mode
// of QR codes, in which a character takes 5.5 bits.
const compactScheme = "MLSFED:"

// The first byte of a compact invitation gives the kind of its code: a code of an operator, or one to which another
// device has added data.
const (
	compactPlain   = 1
	compactCarries = 2
)

// Sizes of the parts of a code, in bytes: the part for the node, and the part that another device has added.
const (
	codeSize    = 16
	carriedSize = offerSize + sha256.Size
)

// compactDomain replaces the domain in the host of a compact invitation; no host contains this character.
const compactDomain = "~"

// base32 without padding, as codes are written.
var compactEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// Compact returns the invitation in fewer and simpler characters than String, for a QR code; ParseInvitation reads it
// too. It returns false for an invitation without a root, or with a code in another notation than the one that nodes
// use.
//
//	MLSFED: and in base32: 1, or 2 for a code that carries something of another device; each after its length in a
//	byte: host with ~ for the domain, domain, user; root, 32 bytes; code, 16 bytes; what it carries, 48 bytes
func (i Invitation) Compact() (string, bool) {
	text, rest, carried := strings.Cut(i.Code, "~")
	code, err := compactEncoding.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(code) != codeSize || !i.Pinned() {
		return "", false
	}
	b := []byte{compactPlain}
	if carried {
		b[0] = compactCarries
	}
	for _, s := range []string{strings.Replace(i.Host, string(i.Domain), compactDomain, 1), string(i.Domain), i.User} {
		if len(s) > 0xff {
			return "", false
		}
		b = append(append(b, byte(len(s))), s...)
	}
	b = append(append(b, i.Root[:]...), code...)
	if carried {
		more, err := base64.RawURLEncoding.Strict().DecodeString(rest)
		if err != nil || len(more) != carriedSize {
			return "", false
		}
		b = append(b, more...)
	}
	s := compactScheme + compactEncoding.EncodeToString(b)
	if back, err := parseCompact(s); err != nil || back != i {
		return "", false // the code has another notation, for example no dashes
	}
	return s, true
}

// parseCompact parses the output of Compact.
func parseCompact(s string) (Invitation, error) {
	b, err := compactEncoding.DecodeString(s[len(compactScheme):])
	if err != nil || compactEncoding.EncodeToString(b) != s[len(compactScheme):] {
		return Invitation{}, badInvitation("it is not in base32")
	}
	if len(b) == 0 || b[0] != compactPlain && b[0] != compactCarries {
		return Invitation{}, badInvitation("it is of another version than this mlsfed")
	}
	rest := len(wire.Hash{}) + codeSize
	if b[0] == compactCarries {
		rest += carriedSize
	}
	b = b[1:]
	var parts [3]string
	for n := range parts {
		if len(b) == 0 || len(b)-1 < int(b[0]) {
			return Invitation{}, badInvitation("it is cut off")
		}
		end := 1 + int(b[0])
		parts[n], b = string(b[1:end]), b[end:]
	}
	i := Invitation{Host: strings.Replace(parts[0], compactDomain, parts[1], 1), Domain: wire.Domain(parts[1]), User: parts[2]}
	if len(b) != rest {
		return Invitation{}, badInvitation("it is cut off")
	}
	i.Root, b = wire.Hash(b[:len(i.Root)]), b[len(i.Root):]
	i.Code = inFours(compactEncoding.EncodeToString(b[:codeSize]))
	if b = b[codeSize:]; len(b) > 0 {
		i.Code += "~" + base64.RawURLEncoding.EncodeToString(b)
	}
	// The rules of the long form apply to each part.
	if back, err := ParseInvitation(i.String()); err != nil || back != i {
		return Invitation{}, badInvitation("a part of it is not as it must be")
	}
	return i, nil
}

// inFours groups a code in fours, as nodes write it.
func inFours(s string) string {
	var parts []string
	for len(s) > 4 {
		parts, s = append(parts, s[:4]), s[4:]
	}
	return strings.Join(append(parts, s), "-")
}
