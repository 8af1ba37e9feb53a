package mlscore

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// The cipher suites of draft-ietf-mls-pq-ciphersuites, in the order of the draft. The draft does not assign numbers
// yet. Until then the numbers are from the range that RFC 9420 §17.1 reserves for private use, chosen at random so
// that no two implementations use one number for different algorithms: see docs/spec/suites.md.
//
// Only the last three resist a quantum computer in all respects. The others resist it only for confidentiality: their
// signatures are those of the suites of RFC 9420.
const (
	MLS128MLKEM768X25519AES128Ed25519   CipherSuite = 0xf42f
	MLS128MLKEM768X25519AES256Ed25519   CipherSuite = 0xfac5
	MLS128MLKEM768P256AES128P256        CipherSuite = 0xf919
	MLS128MLKEM768P256AES256P256        CipherSuite = 0xf75c
	MLS192MLKEM1024P384AES256P384       CipherSuite = 0xf2ee
	MLS128MLKEM768AES256Ed25519         CipherSuite = 0xfaaf
	MLS128MLKEM768AES256P256            CipherSuite = 0xfeb6
	MLS192MLKEM1024AES256P384           CipherSuite = 0xfcf7
	MLS128MLKEM768X25519ChaCha20MLDSA44 CipherSuite = 0xfe40
	MLS192MLKEM768AES256MLDSA65         CipherSuite = 0xf723
	MLS256MLKEM1024AES256MLDSA87        CipherSuite = 0xfd11
)

// draftSuite is a row of the draft's table.
type draftSuite struct {
	number  CipherSuite // of new groups
	earlier CipherSuite // of groups that earlier releases founded
	draft   string      // the version that the row follows
	suite
}

// draftRows is the draft's table. Key pairs are derived by the KEM, which is a part of the row.
var draftRows = []draftSuite{
	{number: MLS128MLKEM768X25519AES128Ed25519, earlier: 0xf001, draft: draft06, suite: suite{
		name: "MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519", kem: kemMLKEM768X25519, kdf: hkdfSHA256, aead: aes128GCM, signature: ed25519Scheme{},
	}},
	{number: MLS128MLKEM768X25519AES256Ed25519, earlier: 0xf002, draft: draft06, suite: suite{
		name: "MLS_128_MLKEM768X25519_AES256GCM_SHA384_Ed25519", kem: kemMLKEM768X25519, kdf: hkdfSHA384, aead: aes256GCM, signature: ed25519Scheme{},
	}},
	{number: MLS128MLKEM768P256AES128P256, earlier: 0xf003, draft: draft06, suite: suite{
		name: "MLS_128_MLKEM768P256_AES128GCM_SHA256_P256", kem: kemMLKEM768P256, kdf: hkdfSHA256, aead: aes128GCM, signature: ecdsaP256,
	}},
	{number: MLS128MLKEM768P256AES256P256, earlier: 0xf004, draft: draft06, suite: suite{
		name: "MLS_128_MLKEM768P256_AES256GCM_SHA384_P256", kem: kemMLKEM768P256, kdf: hkdfSHA384, aead: aes256GCM, signature: ecdsaP256,
	}},
	{number: MLS192MLKEM1024P384AES256P384, earlier: 0xf005, draft: draft06, suite: suite{
		name: "MLS_192_MLKEM1024P384_AES256GCM_SHA384_P384", kem: kemMLKEM1024P384, kdf: hkdfSHA384, aead: aes256GCM, signature: ecdsaP384,
	}},
	{number: MLS128MLKEM768AES256Ed25519, earlier: 0xf006, draft: draft06, suite: suite{
		name: "MLS_128_MLKEM768_AES256GCM_SHA384_Ed25519", kem: kemMLKEM768, kdf: hkdfSHA384, aead: aes256GCM, signature: ed25519Scheme{},
	}},
	{number: MLS128MLKEM768AES256P256, earlier: 0xf007, draft: draft06, suite: suite{
		name: "MLS_128_MLKEM768_AES256GCM_SHA384_P256", kem: kemMLKEM768, kdf: hkdfSHA384, aead: aes256GCM, signature: ecdsaP256,
	}},
	{number: MLS192MLKEM1024AES256P384, earlier: 0xf008, draft: draft06, suite: suite{
		name: "MLS_192_MLKEM1024_AES256GCM_SHA384_P384", kem: kemMLKEM1024, kdf: hkdfSHA384, aead: aes256GCM, signature: ecdsaP384,
	}},
	{number: MLS128MLKEM768X25519ChaCha20MLDSA44, earlier: 0xf009, draft: draft06, suite: suite{
		name: "MLS_128_MLKEM768X25519_CHACHA20POLY1305_SHA384_MLDSA44", kem: kemMLKEM768X25519, kdf: hkdfSHA384, aead: chaCha20Poly1305, signature: mlDSA44,
	}},
	{number: MLS192MLKEM768AES256MLDSA65, earlier: 0xf00a, draft: draft06, suite: suite{
		name: "MLS_192_MLKEM768_AES256GCM_SHA384_MLDSA65", kem: kemMLKEM768, kdf: hkdfSHA384, aead: aes256GCM, signature: mlDSA65,
	}},
	{number: MLS256MLKEM1024AES256MLDSA87, earlier: 0xf00b, draft: draft06, suite: suite{
		name: "MLS_256_MLKEM1024_AES256GCM_SHA384_MLDSA87", kem: kemMLKEM1024, kdf: hkdfSHA384, aead: aes256GCM, signature: mlDSA87,
	}},
}

