package wire

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/fxamacker/cbor/v2"
)

// Bounds of identifiers, in bytes.
const (
	MaxDomain         = 253 // RFC 1035 §2.3.4
	MaxLabel          = 63  // RFC 1035 §2.3.4
	MaxName           = 64  // the name of a user or a device
	MinConversationID = 8
	MaxConversationID = 64
)

// Domain names an organization: a lower-case DNS name, "a.example".
type Domain string

// ParseDomain checks that s is a lower-case DNS name without a final dot.
func ParseDomain(s string) (Domain, error) {
	if err := checkHost(s); err != nil {
		return "", fmt.Errorf("domain %.80q: %w", s, err)
	}
	return Domain(s), nil
}

// Check refuses a domain that ParseDomain would not return.
func (d Domain) Check() error {
	_, err := ParseDomain(string(d))
	return err
}

func checkHost(s string) error {
	if s == "" || len(s) > MaxDomain {
		return fmt.Errorf("has %d bytes, wanted 1 to %d", len(s), MaxDomain)
	}
	for rest := s; ; {
		label, after, more := strings.Cut(rest, ".")
		if err := checkLabel(label); err != nil {
			return err
		}
		if !more {
			return nil
		}
		rest = after
	}
}

func checkLabel(label string) error {
	if label == "" || len(label) > MaxLabel {
		return fmt.Errorf("a label has %d bytes, wanted 1 to %d", len(label), MaxLabel)
	}
	for i := range len(label) {
		c := label[i]
		letter := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		inside := c == '-' && i > 0 && i < len(label)-1
		if c >= 0x80 {
			return errors.New("letters beyond a to z are not allowed: write the name in its ASCII form, which begins with xn--")
		}
		if !letter && !inside {
			return fmt.Errorf("character %q is not allowed", c)
		}
	}
	return nil
}

// NodeID names a node: one label before the domain of its organization, "n1.a.example".
type NodeID string

// ParseNodeID checks that s is a lower-case DNS name with a label before the domain.
func ParseNodeID(s string) (NodeID, error) {
	if err := checkHost(s); err != nil {
		return "", fmt.Errorf("node %.80q: %w", s, err)
	}
	if !strings.Contains(s, ".") {
		return "", fmt.Errorf("node %.80q: names no organization, wanted a label before its domain", s)
	}
	return NodeID(s), nil
}

// Check refuses a NodeID that ParseNodeID would not return.
func (n NodeID) Check() error {
	_, err := ParseNodeID(string(n))
	return err
}

// Organization returns the domain after the first label, or "" for a NodeID that Check refuses.
func (n NodeID) Organization() Domain {
	_, domain, _ := strings.Cut(string(n), ".")
	return Domain(domain)
}

// UserID has the form mimi://a.example/u/alice.
type UserID string

// NewUserID returns the id of the user with a name at an organization.
func NewUserID(d Domain, name string) (UserID, error) {
	return ParseUserID("mimi://" + string(d) + "/u/" + name)
}

// ParseUserID checks the form mimi://domain/u/name.
func ParseUserID(s string) (UserID, error) {
	if _, err := splitURI(s, "u", 1); err != nil {
		return "", fmt.Errorf("user %.120q: %w", s, err)
	}
	return UserID(s), nil
}

// Check refuses a UserID that ParseUserID would not return.
func (u UserID) Check() error {
	_, err := ParseUserID(string(u))
	return err
}

// Organization returns the user's domain.
func (u UserID) Organization() Domain { return uriDomain(string(u)) }

// Name returns the last part, "alice".
func (u UserID) Name() string { return uriPart(string(u), 1) }

// DeviceID has the form mimi://a.example/d/alice/phone: one MLS client, one leaf.
type DeviceID string

// NewDeviceID returns the id of a device of a user.
func NewDeviceID(u UserID, device string) (DeviceID, error) {
	return ParseDeviceID("mimi://" + string(u.Organization()) + "/d/" + u.Name() + "/" + device)
}

// ParseDeviceID checks the form mimi://domain/d/user/device.
func ParseDeviceID(s string) (DeviceID, error) {
	if _, err := splitURI(s, "d", 2); err != nil {
		return "", fmt.Errorf("device %.200q: %w", s, err)
	}
	return DeviceID(s), nil
}

// Check refuses a DeviceID that ParseDeviceID would not return.
func (d DeviceID) Check() error {
	_, err := ParseDeviceID(string(d))
	return err
}

// Organization returns the device's domain.
func (d DeviceID) Organization() Domain { return uriDomain(string(d)) }

