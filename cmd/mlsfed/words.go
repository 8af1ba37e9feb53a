package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// refused says whether the node will not have this device.
func refused(err error) bool {
	var closed *client.CloseError
	if errors.As(err, &closed) {
		return closed.Code == wire.CloseRevoked || closed.Code == wire.CloseLogin
	}
	return wire.CodeOf(err) == wire.Denied
}

// explain puts an error into words for the person.
func explain(p *person, err error) error {
	if refused(err) {
		return notAccepted{fmt.Errorf("%s does not accept %s any more: it was revoked, or its certificate has ended. 'mlsfed login LINK' enrols a new device; --offline shows what is kept here, and 'mlsfed logout --offline --yes' deletes it", p.id.Organization(), deviceName(p.id))}
	}
	return plain(err)
}

// notAccepted says that the organization does not accept a device any more.
type notAccepted struct{ error }

func (e notAccepted) Unwrap() error { return e.error }

// plain takes from an error the words of the protocol and of the network that a person can do nothing
// with. What was said around an error that is plain already stays.
func plain(err error) error {
	var done plainError
	var e *wire.Error
	var dial *net.OpError
	switch {
	case errors.As(err, &done):
		return err
	case strings.Contains(err.Error(), x509.UnknownAuthorityError{}.Error()): // an error of the network has it as text
		return unbelieved(err)
	case errors.Is(err, mlscore.ErrPolicy):
		return againstRules(err)
	case errors.As(err, &dial) && dial.Op == "dial":
		return unreachable(err, dial)
	case !errors.As(err, &e) || e.Text == "":
		return err
	}
	text := people(clean(e.Text))
	switch e.Code {
	case wire.NotFound:
		text = "not found: " + text
	case wire.NoneLeft:
		who, _, found := strings.Cut(strings.TrimSuffix(text, " can be added now"), " has a KeyPackage")
		if found || who != text {
			text = who + " can be added now"
		}
		text += ": try again when one was online"
	case wire.NotAdmitted:
		who, _, _ := strings.Cut(text, ": ")
		if m := regexp.MustCompile(`([a-z0-9.-]+) is (?:not in the allow-list|suspended)`).FindStringSubmatch(text); m != nil {
			who = m[1]
		}
		text = fmt.Sprintf("your organization does not talk to %s: ask its operator", who)
	case wire.NoQuorum:
		text = noQuorum(text, e.Nodes)
	case wire.Unavailable:
		if stands := standsStill(text); stands != "" {
			text = stands
		}
	}
	return plainError{e, text}
}

// noQuorum says why nobody orders a change. What nodes said to each other is for operators, and in their logs.
func noQuorum(text string, nodes []wire.NodeID) string {
	if stands := standsStill(text); stands != "" {
		return stands
	}
	return fmt.Sprintf("too few nodes that vote on the conversation can be reached: it waits for %s", waitedFor(nodes))
}

// standsStill says that operators have to recover a conversation, "" if a node's text does not say so.
func standsStill(text string) string {
	m := regexp.MustCompile(`node ([a-z0-9.-]+) was restored from a backup and held the only vote`).FindStringSubmatch(text)
	if m == nil {
		return ""
	}
	return fmt.Sprintf("the conversation stands still: %s, which votes on it, was restored from a backup. The operator of another organization in it brings it on, with 'mlsfed recover'", wire.NodeID(m[1]).Organization())
}

// waitedFor names the organizations of nodes, each once.
func waitedFor(nodes []wire.NodeID) string {
	var list []string
	for _, n := range nodes {
		if d := string(n.Organization()); !slices.Contains(list, d) {
			list = append(list, d)
		}
	}
	if len(list) == 0 {
		return "other organizations"
	}
	return strings.Join(list, ", ")
}

// unreachable says where nobody answers, and why: once.
func unreachable(err error, dial *net.OpError) error {
	why := dial.Err
	for inner := why; inner != nil; inner = errors.Unwrap(inner) {
		why = inner
	}
	if dial.Addr == nil {
		return plainError{err, why.Error()}
	}
	return plainError{err, fmt.Sprintf("%v: %v", dial.Addr, why)}
}

// unbelieved says whose certificate is signed by a root that this device does not believe.
func unbelieved(err error) error {
	who := "a certificate"
	if m := regexp.MustCompile(`of "([^"]+)" does not verify`).FindStringSubmatch(err.Error()); m != nil {
		who = "the certificate of " + people(clean(m[1]))
	}
	return plainError{err, who + " is signed by a root that this device does not believe: 'mlsfed trust' shows which are offered, and accepts one"}
}

// againstRules is what the conversation's rules say against a change, without what mlscore says around it.
func againstRules(err error) error {
	text := err.Error()
	if _, after, ok := strings.Cut(text, "refused by the application: "); ok {
		text, _, _ = strings.Cut(after, " [")
	}
	return plainError{err, people(clean(text))}
}

// people writes the identifiers in a text as people do.
func people(text string) string {
	identifiers := regexp.MustCompile(`mimi://([a-z0-9.-]+)/(?:u/([^/\s,:;]+)|d/([^/\s,:;]+)/([^/\s,:;]+))`)
	return identifiers.ReplaceAllStringFunc(text, func(s string) string {
		m := identifiers.FindStringSubmatch(s)
		if m[2] != "" {
			return m[2] + "@" + m[1]
		}
		return m[3] + "@" + m[1] + "/" + m[4]
	})
}

// plainError is an error of the network without the protocol's words in its text.
type plainError struct {
	err  error
	text string
}

func (e plainError) Error() string { return clean(e.text) }
func (e plainError) Unwrap() error { return e.err }
