package organization

import (
	"crypto/x509"
	"errors"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// nodeName returns the name in a node's certificate: its only DNS name, without any other name. A certificate of a
// device names a URI and no DNS name.
func nodeName(c *x509.Certificate) (wire.NodeID, error) {
	if len(c.DNSNames) != 1 || len(c.URIs)+len(c.EmailAddresses)+len(c.IPAddresses) != 0 {
		return "", refuse(reasonNotNode, "the certificate does not name one node and nothing else")
	}
	n, err := wire.ParseNodeID(c.DNSNames[0])
	if err != nil {
		return "", refuse(ReasonWrongName, "%v", err)
	}
	return n, nil
}

// Verifier verifies the certificates and records of nodes of the own organization and of those in the allow-list.
type Verifier struct {
	own   *Identity
	peers *Peers
	now   func() time.Time
}

// NewVerifier returns a Verifier. The time from now decides which certificates are valid.
func NewVerifier(own *Identity, peers *Peers, now func() time.Time) *Verifier {
	return &Verifier{own: own, peers: peers, now: now}
}

// Root returns the root certificate of the own organization or of an admitted one. The error is a *Refusal.
func (v *Verifier) Root(d wire.Domain) (*x509.Certificate, error) {
	if d == v.own.Domain {
		return v.own.Root, nil
	}
	p, ok := v.peers.Get(d)
	switch {
	case !ok:
		return nil, refuse(ReasonNotAdmitted, "%s is not in the allow-list", d)
	case p.State != Admitted:
		return nil, refuse(ReasonSuspended, "%s is suspended", d)
	}
	return p.Root, nil
}

// Admits reports whether an organization is admitted or the own one.
func (v *Verifier) Admits(d wire.Domain) bool {
	_, err := v.Root(d)
	return err == nil
}

// Node verifies a node's certificate and returns the name that it proves. With an error, the name is the one that the
// certificate claims.
func (v *Verifier) Node(c *x509.Certificate, usage x509.ExtKeyUsage) (wire.NodeID, error) {
	n, err := nodeName(c)
	if err != nil {
		return "", err
	}
	root, err := v.Root(n.Organization())
	if err != nil {
		return n, err
	}
	return n, verifyNode(c, n, root, usage, v.now())
}

// verifyNode checks that the certificate of node n was signed by root itself for a node, and is valid now.
func verifyNode(c *x509.Certificate, n wire.NodeID, root *x509.Certificate, usage x509.ExtKeyUsage, now time.Time) error {
	if c.IsCA {
		return refuse(reasonNotNode, "the certificate of %s is one of an authority", n)
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
		return refuse(ReasonExpired, "the certificate of %s, or its organization's root, is valid from %s to %s", n,
			c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339))
	case errors.As(err, &unknown):
		return refuse(ReasonWrongOrganization, "the certificate of %s was not signed by the root that is admitted for %s", n, n.Organization())
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return refuse(reasonNotNode, "the certificate of %s is for something else than a node's links", n)
	}
	return refuse(ReasonWrongOrganization, "the certificate of %s: %v", n, err)
}