// User returns the owner of the device.
func (d DeviceID) User() UserID {
	return UserID("mimi://" + string(d.Organization()) + "/u/" + uriPart(string(d), 1))
}

// Name returns the last part, "phone".
func (d DeviceID) Name() string { return uriPart(string(d), 2) }

// splitURI returns the names after mimi://domain/kind/.
func splitURI(s, kind string, names int) ([]string, error) {
	if len(s) > len("mimi://")+MaxDomain+3+names*(MaxName+1) {
		return nil, fmt.Errorf("has %d bytes, which is too long", len(s))
	}
	rest, ok := strings.CutPrefix(s, "mimi://")
	if !ok {
		return nil, fmt.Errorf("does not begin with mimi://")
	}
	parts := strings.Split(rest, "/")
	if len(parts) != names+2 || parts[1] != kind {
		return nil, fmt.Errorf("wanted mimi://domain/%s/ and %d name(s)", kind, names)
	}
	if err := checkHost(parts[0]); err != nil {
		return nil, err
	}
	for _, name := range parts[2:] {
		if err := checkName(name); err != nil {
			return nil, err
		}
	}
	return parts[2:], nil
}

// checkName allows the unreserved characters of RFC 3986 §2.3 in lower case, so that a name is its own
// escaped form and two spellings of one user cannot exist.
func checkName(name string) error {
	if name == "" || len(name) > MaxName {
		return fmt.Errorf("a name has %d bytes, wanted 1 to %d", len(name), MaxName)
	}
	if strings.ToLower(name) != name || url.PathEscape(name) != name || strings.ContainsAny(name, "$&+=:@,;!*'()") {
		return fmt.Errorf("name %.80q: wanted lower-case letters, digits, '-', '.', '_' and '~'", name)
	}
	if strings.Trim(name, ".") == "" {
		return fmt.Errorf("name %.80q: consists of dots", name)
	}
	return nil
}

func uriDomain(s string) Domain { return Domain(uriPart(s, -1)) }

// uriPart returns the n-th name, or the domain for -1, or "" if there is none.
func uriPart(s string, n int) string {
	parts := strings.Split(strings.TrimPrefix(s, "mimi://"), "/")
	if n < 0 {
		return parts[0]
	}
	if n+1 >= len(parts) {
		return ""
	}
	return parts[n+1]
}

// ConversationID is the MLS group_id as raw bytes, MinConversationID to MaxConversationID of them. It is a string so
// that it can be a map key; on the wire it is a byte string.
type ConversationID string

// NewConversationID converts the bytes of a group_id.
func NewConversationID(b []byte) (ConversationID, error) {
	id := ConversationID(b)
	return id, id.Check()
}

// ParseConversationID parses the output of String.
func ParseConversationID(s string) (ConversationID, error) {
	if len(s) > 2*MaxConversationID {
		return "", fmt.Errorf("conversation id of %d characters, at most %d", len(s), 2*MaxConversationID)
	}
	b, err := hex.DecodeString(s)
	if err != nil || strings.ToLower(s) != s {
		return "", fmt.Errorf("conversation id %.140q: wanted lower-case hexadecimal", s)
	}
	return NewConversationID(b)
}

// Check refuses an id of a wrong size.
func (c ConversationID) Check() error {
	if len(c) < MinConversationID || len(c) > MaxConversationID {
		return fmt.Errorf("conversation id of %d bytes, wanted %d to %d", len(c), MinConversationID, MaxConversationID)
	}
	return nil
}

// String returns the id in hexadecimal.
func (c ConversationID) String() string { return hex.EncodeToString([]byte(c)) }

// MarshalText encodes the id as String does: JSON would damage the bytes.
func (c ConversationID) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText decodes the output of MarshalText.
func (c *ConversationID) UnmarshalText(b []byte) (err error) {
	*c, err = ParseConversationID(string(b))
	return err
}

// MarshalCBOR encodes the id as a byte string.
func (c ConversationID) MarshalCBOR() ([]byte, error) { return encMode.Marshal([]byte(c)) }

// UnmarshalCBOR decodes a byte string of an allowed size.
func (c *ConversationID) UnmarshalCBOR(b []byte) error {
	var raw []byte
	if err := decMode.Unmarshal(b, &raw); err != nil {
		return err
	}
	*c = ConversationID(raw)
	return c.Check()
}

var (
	_ cbor.Marshaler   = ConversationID("")
	_ cbor.Unmarshaler = (*ConversationID)(nil)
)
