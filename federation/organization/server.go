package organization

import "crypto/tls"

// ServerTLS returns the configuration of a server whose clients know the organization's root and accept any node of the
// organization: a gateway. The server presents the node's current certificate and the root, so that a client that knows
// only the hash of the root can verify the chain.
func (id *Identity) ServerTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			c := *id.current.Load()
			c.Certificate = [][]byte{c.Leaf.Raw, id.Root.Raw}
			return &c, nil
		},
	}
}
