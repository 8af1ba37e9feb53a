package mlscore

import (
	"errors"
	"fmt"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// The kinds of failure, for errors.Is. Every error that leaves this package wraps exactly one of
// them, so that a caller can decide what to do without reading text.
var (
	// ErrStale: the message belongs to an epoch that has ended and whose keys are gone, or a commit
	// was made for an epoch that is no longer the current one.
	ErrStale = errors.New("stale")
	// ErrFuture: the message belongs to an epoch that has not begun here. Hold it until the commit
	// in between has been processed.
	ErrFuture = errors.New("from a future epoch")
	// ErrNotForUs: the message is for another group, another joiner or another recipient.
	ErrNotForUs = errors.New("not for us")
	// ErrMalformed: the bytes are not an encoding of what they claim to be.
	ErrMalformed = errors.New("malformed")
	// ErrForged: a signature, tag, hash or ciphertext does not verify.
	ErrForged = errors.New("forged")
	// ErrInvalid: well-formed and authentic, but against a rule of the protocol.
	ErrInvalid = errors.New("invalid")
	// ErrPolicy: refused by the application (credential validation, a limit on who may do what).
	ErrPolicy = errors.New("against policy")
	// ErrUnsupported: a version, cipher suite, extension, proposal or credential type that this
	// client does not support.
	ErrUnsupported = errors.New("unsupported")
	// ErrMissing: something needed is not here: a referenced proposal, a PSK, the ratchet tree, a
	// private key.
	ErrMissing = errors.New("missing")
	// ErrLimit: a configured limit would be exceeded.
	ErrLimit = errors.New("over the limit")
	// ErrReplay: the message was processed before, or its key was used and erased.
	ErrReplay = errors.New("replayed")
	// ErrGroupEnded: this member was removed, or the group was reinitialized; nothing can be sent.
	ErrGroupEnded = errors.New("the group has ended for this member")
	// ErrStore: the Store refused or lost a write; the operation did not happen.
	ErrStore = errors.New("store")
	// ErrMisuse: the caller broke the contract of the API.
	ErrMisuse = errors.New("misuse")
)

// Error says which rule was broken, by which object, and how.
type Error struct {
	Kind   error  // one of the Err values above
	Clause string // where RFC 9420 says so, like "§12.1.3"; empty where the rule is not the RFC's
	Object string // what broke it, like "proposal 2 (remove)" or "leaf 7"
	Detail string // how
	Err    error  // the cause, if another error was
}

// Error gives one line: object, what is wrong, kind and clause.
func (e *Error) Error() string {
	s := e.Detail
	if e.Object != "" {
		s = e.Object + ": " + s
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Clause != "" {
		return fmt.Sprintf("%s [%v, RFC 9420 %s]", s, e.Kind, e.Clause)
	}
	return fmt.Sprintf("%s [%v]", s, e.Kind)
}

// Unwrap gives the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// fail makes an Error without a cause.
func fail(kind error, clause, object, format string, args ...any) error {
	return &Error{Kind: kind, Clause: clause, Object: object, Detail: fmt.Sprintf(format, args...)}
}

// because makes an Error of a cause that has a kind of its own: an error has one, so that of the cause
// goes into the text alone.
func because(cause, kind error, clause, object, format string, args ...any) error {
	return &Error{Kind: kind, Clause: clause, Object: object, Detail: fmt.Sprintf(format, args...) + ": " + cause.Error()}
}

// within names the object in which err arose, keeping its kind and clause. An error that is not yet
// an Error becomes one of the given kind.
func within(object string, kind error, err error) error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		inner := *e
		if object != "" && e.Object != "" {
			object += ", "
		}
		inner.Object = object + e.Object
		return &inner
	}
	return &Error{Kind: kind, Object: object, Detail: "failed", Err: err}
}

// malformed wraps an error met in decoding. One that names its rule already keeps kind and clause.
func malformed(object string, err error) error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return within(object, ErrMalformed, err)
	}
	kind, clause := ErrMalformed, ""
	switch {
	case errors.Is(err, codec.ErrLimit):
		kind = ErrLimit
	case errors.Is(err, codec.ErrPresence):
		clause = "§2.1.1"
	case errors.Is(err, codec.ErrNotMinimal), errors.Is(err, codec.ErrPrefix):
		clause = "§2.1.2"
	}
	return &Error{Kind: kind, Clause: clause, Object: object, Detail: "does not decode", Err: err}
}
