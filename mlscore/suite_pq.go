package mlscore

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The cipher suites of draft-ietf-mls-pq-ciphersuites-06, in its order. It leaves their numbers to be
// assigned; until then they are numbers that RFC 9420 §17.1 reserves for private use, and these stay
// beside those that are assigned later: see docs/suites.md.
//
// Only the last three resist a quantum computer in all respects. The others do so for what is kept
// secret, and sign as the suites of RFC 9420 do.
const (
	MLS128MLKEM768X25519AES128Ed25519   CipherSuite = 0xf001
	MLS128MLKEM768X25519AES256Ed25519   CipherSuite = 0xf002
	MLS128MLKEM768P256AES128P256        CipherSuite = 0xf003
	MLS128MLKEM768P256AES256P256        CipherSuite = 0xf004
	MLS192MLKEM1024P384AES256P384       CipherSuite = 0xf005
	MLS128MLKEM768AES256Ed25519         CipherSuite = 0xf006
	MLS128MLKEM768AES256P256            CipherSuite = 0xf007
	MLS192MLKEM1024AES256P384           CipherSuite = 0xf008
	MLS128MLKEM768X25519ChaCha20MLDSA44 CipherSuite = 0xf009
	MLS192MLKEM768AES256MLDSA65         CipherSuite = 0xf00a
	MLS256MLKEM1024AES256MLDSA87        CipherSuite = 0xf00b
)

// draftSuites is the draft's table, ascending by number.
var draftSuites = []*suite{
	{0xf001, "MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519", kemMLKEM768X25519, hkdfSHA256, aes128GCM, ed25519Scheme{}},
	{0xf002, "MLS_128_MLKEM768X25519_AES256GCM_SHA384_Ed25519", kemMLKEM768X25519, hkdfSHA384, aes256GCM, ed25519Scheme{}},
	{0xf003, "MLS_128_MLKEM768P256_AES128GCM_SHA256_P256", kemMLKEM768P256, hkdfSHA256, aes128GCM, ecdsaP256},
	{0xf004, "MLS_128_MLKEM768P256_AES256GCM_SHA384_P256", kemMLKEM768P256, hkdfSHA384, aes256GCM, ecdsaP256},
	{0xf005, "MLS_192_MLKEM1024P384_AES256GCM_SHA384_P384", kemMLKEM1024P384, hkdfSHA384, aes256GCM, ecdsaP384},
	{0xf006, "MLS_128_MLKEM768_AES256GCM_SHA384_Ed25519", kemMLKEM768, hkdfSHA384, aes256GCM, ed25519Scheme{}},
	{0xf007, "MLS_128_MLKEM768_AES256GCM_SHA384_P256", kemMLKEM768, hkdfSHA384, aes256GCM, ecdsaP256},
	{0xf008, "MLS_192_MLKEM1024_AES256GCM_SHA384_P384", kemMLKEM1024, hkdfSHA384, aes256GCM, ecdsaP384},
	{0xf009, "MLS_128_MLKEM768X25519_CHACHA20POLY1305_SHA384_MLDSA44", kemMLKEM768X25519, hkdfSHA384, chaCha20Poly1305, mlDSA44},
	{0xf00a, "MLS_192_MLKEM768_AES256GCM_SHA384_MLDSA65", kemMLKEM768, hkdfSHA384, aes256GCM, mlDSA65},
	{0xf00b, "MLS_256_MLKEM1024_AES256GCM_SHA384_MLDSA87", kemMLKEM1024, hkdfSHA384, aes256GCM, mlDSA87},
}

// codePoints holds further numbers for the draft's suites, as a list like
//
//	MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519=0x0123,MLS_128_MLKEM768P256_AES128GCM_SHA256_P256=0x0124
//
// It is set when a program is linked, and by nothing else, so that all parts of the program agree:
//
//	go build -ldflags "-X github.com/mlsfed/mlsfed/mlscore.codePoints=NAME=NUMBER,…"
//
// A list that is wrong ends the program as it starts.
var codePoints string

// pqSuites are draftSuites and the same under the numbers of this build, ascending.
var pqSuites = mustAssign(codePoints)

func mustAssign(list string) []*suite {
	all, err := assigned(list)
	if err != nil {
		panic(err)
	}
	return all
}

// assigned adds further numbers to the draft's suites. The old ones stay, because stored groups and the
// members of other builds know them: to MLS, one algorithm under two numbers is two cipher suites, and a
// group gets from one to the other by a ReInit.
func assigned(list string) ([]*suite, error) {
	all := slices.Clone(draftSuites)
	for _, item := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
		name, number, _ := strings.Cut(item, "=")
		at := slices.IndexFunc(draftSuites, func(s *suite) bool { return s.name == name })
		if at < 0 {
			return nil, fail(ErrUnsupported, "", "code points", "%q is no cipher suite of the draft", name)
		}
		n, err := strconv.ParseUint(number, 0, 16)
		if err != nil {
			return nil, fail(ErrMisuse, "§17.1", "code points", "%s has %q for a number, from 1 to 0xffff", name, number)
		}
		again := *draftSuites[at]
		again.id = CipherSuite(n)
		if err := free(again.id, all); err != nil {
			return nil, err
		}
		all = append(all, &again)
	}
	return ascending(all), nil
}

// free refuses a number that stands for something else.
func free(id CipherSuite, taken []*suite) error {
	for _, s := range slices.Concat(rfcSuites, taken) {
		if s.id == id {
			return fail(ErrMisuse, "§17.1", "code points", "%#04x is %s already", uint16(id), s.name)
		}
	}
	if id == 0 || isGREASE(uint16(id)) {
		return fail(ErrMisuse, "§17.1", "code points", "%#04x is reserved", uint16(id))
	}
	return nil
}

// PostQuantumSuites gives the supported cipher suites of draft-ietf-mls-pq-ciphersuites, ascending: all
// eleven, and those that have a further number twice. The slice is the caller's.
func PostQuantumSuites() []CipherSuite { return idsOf(pqSuites) }

// ParseCipherSuite finds a cipher suite by its name in RFC 9420 or the draft, or by its number in
// decimal or, after 0x, hexadecimal digits. A name that has several numbers gets the lowest, which is
// the one that was assigned. ErrUnsupported if there is none.
func ParseCipherSuite(text string) (CipherSuite, error) {
	n, err := strconv.ParseUint(text, 0, 16)
	for _, s := range suites {
		if s.name == text || err == nil && s.id == CipherSuite(n) {
			return s.id, nil
		}
	}
	return 0, fail(ErrUnsupported, "§17.1", fmt.Sprintf("%.80q", text), "not a cipher suite of this implementation")
}
