package lineage

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// TestGreatestDocumentFits checks that the greatest legal document is within MaxDocument, and its pin within maxPin:
// the longest domain, sixteen links with two roots of 1 KiB each, the longest signatures, contacts and records.
func TestGreatestDocumentFits(t *testing.T) {
	label := strings.Repeat("a", 63)
	d := wire.Domain(strings.Join([]string{label, label, label, label[:61]}, "."))
	a := &author{domain: d, recovery: newKey("recovery")}
	var keys []crypto.Signer
	for i := range MaxLinks {
		l := &Link{Domain: d, Recovery: recoveryHash(t, a.recovery)}
		if i > 0 {
			l.Previous = hashOf(t, a.last())
		}
		signers := keys
		keys = nil
		for range MaxRoots {
			key, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, key)
			l.Roots = append(l.Roots, greatestRoot(t, d, key))
		}
		if i == 0 {
			signers = keys
		}
		a = a.add(t, l, signers...)
		if n := len(a.chain[i]); n > MaxLink {
			t.Errorf("link %d has %d bytes", i, n)
		}
	}
	contact := "mailto:" + strings.Repeat("c", MaxContact-len("mailto:"))
	s := &Statement{
		Domain: d, Link: *hashOf(t, a.last()), Serial: uint64(start.UnixMilli()), Issued: wire.TimeOf(start), Expires: wire.TimeOf(start.Add(MaxValidity)),
		Contacts: []string{contact, contact, contact, contact},
	}
	statement, err := SignStatement(s, nil, keys...)
	if err != nil {
		t.Fatal(err)
	}
	records := make([][]byte, MaxRecords)
	for i := range records {
		records[i] = bytes.Repeat([]byte{byte(i + 1)}, MaxRecord)
	}
	doc, err := NewDocument(d, a.chain, statement, records)
	if err != nil {
		t.Fatal(err)
	}
	b, err := doc.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > MaxDocument || len(b) < MaxDocument*3/4 {
		t.Errorf("the greatest document has %d bytes, at most %d", len(b), MaxDocument)
	}
	pin, err := mustPin(t, doc).Encode()
	if err != nil || len(pin) > maxPin*(MaxLinks-1)/(MaxLinks+maxEvidence) {
		t.Errorf("the greatest pin without evidence has %d bytes, at most %d with evidence: %v", len(pin), maxPin, err)
	}
	t.Logf("document %d bytes, links %d, statement %d, pin %d", len(b), len(a.chain[15]), len(statement), len(pin))
}

// greatestRoot makes a root certificate of MaxRoot bytes.
func greatestRoot(t *testing.T, d wire.Domain, key crypto.Signer) []byte {
	t.Helper()
	for size, tries := 64, 0; tries < 500; tries++ {
		der := newRoot(t, d, key, func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999}, Value: bytes.Repeat([]byte{5}, size)}}
		})
		if len(der) == MaxRoot {
			return der
		}
		size = max(size+MaxRoot-len(der), 1)
	}
	t.Fatal("no certificate has exactly the greatest size")
	return nil
}

