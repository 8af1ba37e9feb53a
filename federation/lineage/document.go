package lineage

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// Version is the version of a document.
const Version = 1

// Reason is the reason of an Error, as a label of metrics.
type Reason string

// The reasons.
const (
	Malformed Reason = "malformed"  // the document breaks a rule of the format
	BadLinks  Reason = "links"      // a link breaks a rule or is not signed as it has to be
	Unsigned  Reason = "unsigned"   // no root of the link in force has signed the statement
	Expired   Reason = "expired"    // the statement has ended
	Future    Reason = "future"     // the statement is from the future
	OtherID   Reason = "other_id"   // the lineage is not that of the TXT record
	OtherName Reason = "other_name" // the document is another domain's
)

// Error is the error of a document. Its text is a sentence for people and names the domain.
type Error struct {
	Reason Reason
	Text   string
}

// Error implements error.
func (e *Error) Error() string { return e.Text }

func refuse(reason Reason, format string, args ...any) *Error {
	return &Error{Reason: reason, Text: wire.Line(fmt.Sprintf(format, args...))}
}

// Document is what an organization publishes about itself, verified.
type Document struct {
	Domain    wire.Domain
	Lineage   wire.Hash // the hash of link 0
	Link      wire.Hash // the link in force
	Statement Statement
	Records   [][]byte // of nodes, not verified

	chain     []*link
	signed    []byte    // the statement
	statement wire.Hash // of its body
}

// Roots returns the root certificates in force. The first signs nodes.
func (d *Document) Roots() []*x509.Certificate { return slices.Clone(d.tip().roots) }

func (d *Document) tip() *link { return d.chain[len(d.chain)-1] }

// ParseDocument decodes a document of an organization and verifies all that needs neither a clock nor a Pin: the
// formats, the chain of links, and that a root of the last link has signed the statement. The error is an *Error.
func ParseDocument(b []byte, d wire.Domain) (*Document, error) {
	e, err := decodeEnvelope(b)
	if err != nil {
		return nil, refuse(Malformed, "%s publishes a document that is damaged: %v", d, err)
	}
	switch {
	case e.version != Version:
		return nil, refuse(Malformed, "%s publishes a document of version %d, and this node knows %d", d, e.version, Version)
	case e.domain != string(d):
		return nil, refuse(OtherName, "%s publishes the document of %.80q", d, e.domain)
	case len(e.records) > MaxRecords:
		return nil, refuse(Malformed, "%s publishes %d node records, at most %d", d, len(e.records), MaxRecords)
	}
	for _, r := range e.records {
		if len(r) == 0 || len(r) > MaxRecord {
			return nil, refuse(Malformed, "%s publishes a node record of %d bytes, wanted 1 to %d", d, len(r), MaxRecord)
		}
	}
	return newDocument(d, e.links, e.statement, e.records)
}

// newDocument verifies the links and the statement.
func newDocument(d wire.Domain, links [][]byte, statement []byte, records [][]byte) (*Document, error) {
	doc := &Document{Domain: d, Records: records, signed: statement}
	var err error
	if doc.chain, err = parseChain(links, d); err != nil {
		return nil, refuse(BadLinks, "the roots that %s publishes are not valid: %v", d, err)
	}
	doc.Lineage, doc.Link = doc.chain[0].hash, doc.tip().hash
	var signed Signed
	if err := wire.Decode(statement, MaxStatement, &signed); err != nil {
		return nil, refuse(Malformed, "the statement of %s is damaged: %v", d, err)
	}
	if err := wire.Decode(signed.Body, MaxStatement, &doc.Statement); err != nil {
		return nil, refuse(Malformed, "the statement of %s is damaged: %v", d, err)
	}
	if doc.Statement.Domain != d {
		return nil, refuse(OtherName, "%s publishes the statement of %s", d, doc.Statement.Domain)
	}
	if doc.Statement.Link != doc.Link || signed.signedBy(statementLabel, doc.tip().keys()) != nil {
		return nil, refuse(Unsigned, "%s's statement is not signed by its root", d)
	}
	doc.statement = LinkHash(signed.Body)
	return doc, nil
}

// NewDocument verifies and assembles what an organization publishes.
func NewDocument(d wire.Domain, links [][]byte, statement []byte, records [][]byte) (*Document, error) {
	doc, err := newDocument(d, links, statement, records)
	if err != nil {
		return nil, err
	}
	b, err := doc.Encode()
	if err != nil {
		return nil, err
	}
	return ParseDocument(b, d)
}

