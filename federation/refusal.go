package federation

import (
	"fmt"

	"github.com/mlsfed/mlsfed/federation/organization"
)

// Reasons for refused connections, in addition to those of an [organization.Verifier].
const (
	noCertificate = "no_certificate"
	oldTLS        = "tls_version"
	noProtocol    = "protocol" // no application protocol in common
	slowHandshake = "handshake_timeout"
	badHandshake  = "handshake"
	tooMany       = "too_many"
)

func refuse(reason, format string, args ...any) *organization.Refusal {
	return &organization.Refusal{Reason: reason, Text: fmt.Sprintf(format, args...)}
}
