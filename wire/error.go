package wire

import (
	"errors"
	"fmt"
	"strings"
)

// Code is the kind of failure of an error. It is an error itself, so errors.Is(err, StaleEpoch) works on each error
// that wraps an Error with that code.
type Code string

// The codes. Each comment ends with the advice for the caller.
const (
	Malformed           Code = "malformed"            // the input breaks a rule of its encoding or form: do not send it again
	Version             Code = "version"              // made by a newer or unknown version: upgrade
	TooLarge            Code = "too_large"            // over a limit: make it smaller, or a blob
	UnknownConversation Code = "unknown_conversation" // this node holds no replica of it: ask another node
	NotReplica          Code = "not_replica"          // the asking node has no part in the conversation
	Exists              Code = "exists"               // a conversation with this id exists
	Closed              Code = "closed"               // the conversation has ended
	StaleEpoch          Code = "stale_epoch"          // the epoch has ended: process the winner in Error.Stale, then commit again
	Forged              Code = "forged"               // the signature or the handshake does not verify
	Invalid             Code = "invalid"              // well formed, but not allowed in the present state
	SubmissionReused    Code = "submission_reused"    // another submission had this id: choose a fresh one
	TooManyHeads        Code = "too_many_heads"       // the epoch is contested as often as it can be: wait for a head to expire
	Quota               Code = "quota"                // over the quota: wait, or ask the operator
	Busy                Code = "busy"                 // over a rate or a bound on concurrent work: retry later
	NoQuorum            Code = "no_quorum"            // no majority can be reached: Error.Nodes names the missing nodes; retry later with the same id
	BlobMissing         Code = "blob_missing"         // a blob that an entry names is not stored
	Unavailable         Code = "unavailable"          // the node is stopping or cannot be reached: retry elsewhere
	Internal            Code = "internal"             // a fault of this node: its log says more
	NotAdmitted         Code = "not_admitted"         // the organization is not in the allow-list, or suspended: ask the operator
)

// Known reports whether this build knows the code. A peer may answer with any other code.
func (c Code) Known() bool {
	switch c {
	case Denied, NotFound, NoneLeft, Malformed, Version, TooLarge, UnknownConversation, NotReplica, Exists,
		Closed, StaleEpoch, Forged, Invalid, SubmissionReused, TooManyHeads, Quota, Busy, NoQuorum, BlobMissing, Unavailable, Internal, NotAdmitted:
		return true
	}
	return false
}

// Error implements error.
func (c Code) Error() string { return strings.ReplaceAll(string(c), "_", " ") }

// Bounds of an Error, in bytes and elements. Longer texts are cut, not refused.
const (
	maxCode  = 32
	maxOp    = 64
	maxText  = 1024
	maxNodes = 64
	// MaxError bounds the encoding of an Error: its winner is one entry.
	MaxError = MaxEntry + 64<<10
)

// Error is a failure that crosses the network with all its fields.
type Error struct {
	Code Code   `cbor:"1,keyasint"`
	Op   string `cbor:"2,keyasint,omitempty"` // the operation that failed: "submit"
	Text string `cbor:"3,keyasint,omitempty"` // what happened, to what, and what to do; a text for people
	// Stale is set with StaleEpoch.
	Stale *Stale `cbor:"4,keyasint,omitempty"`
	// Nodes are the nodes that a majority lacks; set with NoQuorum.
	Nodes []NodeID `cbor:"5,keyasint,omitempty"`
}

// Stale is the data with which the loser of an epoch continues after one round trip.
type Stale struct {
	Epoch   Epoch          `cbor:"1,keyasint"`           // the current epoch of the branch that the submission's epoch led to
	Head    SequenceNumber `cbor:"2,keyasint"`           // the entry that opened it
	Winner  *Committed     `cbor:"3,keyasint,omitempty"` // the entry that ended the submission's epoch; nil when it is no longer kept
	OwnPast bool           `cbor:"4,keyasint,omitempty"` // the winner has the submission's own id
}

// Errorf makes an Error.
func Errorf(code Code, op, format string, args ...any) *Error {
	return &Error{Code: code, Op: op, Text: cut(Printable(fmt.Sprintf(format, args...)), maxText)}
}

// Error returns "op: code: text".
func (e *Error) Error() string {
	var b strings.Builder
	if e.Op != "" {
		b.WriteString(Line(e.Op) + ": ")
	}
	b.WriteString(Line(e.Code.Error()))
	if e.Text != "" {
		b.WriteString(": " + strings.ReplaceAll(Printable(e.Text), "\n", " "))
	}
	if e.Stale != nil {
		fmt.Fprintf(&b, " (now in epoch %d)", e.Stale.Epoch)
	}
	if len(e.Nodes) > 0 {
		fmt.Fprintf(&b, " (unreachable: %v)", e.Nodes)
	}
	return b.String()
}

// Is reports whether target is the error's code.
func (e *Error) Is(target error) bool {
	code, ok := target.(Code)
	return ok && code == e.Code
}

// CodeOf returns the code of the first Error in err's tree, Internal if there is none, or "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	var c Code
	if errors.As(err, &c) {
		return c
	}
	return Internal
}

// AsError converts err to an Error that can cross the network. An error of another kind becomes Internal with op and
// a text that reveals nothing about this node.
func AsError(op string, err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	var c Code
	if errors.As(err, &c) {
		return &Error{Code: c, Op: op}
	}
	return &Error{Code: Internal, Op: op, Text: "the node failed; its log says more"}
}

// Check refuses an error that exceeds its bounds.
func (e *Error) Check() error {
	if e.Code == "" || len(e.Code) > maxCode || len(e.Op) > maxOp || len(e.Text) > maxText || len(e.Nodes) > maxNodes {
		return Errorf(Malformed, "decode", "error with a code of %d, an operation of %d, a text of %d bytes and %d nodes",
			len(e.Code), len(e.Op), len(e.Text), len(e.Nodes))
	}
	for _, c := range e.Code {
		if (c < 'a' || c > 'z') && c != '_' {
			return Errorf(Malformed, "decode", "error with the code %q, wanted one of a to z and _", string(e.Code))
		}
	}
	for _, c := range e.Op {
		if c < ' ' || c > '~' {
			return Errorf(Malformed, "decode", "error of an operation %q, wanted ASCII characters that print", e.Op)
		}
	}
	for _, n := range e.Nodes {
		if err := n.Check(); err != nil {
			return Errorf(Malformed, "decode", "error: %v", err)
		}
	}
	if e.Stale != nil && e.Stale.Winner != nil {
		return e.Stale.Winner.Check()
	}
	return nil
}

// cut shortens s to n bytes without splitting a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return strings.ToValidUTF8(s, "?")
	}
	return strings.ToValidUTF8(s[:n], "")
}