// TestBadDocuments checks each rule of the formats. Each case changes one thing in a valid document.
func TestBadDocuments(t *testing.T) {
	a := found(t, exampleDomain, "root", "recovery")
	second := a.succeed(t, "second")
	good := second.document(t, start)
	link := func(edit func(*Link), keys ...crypto.Signer) func(*envelopeText) {
		return func(e *envelopeText) {
			l := *second.last()
			edit(&l)
			raw, err := wire.Encode(&l)
			if err != nil {
				t.Fatal(err)
			}
			e.Links = []string{e.Links[0], base64Of(signRaw(t, linkLabel, raw, keys...))}
		}
	}
	statement := func(edit func(*Statement), keys ...crypto.Signer) func(*envelopeText) {
		return func(e *envelopeText) {
			s := good.Statement
			edit(&s)
			raw, err := wire.Encode(&s)
			if err != nil {
				t.Fatal(err)
			}
			e.Statement = base64Of(signRaw(t, statementLabel, raw, keys...))
		}
	}
	root, next := newKey("root"), newKey("second")
	for name, c := range map[string]struct {
		edit func(*envelopeText)
		want Reason
		text string
	}{
		"good":                            {func(*envelopeText) {}, "", ""},
		"version 2":                       {func(e *envelopeText) { e.Version = 2 }, Malformed, "version 2"},
		"another domain":                  {func(e *envelopeText) { e.Domain = "c.example" }, OtherName, `the document of "c.example"`},
		"no link":                         {func(e *envelopeText) { e.Links = nil }, BadLinks, "0 links"},
		"17 links":                        {func(e *envelopeText) { e.Links = make([]string, 17) }, Malformed, "17 elements"},
		"a link is missing":               {func(e *envelopeText) { e.Links = e.Links[1:] }, BadLinks, "the first link has a link before it"},
		"links are exchanged":             {func(e *envelopeText) { e.Links[0], e.Links[1] = e.Links[1], e.Links[0] }, BadLinks, "link 0"},
		"9 records":                       {func(e *envelopeText) { e.Records = make([]string, 9) }, Malformed, "9 elements"},
		"a record of 3 KiB":               {func(e *envelopeText) { e.Records = []string{base64Of(make([]byte, 3<<10))} }, Malformed, "record of 3072 bytes"},
		"padding":                         {func(e *envelopeText) { e.Statement += "=" }, Malformed, "base64url"},
		"no statement":                    {func(e *envelopeText) { e.Statement = "" }, Malformed, "statement"},
		"three roots":                     {link(func(l *Link) { l.Roots = [][]byte{l.Roots[0], l.Roots[0], l.Roots[0]} }, root), BadLinks, "3 roots"},
		"one root twice":                  {link(func(l *Link) { l.Roots = [][]byte{l.Roots[0], l.Roots[0]} }, root), BadLinks, "have one key"},
		"no root":                         {link(func(l *Link) { l.Roots = nil }, root), BadLinks, "0 roots"},
		"a root of 2 KiB":                 {link(func(l *Link) { l.Roots = [][]byte{make([]byte, 2<<10)} }, root), BadLinks, "certificate of 2048 bytes"},
		"a root of another domain":        {link(func(l *Link) { l.Roots = [][]byte{newRoot(t, "c.example", next)} }, root), BadLinks, "wanted b.example alone"},
		"no authority":                    {link(func(l *Link) { l.Roots = [][]byte{newRoot(t, exampleDomain, next, noAuthority)} }, root), BadLinks, "is not a certificate authority"},
		"a link of another domain":        {link(func(l *Link) { l.Domain = "c.example" }, root), BadLinks, "a link of c.example"},
		"another recovery key":            {link(func(l *Link) { l.Recovery = recoveryHash(t, next) }, root), BadLinks, "changes the recovery key"},
		"signed by its own root":          {link(func(*Link) {}, next), BadLinks, "not of a key that may sign"},
		"signed by one root too much":     {link(func(*Link) {}, root, next), BadLinks, "not of a key that may sign"},
		"signed three times":              {link(func(*Link) {}, root, next, newKey("third")), BadLinks, "3 signatures"},
		"a recovery signed by the root":   {link(func(l *Link) { l.Key = spkiOf(t, newKey("recovery")) }, root), BadLinks, "not of a key that may sign"},
		"a recovery by another key":       {link(func(l *Link) { l.Key = spkiOf(t, next) }, next), BadLinks, "another key than the link before it names"},
		"a recovery key that is none":     {link(func(l *Link) { l.Key = []byte{1} }, next), BadLinks, "another key"},
		"a statement of another link":     {statement(func(s *Statement) { s.Link = good.Lineage }, next), Unsigned, "b.example's statement is not signed by its root"},
		"a statement by the root before":  {statement(func(*Statement) {}, root), Unsigned, "b.example's statement is not signed by its root"},
		"a statement of another domain":   {statement(func(s *Statement) { s.Domain = "c.example" }, next), OtherName, "the statement of c.example"},
		"a serial of 2^63":                {statement(func(s *Statement) { s.Serial = 1 << 63 }, next), Malformed, "serial 9223372036854775808"},
		"an end in the year 9999":         {statement(func(s *Statement) { s.Expires = maxTime + 1 }, next), Malformed, "more than 400 days"},
		"issued in the year 9999":         {statement(func(s *Statement) { s.Issued, s.Expires = maxTime+1, maxTime+2 }, next), Malformed, "issued at"},
		"an end before the beginning":     {statement(func(s *Statement) { s.Expires = s.Issued }, next), Malformed, "expiring at"},
		"an end long before the start":    {statement(func(s *Statement) { s.Issued, s.Expires = 1<<62, -1<<62 }, next), Malformed, "expiring at"},
		"five contacts":                   {statement(func(s *Statement) { s.Contacts = make([]string, 5) }, next), Malformed, "5 contacts"},
		"a contact of 257 bytes":          {statement(func(s *Statement) { s.Contacts = []string{"https:" + strings.Repeat("x", 251)} }, next), Malformed, "257 bytes"},
		"a contact that runs code":        {statement(func(s *Statement) { s.Contacts = []string{"javascript:x"} }, next), Malformed, "wanted a URI"},
		"a contact with a line feed":      {statement(func(s *Statement) { s.Contacts = []string{"mailto:a\nb"} }, next), Malformed, "wanted a URI"},
		"a contact that reverses display": {statement(func(s *Statement) { s.Contacts = []string{"mailto:a\u202eb"} }, next), Malformed, "wanted a URI"},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := good.Encode()
			if err != nil {
				t.Fatal(err)
			}
			e := new(envelopeText)
			if err := json.Unmarshal(b, e); err != nil {
				t.Fatal(err)
			}
			c.edit(e)
			if b, err = json.Marshal(e); err != nil {
				t.Fatal(err)
			}
			_, err = ParseDocument(b, exampleDomain)
			checkError(t, err, c.want, c.text)
		})
	}
}

