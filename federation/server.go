package federation

import "crypto/tls"

// ServerTLS is for a server whose clients know the organization's root, and are content with any node of
// the organization: a gateway. It presents the node's certificate, as it is renewed, and the root, so
// that a client that knows the root by its hash alone can verify the chain.
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