const draft06 = "draft-ietf-mls-pq-ciphersuites-06"

// under returns the row's suite with a number.
func (d *draftSuite) under(id CipherSuite) *suite {
	s := d.suite
	s.id = id
	return &s
}

// olderSuffix is appended to the name of a suite to name its variant with the key derivation of older drafts.
const olderSuffix = "/older"

// older returns the variant of a row with X-Wing whose key pairs come from SHAKE256 without labels, as in
// draft-connolly-cfrg-xwing-kem-06 and in libraries that have not adopted draft-ietf-hpke-pq. It returns nil for
// other rows, for which no such derivation is in use.
func (d *draftSuite) older() *draftSuite {
	if d.kem != kem(kemMLKEM768X25519) {
		return nil
	}
	o := *d
	o.name += olderSuffix
	o.kem = kemXWing06
	return &o
}

// codePoints is a list of numbers for the draft's suites that replace the numbers in the table, like
//
//	MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519=0x0123,MLS_128_MLKEM768P256_AES128GCM_SHA256_P256/older=0x0124
//
// A name with "/older" is the suite with the key derivation of older drafts, a separate suite. codePoints can be set
// only when a program is linked, so that all parts of the program agree:
//
//	go build -ldflags "-X github.com/mlsfed/mlsfed/mlscore.codePoints=NAME=NUMBER,…"
//
// A wrong list ends the program at its start.
var codePoints string

// draftNumbers are the draft's suites with the numbers of this build.
type draftNumbers struct {
	all   []*suite // ascending, those of earlier releases included
	fresh []*suite // ascending, those of new groups
}

var pqSuites = mustAssign(codePoints)

func mustAssign(list string) draftNumbers {
	n, err := assigned(list)
	if err != nil {
		panic(err)
	}
	return n
}