// TestBadEnvelopes checks the strict reading of the JSON object.
func TestBadEnvelopes(t *testing.T) {
	b, err := found(t, exampleDomain, "root", "recovery").document(t, start).Encode()
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for _, c := range []struct{ from, to, want string }{
		{text, "", "no JSON object"},
		{text, "[]", "no JSON object"},
		{text, "<html>", "no JSON object"},
		{text, text + "{}", "follows"},
		{text, text[:len(text)-1], "damaged"},
		{`"domain"`, `"Domain"`, "unknown"},
		{`"domain"`, `"redirect":1,"domain"`, "unknown"},
		{`"domain"`, `"mlsfed":1,"domain"`, "twice"},
		{`,"records":[]`, ``, "4 keys"},
		{`"records":[]`, `"records":{}`, "unmarshal"},
		{text, text + strings.Repeat(" ", MaxDocument), "at most 98304"},
	} {
		_, err := ParseDocument([]byte(strings.Replace(text, c.from, c.to, 1)), exampleDomain)
		checkError(t, err, Malformed, c.want)
	}
}

func checkError(t *testing.T, err error, want Reason, text string) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Error(err)
		}
		return
	}
	if e, ok := err.(*Error); !ok || e.Reason != want || !strings.Contains(e.Text, text) || !strings.Contains(e.Text, "b.example") {
		t.Errorf("%v, wanted %s with %q", err, want, text)
	}
}

func noAuthority(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero = false, false }

func spkiOf(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	_, spki, err := keyIDOf(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return spki
}

// signRaw signs a body that SignLink or SignStatement would refuse.
func signRaw(t *testing.T, label string, body []byte, keys ...crypto.Signer) []byte {
	t.Helper()
	s := Signed{Body: body}
	for _, k := range keys {
		id, _, err := keyIDOf(k.Public())
		if err != nil {
			t.Fatal(err)
		}
		b, err := k.Sign(rand.Reader, append([]byte(label), body...), crypto.Hash(0))
		if err != nil {
			t.Fatal(err)
		}
		s.Signatures = append(s.Signatures, Signature{Key: id, Bytes: b})
	}
	slices.SortFunc(s.Signatures, func(a, b Signature) int { return bytes.Compare(a.Key[:], b.Key[:]) })
	raw, err := wire.Encode(&s)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestVectors checks the vector of the formats, made from the seeds that docs/reach.md gives, and the hexadecimal
// example in that page.
func TestVectors(t *testing.T) {
	a := found(t, exampleDomain, "root", "recovery")
	r := a.recover(t, "root 2", "recovery 2")
	doc, err := r.document(t, start).Encode()
	if err != nil {
		t.Fatal(err)
	}
	got := struct {
		Lineage   string `json:"lineage"`
		TXT       string `json:"txt"`
		Link      string `json:"link"`
		Recovery  string `json:"recovery"`
		Statement string `json:"statement"`
		Document  string `json:"document"`
	}{
		Lineage: hashOf(t, a.links[0]).String(), TXT: TXT(*hashOf(t, a.links[0])), Link: hex.EncodeToString(a.chain[0]),
		Recovery: hex.EncodeToString(r.chain[1]), Statement: hex.EncodeToString(r.statement(t, start)), Document: string(doc),
	}
	b, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/vector.json")
	if err != nil || !bytes.Equal(bytes.TrimSpace(want), b) {
		t.Errorf("testdata/vector.json is not what this build makes (%v):\n%s", err, b)
	}
	page, err := os.ReadFile("../../docs/reach.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, ok := strings.Cut(string(page), "<!-- statement -->\n```\n")
	example, _, _ = strings.Cut(example, "```")
	if !ok || strings.Join(strings.Fields(example), "") != got.Statement {
		t.Errorf("the example of a statement in docs/reach.md is not the one of the vector:\n%s", got.Statement)
	}
	if !strings.Contains(string(page), got.TXT) {
		t.Errorf("docs/reach.md does not have the TXT record of the vector: %s", got.TXT)
	}
}
