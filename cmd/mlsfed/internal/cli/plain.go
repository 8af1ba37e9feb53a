package cli

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// Plain removes from an error the words of the protocol and of the network that do not help a person. The text around
// an error that is plain already stays.
func Plain(err error) error {
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
	text := WithNames(Clean(e.Text))
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
		if stopped := stoppedText(text); stopped != "" {
			text = stopped
		} else if m := regexp.MustCompile(`^([a-z0-9.-]+) cannot be reached: `).FindStringSubmatch(text); m != nil {
			text = fmt.Sprintf("%s cannot be reached now: try again later", wire.NodeID(m[1]).Organization())
		}
	}
	return PlainError(e, text)
}

// noQuorum describes why no node orders a change. Errors between nodes are for operators, and in their logs.
func noQuorum(text string, nodes []wire.NodeID) string {
	if stopped := stoppedText(text); stopped != "" {
		return stopped
	}
	return fmt.Sprintf("too few nodes that vote on the conversation can be reached: it waits for %s", waitedFor(nodes))
}

// stoppedText reports that operators have to recover a conversation, "" if a node's text does not mean that.
func stoppedText(text string) string {
	m := regexp.MustCompile(`node ([a-z0-9.-]+) was restored from a backup and held the only vote`).FindStringSubmatch(text)
	if m == nil {
		return ""
	}
	return fmt.Sprintf("the conversation is stopped: %s, which votes on it, was restored from a backup. The operator of another organization in it brings it on, with 'mlsfed recover'", wire.NodeID(m[1]).Organization())
}

// waitedFor returns the organizations of nodes, each once.
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

// unreachable describes which address does not answer, and why, each once.
func unreachable(err error, dial *net.OpError) error {
	why := dial.Err
	for inner := why; inner != nil; inner = errors.Unwrap(inner) {
		why = inner
	}
	if dial.Addr == nil {
		return PlainError(err, why.Error())
	}
	return PlainError(err, fmt.Sprintf("%v: %v", dial.Addr, why))
}

// unbelieved describes whose certificate is signed by a root that this device does not trust.
func unbelieved(err error) error {
	who := "a certificate"
	if m := regexp.MustCompile(`of "([^"]+)" does not verify`).FindStringSubmatch(err.Error()); m != nil {
		who = "the certificate of " + WithNames(Clean(m[1]))
	}
	return PlainError(err, who+" is signed by a root that this device does not believe: 'mlsfed trust' shows which are offered, and accepts one")
}

// againstRules returns the objection of the conversation's rules to a change, without the text that mlscore adds.
func againstRules(err error) error {
	text := err.Error()
	if _, after, ok := strings.Cut(text, "refused by the application: "); ok {
		text, _, _ = strings.Cut(after, " [")
	}
	return PlainError(err, WithNames(Clean(text)))
}

// PlainError returns an error with a text for people, which plain keeps.
func PlainError(err error, text string) error { return plainError{err, text} }

// plainError is an error of the network without the protocol's words in its text.
type plainError struct {
	err  error
	text string
}

func (e plainError) Error() string { return Clean(e.text) }
func (e plainError) Unwrap() error { return e.err }
