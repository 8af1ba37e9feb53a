package organization

import "fmt"

// Refusal is the error of a certificate or a record that is not accepted. Package federation uses it for connections
// and addresses too.
type Refusal struct {
	Reason string // a label of metrics: one of the constants below, or a reason of package federation
	Text   string
}

// Reasons of a Verifier.
const (
	ReasonNotAdmitted       = "not_admitted"       // the organization is not in the allow-list, or no longer
	ReasonSuspended         = "suspended"          // the organization is in the allow-list, suspended
	ReasonWrongName         = "wrong_name"         // not the name of a node, or not the name of the node that was dialed
	ReasonWrongOrganization = "wrong_organization" // the chain does not end in the root that is admitted for the name
	ReasonExpired           = "expired"            // or not valid yet
	ReasonMalformed         = "malformed"          // a record that cannot be decoded

	reasonNotNode   = "not_a_node" // a certificate for another purpose
	reasonOversized = "oversized"  // a record
	reasonForged    = "forged"     // a record that its node did not sign
	reasonFuture    = "future"     // a record with a number further ahead than clocks differ
)

// Error implements error.
func (r *Refusal) Error() string { return r.Text }

func refuse(reason, format string, args ...any) *Refusal {
	return &Refusal{Reason: reason, Text: fmt.Sprintf(format, args...)}
}
