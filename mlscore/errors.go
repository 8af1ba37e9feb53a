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
	// ErrMissing: a needed object is absent: a referenced proposal, a PSK, the ratchet tree, a private key.
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

// Error reports which rule was broken, by which object, and how.
type Error struct {
	Kind   error  // one of the Err values above
	Clause string // clause of RFC 9420 that has the rule, like "§12.1.3"; empty for a rule that is not in the RFC
	Object string // object that broke the rule, like "proposal 2 (remove)" or "leaf 7"
	Detail string // how
	Err    error  // the cause, if the cause is another error
}

// Error returns one line: object, detail, kind and clause.
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

// Unwrap returns the kind and the cause.
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

// because makes an Error of a cause that has a kind of its own. An error has only one kind, so the kind of the cause
// appears only in the text.
func because(cause, kind error, clause, object, format string, args ...any) error {
	return &Error{Kind: kind, Clause: clause, Object: object, Detail: fmt.Sprintf(format, args...) + ": " + cause.Error()}
}

// within adds the object in which err arose, and keeps the kind and clause of err. An error that is not an Error
// becomes an Error of the given kind.
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

// malformed wraps an error of decoding. An error that already names its rule keeps its kind and clause.
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
