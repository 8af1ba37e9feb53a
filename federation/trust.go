package federation

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// refusal is why a certificate or a record is not believed, or an address not connected to.
type refusal struct {
	reason string // a label of metrics: one of the constants below, or of those of records and addresses
	text   string
}

// The reasons.
const (
	notAdmitted   = "not_admitted"       // the organization is not in the allow-list, or no longer
	isSuspended   = "suspended"          // it is, suspended
	badName       = "wrong_name"         // not the name of a node, or not of the one that was dialed
	badChain      = "wrong_organization" // the chain does not end in the root admitted for the name
	isExpired     = "expired"            // or not valid yet
	notNode       = "not_a_node"         // a certificate for something else
	noCertificate = "no_certificate"
	oldTLS        = "tls_version"
	noProtocol    = "protocol" // no application protocol in common
	slowHandshake = "handshake_timeout"
	badHandshake  = "handshake"
	tooMany       = "too_many"
)

func (r *refusal) Error() string { return r.text }

func refuse(reason, format string, args ...any) *refusal {
	return &refusal{reason, fmt.Sprintf(format, args...)}
}

// nodeName is the name in a node's certificate: its one DNS name, and nothing beside it. A certificate
// of a device names a URI and no DNS name.
func nodeName(c *x509.Certificate) (wire.NodeID, error) {
	if len(c.DNSNames) != 1 || len(c.URIs)+len(c.EmailAddresses)+len(c.IPAddresses) != 0 {
		return "", refuse(notNode, "the certificate does not name one node and nothing else")
	}
	n, err := wire.ParseNodeID(c.DNSNames[0])
	if err != nil {
		return "", refuse(badName, "%v", err)
	}
	return n, nil
}

// trust knows whom to believe: the own organization and those of the allow-list.
type trust struct {
	own   *Identity
	peers *Peers
	clock Clock
}

// root is the root of an organization that is believed.
func (t *trust) root(d wire.Domain) (*x509.Certificate, error) {
	if d == t.own.Domain {
		return t.own.Root, nil
	}
	p, ok := t.peers.get(d)
	switch {
	case !ok:
		return nil, refuse(notAdmitted, "%s is not in the allow-list", d)
	case p.State != Admitted:
		return nil, refuse(isSuspended, "%s is suspended", d)
	}
	return p.Root, nil
}

// believes reports whether an organization is admitted or the own one.
func (t *trust) believes(d wire.Domain) bool {
	_, err := t.root(d)
	return err == nil
}

// node verifies a node's certificate and returns the name that it proves.
func (t *trust) node(c *x509.Certificate, usage x509.ExtKeyUsage) (wire.NodeID, error) {
	n, err := nodeName(c)
	if err != nil {
		return "", err
	}
	root, err := t.root(n.Organization())
	if err != nil {
		return n, err
	}
	return n, verifyNode(c, n, root, usage, t.clock.Now())
}

// verifyNode holds that the certificate of node n was signed by root itself for a node, and is valid now.
func verifyNode(c *x509.Certificate, n wire.NodeID, root *x509.Certificate, usage x509.ExtKeyUsage, now time.Time) error {
	if c.IsCA {
		return refuse(notNode, "the certificate of %s is one of an authority", n)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	_, err := c.Verify(x509.VerifyOptions{
		DNSName: string(n), Roots: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err == nil {
		return nil
	}
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return refuse(isExpired, "the certificate of %s, or its organization's root, is valid from %s to %s", n,
			c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339))
	case errors.As(err, &unknown):
		return refuse(badChain, "the certificate of %s was not signed by the root that is admitted for %s", n, n.Organization())
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return refuse(notNode, "the certificate of %s is for something else than a node's links", n)
	}
	return refuse(badChain, "the certificate of %s: %v", n, err)
}