// CheckAhead refuses a document whose statement is from the future.
func (d *Document) CheckAhead(now time.Time) error {
	limit := now.Add(MaxAhead).UnixMilli()
	if d.Statement.Serial > uint64(max(limit, 0)) || int64(d.Statement.Issued) > limit {
		return refuse(Future, "%s's statement is from %s: its clock or yours is wrong", d.Domain, date(max(d.Statement.Issued, wire.Time(d.Statement.Serial))))
	}
	return nil
}

// CheckEnd refuses a document whose statement has expired. The end counts at first contact only.
func (d *Document) CheckEnd(now time.Time) error {
	if int64(d.Statement.Expires) <= now.UnixMilli() {
		return refuse(Expired, "%s's statement ended on %s", d.Domain, date(d.Statement.Expires))
	}
	return nil
}

// CheckID refuses a document of another lineage than the TXT record names.
func (d *Document) CheckID(id wire.Hash) error {
	if d.Lineage != id {
		return refuse(OtherID, "%s's statement has another id than its TXT record", d.Domain)
	}
	return nil
}

// date writes a date in ten characters. A time that has no such date is "the far future".
func date(t wire.Time) string {
	if t > maxTime {
		return "the far future"
	}
	return t.Std().Format(time.DateOnly)
}

// TXT returns the TXT record of a lineage.
func TXT(id wire.Hash) string { return "v=mlsfed1; id=" + id.String() }

// Encode returns the document as a web server publishes it.
func (d *Document) Encode() ([]byte, error) {
	text := base64.RawURLEncoding.EncodeToString
	e := struct {
		Version   int         `json:"mlsfed"`
		Domain    wire.Domain `json:"domain"`
		Links     []string    `json:"links"`
		Statement string      `json:"statement"`
		Records   []string    `json:"records"`
	}{Version: Version, Domain: d.Domain, Statement: text(d.signed), Links: []string{}, Records: []string{}}
	for _, l := range d.chain {
		e.Links = append(e.Links, text(l.raw))
	}
	for _, r := range d.Records {
		e.Records = append(e.Records, text(r))
	}
	return json.Marshal(e)
}

// envelope is the JSON object around the signed parts.
type envelope struct {
	version   int
	domain    string
	links     [][]byte
	statement []byte
	records   [][]byte
}

// decodeEnvelope is stricter than encoding/json: each key occurs exactly once, in its exact spelling, and no other.
func decodeEnvelope(b []byte) (*envelope, error) {
	if len(b) > MaxDocument {
		return nil, fmt.Errorf("%d bytes, at most %d", len(b), MaxDocument)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("no JSON object")
	}
	e := new(envelope)
	seen := make(map[string]bool)
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("damaged JSON")
		}
		key, _ := t.(string)
		if seen[key] {
			return nil, fmt.Errorf("the key %.40q occurs twice", key)
		}
		seen[key] = true
		switch key {
		case "mlsfed":
			err = d.Decode(&e.version)
		case "domain":
			err = d.Decode(&e.domain)
		case "links":
			e.links, err = decodeList(d, MaxLinks)
		case "statement":
			var s string
			if err = d.Decode(&s); err == nil {
				e.statement, err = decodeBase64(s)
			}
		case "records":
			e.records, err = decodeList(d, MaxRecords)
		default:
			err = fmt.Errorf("the key %.40q is unknown", key)
		}
		if err != nil {
			return nil, err
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("damaged JSON")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("data follows the JSON object")
	}
	if len(seen) != 5 {
		return nil, fmt.Errorf("%d keys, wanted mlsfed, domain, links, statement and records", len(seen))
	}
	return e, nil
}

func decodeList(d *json.Decoder, most int) ([][]byte, error) {
	var list []string
	if err := d.Decode(&list); err != nil {
		return nil, err
	}
	if len(list) > most {
		return nil, fmt.Errorf("%d elements of a list, at most %d", len(list), most)
	}
	var out [][]byte
	for _, s := range list {
		b, err := decodeBase64(s)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

func decodeBase64(s string) ([]byte, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || base64.RawURLEncoding.EncodeToString(b) != s {
		return nil, fmt.Errorf("a string that is not base64url without padding")
	}
	return b, nil
}
