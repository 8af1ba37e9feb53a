package cli

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"github.com/mlsfed/mlsfed/wire"
)

// ShortID returns the beginning of a conversation's id, for texts that people read.
func ShortID(id wire.ConversationID) string { return id.String()[:8] }

// ParseUser takes alice@a.example, alice for a user of a domain, or an identifier.
func ParseUser(domain wire.Domain, s string) (wire.UserID, error) {
	if strings.HasPrefix(s, "mimi:") {
		return wire.ParseUserID(s)
	}
	name, of, other := strings.Cut(s, "@")
	if other {
		domain = wire.Domain(of)
	}
	u, err := wire.NewUserID(domain, name)
	if wrong := domain.Check(); wrong != nil && strings.ContainsFunc(of, func(r rune) bool { return r > unicode.MaxASCII }) {
		return "", fmt.Errorf("%q names no user: %w", s, wrong) // the error shows how such a domain is written
	}
	if err != nil {
		return "", fmt.Errorf("%q names no user: wanted one as alice@a.example, in lower-case letters, digits, '-', '.', '_' and '~'", s)
	}
	return u, nil
}

// PersonNames returns users in the form that people use.
func PersonNames(users []wire.UserID) []string {
	names := make([]string, 0, len(users))
	for _, u := range users {
		names = append(names, PersonName(u))
	}
	return names
}

// PersonName returns a user in the form that people use: alice@a.example.
func PersonName(u wire.UserID) string { return u.Name() + "@" + string(u.Organization()) }

// DeviceName returns a device in the form that people use: alice@a.example/phone.
func DeviceName(d wire.DeviceID) string { return PersonName(d.User()) + "/" + d.Name() }

// DeviceNames returns devices in the form that people use.
func DeviceNames(list []wire.DeviceID) []string {
	var names []string
	for _, v := range list {
		names = append(names, DeviceName(v))
	}
	return names
}

// WithNames replaces the identifiers in a text by the form that people use.
func WithNames(text string) string {
	identifiers := regexp.MustCompile(`mimi://([a-z0-9.-]+)/(?:u/([^/\s,:;]+)|d/([^/\s,:;]+)/([^/\s,:;]+))`)
	return identifiers.ReplaceAllStringFunc(text, func(s string) string {
		m := identifiers.FindStringSubmatch(s)
		if m[2] != "" {
			return m[2] + "@" + m[1]
		}
		return m[3] + "@" + m[1] + "/" + m[4]
	})
}
