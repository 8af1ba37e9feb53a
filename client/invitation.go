package client

import (
	"encoding/hex"
	"net/url"
	"strings"

	"github.com/mlsfed/mlsfed/wire"
)

// maxInvitation bounds the text of an invitation, in bytes.
const maxInvitation = 1024

// Invitation is the data with which a person enrols a device: the server, the user's name and the code.
//
//	mlsfed://n1.a.example:8443/CODE?domain=a.example&user=alice&root=9f86d0…
type Invitation struct {
	Host   string // host or host:port of a node
	Code   string // works once; empty if the invitation names only a server
	Domain Domain // the organization
	User   string // the name of the user
	// Root is the SHA-256 of the organization's root certificate, DER. If Root is set, the node's TLS chain must end
	// in that root; otherwise it must end in one of the system's roots.
	Root wire.Hash
}

// Pinned reports whether the invitation names a root.
func (i Invitation) Pinned() bool { return i.Root != wire.Hash{} }

// Server returns the invitation without its code, which has been used: the server to which the device connects at
// later starts.
func (i Invitation) Server() Invitation {
	i.Code = ""
	return i
}

// UserID returns the user of the invitation.
func (i Invitation) UserID() (UserID, error) { return wire.NewUserID(i.Domain, i.User) }

// DeviceID returns the id of a device of the invitation's user.
func (i Invitation) DeviceID(device string) (DeviceID, error) {
	user, err := i.UserID()
	if err != nil {
		return "", err
	}
	return wire.NewDeviceID(user, device)
}

// String returns the text that ParseInvitation reads.
func (i Invitation) String() string {
	u := url.URL{Scheme: "mlsfed", Host: i.Host, Path: "/" + i.Code}
	q := "domain=" + url.QueryEscape(string(i.Domain)) + "&user=" + url.QueryEscape(i.User)
	if i.Pinned() {
		q += "&root=" + i.Root.String()
	}
	u.RawQuery = q
	return u.String()
}

// ParseInvitation reads the output of String or Compact. It ignores surrounding spaces, which pasted text often has.
// It returns [Malformed] or [TooLarge] for an invalid invitation.
func ParseInvitation(s string) (Invitation, error) {
	s = strings.TrimSpace(s)
	if len(s) > maxInvitation {
		return Invitation{}, wire.Errorf(wire.TooLarge, "invitation", "%d bytes, at most %d", len(s), maxInvitation)
	}
	if strings.HasPrefix(strings.ToUpper(s), compactScheme) && !strings.Contains(s, "/") {
		return parseCompact(strings.ToUpper(s))
	}
	u, err := url.Parse(s)
	if err != nil {
		return Invitation{}, badInvitation("it is no URL")
	}
	if u.Scheme != "mlsfed" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return Invitation{}, badInvitation("wanted mlsfed://host:port/CODE?domain=…&user=…")
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Invitation{}, badInvitation("its parameters cannot be read")
	}
	for key, values := range q {
		if (key != "domain" && key != "user" && key != "root") || len(values) != 1 {
			return Invitation{}, badInvitation("parameter %.40q is unknown or given twice", key)
		}
	}
	i := Invitation{Host: u.Host, Code: strings.TrimPrefix(u.Path, "/"), Domain: wire.Domain(q.Get("domain")), User: q.Get("user")}
	if strings.Contains(i.Code, "/") {
		return Invitation{}, badInvitation("the code holds a slash")
	}
	if _, err := i.UserID(); err != nil {
		return Invitation{}, badInvitation("%v", err)
	}
	if root := q.Get("root"); root != "" {
		b, err := hex.DecodeString(root)
		if err != nil || len(b) != len(i.Root) {
			return Invitation{}, badInvitation("root is not the SHA-256 of a certificate in hexadecimal")
		}
		i.Root = wire.Hash(b)
	}
	return i, nil
}

func badInvitation(format string, args ...any) error {
	e := wire.Errorf(wire.Malformed, "invitation", format, args...)
	e.Text += ": copy it whole, or ask for another one"
	return e
}