// assigned applies a list of numbers to the draft's table. A number in the list replaces an entry that has this
// number, and becomes the suite's number for new groups. The suite's other numbers stay valid, because stored groups
// and the members of other builds use them. For MLS, one algorithm with two numbers is two cipher suites, and a group
// changes from one to the other by a ReInit.
func assigned(list string) (n draftNumbers, err error) {
	given := map[CipherSuite]*suite{}
	fresh := map[string]*suite{}
	for _, item := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
		name, number, _ := strings.Cut(item, "=")
		row := rowOf(name)
		if row == nil {
			return n, fail(ErrUnsupported, "", "code points", "%q is no cipher suite of the draft", name)
		}
		v, err := strconv.ParseUint(number, 0, 16)
		if err != nil {
			return n, fail(ErrMisuse, "§17.1", "code points", "%s has %q for a number, from 1 to 0xffff", name, number)
		}
		s := row.under(CipherSuite(v))
		if err := free(s.id, given); err != nil {
			return n, err
		}
		given[s.id], fresh[name] = s, s
	}
	for at := range draftRows {
		row := &draftRows[at]
		for _, id := range []CipherSuite{row.number, row.earlier} {
			if given[id] == nil {
				n.all = append(n.all, row.under(id))
			}
		}
		if fresh[row.name] == nil && given[row.number] == nil {
			fresh[row.name] = row.under(row.number)
		}
	}
	n.all = ascending(n.all, slices.Collect(maps.Values(given)))
	n.fresh = ascending(slices.Collect(maps.Values(fresh)))
	return n, nil
}

// rowOf returns the row of the table with a name, or its older variant; nil if there is none.
func rowOf(name string) *draftSuite {
	base, older := strings.CutSuffix(name, olderSuffix)
	at := slices.IndexFunc(draftRows, func(d draftSuite) bool { return d.name == base })
	switch {
	case at < 0:
		return nil
	case older:
		return draftRows[at].older()
	}
	return &draftRows[at]
}

// free refuses a number that is reserved, that RFC 9420 has assigned, or that the list contains twice.
func free(id CipherSuite, given map[CipherSuite]*suite) error {
	for _, s := range rfcSuites {
		if s.id == id {
			return fail(ErrMisuse, "§17.1", "code points", "%#04x is %s already", uint16(id), s.name)
		}
	}
	if s := given[id]; s != nil {
		return fail(ErrMisuse, "§17.1", "code points", "%#04x is %s already", uint16(id), s.name)
	}
	if id == 0 || isGREASE(uint16(id)) {
		return fail(ErrMisuse, "§17.1", "code points", "%#04x is reserved", uint16(id))
	}
	return nil
}

// PostQuantumSuites returns the cipher suites of draft-ietf-mls-pq-ciphersuites for new groups, ascending: all
// eleven, with the numbers of this build. The caller owns the slice.
func PostQuantumSuites() []CipherSuite { return idsOf(pqSuites.fresh) }

// SupportedSuites returns all cipher suites of this build, ascending, including suites that only groups of earlier
// releases have. The caller owns the slice.
func SupportedSuites() []CipherSuite { return idsOf(suites) }

// EarlierSuites returns the cipher suites that all releases support, ascending: those of RFC 9420, and the draft's
// suites with the numbers that earlier releases used for new groups. The caller owns the slice.
func EarlierSuites() []CipherSuite {
	list := CipherSuites()
	for at := range draftRows {
		if s, err := suiteOf(draftRows[at].earlier); err == nil && s.name == draftRows[at].name {
			list = append(list, s.id)
		}
	}
	return list
}

// Earlier returns the number that earlier releases use for a post-quantum suite, and cs itself if there is none.
// Programs of these releases know no other number.
func (cs CipherSuite) Earlier() CipherSuite {
	for at := range draftRows {
		row := &draftRows[at]
		if s, err := suiteOf(row.earlier); err == nil && s.name == row.name && cs.String() == row.name {
			return row.earlier
		}
	}
	return cs
}

// ParseCipherSuite returns the cipher suite with a name in RFC 9420 or the draft, or with a number in decimal or,
// after 0x, hexadecimal digits. For a name with several numbers it returns the number of new groups. It returns
// ErrUnsupported if there is no such suite.
func ParseCipherSuite(text string) (CipherSuite, error) {
	n, err := strconv.ParseUint(text, 0, 16)
	for _, s := range slices.Concat(rfcSuites, pqSuites.fresh, pqSuites.all) {
		if s.name == text || err == nil && s.id == CipherSuite(n) {
			return s.id, nil
		}
	}
	return 0, fail(ErrUnsupported, "§17.1", fmt.Sprintf("%.80q", text), "not a cipher suite of this implementation")
}
