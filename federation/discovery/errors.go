package discovery

import (
	"fmt"

	"github.com/mlsfed/mlsfed/wire"
)

// Codes of failed look-ups, as a device sees them.
const (
	NoMlsfed wire.Code = "no_mlsfed" // the domain has no TXT record: is the name right?
	Failed   wire.Code = "discovery" // what the domain publishes cannot be used: its operator has to mend it
	Later    wire.Code = "later"     // too many look-ups are under way: try again
)

// Reason is the reason of an Error, as a label of metrics.
type Reason string

// The reasons.
const (
	ReasonName        Reason = "name"        // not the name of an organization
	ReasonNoTXT       Reason = "no_txt"      // no TXT record: nothing was fetched
	ReasonTXT         Reason = "txt"         // a TXT record that breaks a rule
	ReasonDNS         Reason = "dns"         // the name servers do not answer
	ReasonNoAddress   Reason = "no_address"  // the host name has no address
	ReasonInner       Reason = "inner"       // the host name leads to an inner address
	ReasonConnect     Reason = "connect"     // no connection
	ReasonCertificate Reason = "certificate" // TLS, or the certificate of the web server
	ReasonRedirect    Reason = "redirect"
	ReasonStatus      Reason = "status"  // another status than 200
	ReasonContent     Reason = "content" // no JSON
	ReasonSize        Reason = "size"    // headers or body over the limit
	ReasonTimeout     Reason = "timeout" // the web server does not answer in time
	ReasonDocument    Reason = "document"
	ReasonBusy        Reason = "busy"
)

// reasons lists all reasons.
var reasons = []Reason{
	ReasonName, ReasonNoTXT, ReasonTXT, ReasonDNS, ReasonNoAddress, ReasonInner, ReasonConnect, ReasonCertificate, ReasonRedirect,
	ReasonStatus, ReasonContent, ReasonSize, ReasonTimeout, ReasonDocument, ReasonBusy,
}

// Error is the error of a look-up.
type Error struct {
	Reason Reason
	Domain wire.Domain // "" if the name does not parse
	Text   string      // a sentence for people
	Err    error       // the cause, for logs; may be nil
}

// Error implements error.
func (e *Error) Error() string { return e.Text }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Code returns the code that a device sees.
func (e *Error) Code() wire.Code {
	switch e.Reason {
	case ReasonName:
		return wire.Invalid
	case ReasonNoTXT:
		return NoMlsfed
	case ReasonDNS, ReasonConnect, ReasonTimeout:
		return wire.Unavailable
	case ReasonBusy:
		return Later
	}
	return Failed
}

// Is reports whether target is the error's code.
func (e *Error) Is(target error) bool {
	code, ok := target.(wire.Code)
	return ok && code == e.Code()
}

// refuse makes an Error. The text may contain names and values that others have chosen: it is made printable.
func refuse(reason Reason, d wire.Domain, format string, args ...any) *Error {
	return &Error{Reason: reason, Domain: d, Text: wire.Line(fmt.Sprintf(format, args...))}
}

func (e *Error) because(err error) *Error {
	e.Err = err
	return e
}
