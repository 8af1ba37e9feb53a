package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Act names an event that the log records.
type Act string

// The acts.
const (
	NodeStarted  Act = "node.started"
	NodeStopped  Act = "node.stopped"
	NodeRestored Act = "node.restored" // from a backup: who acted since the backup is not in the log
	NodeAdded    Act = "node.added"    // to the organization

	UserInvited Act = "user.invited"
	UserRemoved Act = "user.removed"
	UserRebound Act = "user.rebound" // to another subject of the issuer
	UserEnded   Act = "user.ended"   // by the login service: devices are revoked, and none can be enrolled
	UserResumed Act = "user.resumed" // by the login service

	DeviceEnrolled Act = "device.enrolled"
	DeviceRevoked  Act = "device.revoked"

	OrganizationMade      Act = "organization.made"
	OrganizationAdmitted  Act = "organization.admitted"
	OrganizationRemoved   Act = "organization.removed"
	OrganizationSuspended Act = "organization.suspended"
	OrganizationResumed   Act = "organization.resumed"
	CertificateRenewed    Act = "certificate.renewed" // of the node

	ConversationRecovered Act = "conversation.recovered" // forced on without a majority
	ConversationReleased  Act = "conversation.released"  // from quarantine
	ReplicaDropped        Act = "replica.dropped"        // one that gave way to another, and was kept
	BackupTaken           Act = "backup.taken"

	LinkUp   Act = "link.up"
	LinkDown Act = "link.down"

	LogRepaired Act = "audit.repaired" // a line that a crash had cut off was removed
)

// Record is one line of the log.
type Record struct {
	Number uint64    `json:"n"` // from 1
	Time   time.Time `json:"time"`
	What   Act       `json:"what"`
	// The actor: "operator", "device", "issuer", "scim" or "node", a colon, and a name of that kind.
	Who  string            `json:"who"`
	On   string            `json:"on,omitempty"`   // whom or what was acted on
	With map[string]string `json:"with,omitempty"` // what else there is to say
	// Previous is the SHA-256 of the line before this one, without its newline, in hexadecimal; empty for the first.
	Previous string `json:"previous"`
}

// Bounds of a record. Longer texts are cut.
const (
	maxText = 512
	maxWith = 8
	maxLine = 64 << 10 // bytes: each byte of a text can take six in JSON
)

// Mark names a record, so that a log can be compared with what was noted of it elsewhere. Its text is "N:HASH".
type Mark struct {
	Number uint64
	Hash   [sha256.Size]byte // of the record's line
}

// String is what ParseMark reads.
func (m Mark) String() string {
	return strconv.FormatUint(m.Number, 10) + ":" + hex.EncodeToString(m.Hash[:])
}

// ParseMark reads "N:HASH".
func ParseMark(s string) (m Mark, err error) {
	number, hash, _ := strings.Cut(s, ":")
	n, err := strconv.ParseUint(number, 10, 64)
	raw, herr := hex.DecodeString(hash)
	if err != nil || herr != nil || len(raw) != len(m.Hash) || n == 0 {
		return m, fmt.Errorf("%.100q is not the mark of a record: wanted its number, a colon and its SHA-256 in hexadecimal", s)
	}
	m.Number = n
	copy(m.Hash[:], raw)
	return m, nil
}

func markOf(number uint64, line []byte) Mark { return Mark{number, sha256.Sum256(line)} }

// encode bounds a record and returns its line without the newline.
func (r *Record) encode() ([]byte, error) {
	r.Who, r.On = cut(r.Who), cut(r.On)
	if len(r.With) > maxWith {
		return nil, fmt.Errorf("audit: %d further texts, at most %d", len(r.With), maxWith)
	}
	with := make(map[string]string, len(r.With))
	for k, v := range r.With {
		with[cut(k)] = cut(v)
	}
	r.With = with
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func cut(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= maxText {
		return s
	}
	n := maxText
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// decode reads a line strictly: an accepted line has every field that Append writes, and no other.
func decode(line []byte) (*Record, error) {
	if len(line) > maxLine {
		return nil, fmt.Errorf("a line of %d bytes, at most %d", len(line), maxLine)
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	r := new(Record)
	if err := d.Decode(r); err != nil {
		return nil, fmt.Errorf("not a record: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one value in a line")
	}
	if r.Number == 0 || r.What == "" || r.Who == "" || r.Time.IsZero() {
		return nil, errors.New("not a record: n, time, what and who are wanted")
	}
	return r, nil
}
