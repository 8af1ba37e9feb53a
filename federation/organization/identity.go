package organization

import (
	"cmp"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/mlsfed/mlsfed/federation/internal/atomicfile"
	"github.com/mlsfed/mlsfed/federation/lineage"
	"github.com/mlsfed/mlsfed/wire"
)

// The files of an identity's folder.
const (
	rootKeyFile  = "root.key"
	rootCertFile = "root.crt"
	nodeKeyFile  = "node.key"
	nodeCertFile = "node.crt"
	bundleFile   = "bundle.json"
)

// KeyFiles names the files of an identity that hold private keys.
var KeyFiles = []string{rootKeyFile, nodeKeyFile}

// Identity has the key and certificate of a node, and the root of its organization. It is safe for concurrent use. A
// renewed certificate replaces the old one while the identity is in use.
type Identity struct {
	Domain wire.Domain
	Node   wire.NodeID
	Root   *x509.Certificate
	// Authority signs for the organization. It is nil if the root key is kept elsewhere: the node runs without it,
	// and the holder of the key renews the node's certificate.
	Authority *Authority

	dir     string
	key     crypto.Signer
	current atomic.Pointer[tls.Certificate]
	read    atomic.Pointer[stamp] // of the file of current
}

// LoadIdentity reads a folder that Init or InitNode has made. root.key may be missing. An expired certificate is
// loaded, so that it can be renewed.
func LoadIdentity(dir string) (*Identity, error) {
	root, err := readCertificate(filepath.Join(dir, rootCertFile))
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	if len(root.DNSNames) != 1 {
		return nil, fmt.Errorf("identity: %s is for %.200q, wanted one domain", rootCertFile, root.DNSNames)
	}
	id := &Identity{Domain: wire.Domain(root.DNSNames[0]), Root: root, dir: dir}
	if err := errors.Join(id.Domain.Check(), lineage.CheckRoot(root, id.Domain)); err != nil {
		return nil, fmt.Errorf("identity: %s: %w", rootCertFile, err)
	}
	if id.key, err = readKey(filepath.Join(dir, nodeKeyFile)); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	if err := id.loadAuthority(); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	if _, err := id.Reload(); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	return id, nil
}

func (id *Identity) loadAuthority() error {
	key, err := readKey(filepath.Join(id.dir, rootKeyFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !sameKey(id.Root, key) {
		return fmt.Errorf("%s does not belong to %s", rootKeyFile, rootCertFile)
	}
	id.Authority = &Authority{certificate: id.Root, key: key}
	return nil
}

// Reload reads the node's certificate again, if its file has changed, and reports whether it has. A certificate of
// another node, key or organization is refused, and the old one stays in use.
func (id *Identity) Reload() (changed bool, err error) {
	path := filepath.Join(id.dir, nodeCertFile)
	info, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	now := stampOf(info)
	if seen := id.read.Load(); seen != nil && *seen == now {
		return false, nil
	}
	leaf, err := readCertificate(path)
	if err != nil {
		return false, err
	}
	defer func() {
		if err == nil {
			id.read.Store(&now)
		}
	}()
	old := id.current.Load()
	if old != nil && old.Leaf.Equal(leaf) {
		return false, nil
	}
	if !sameKey(leaf, id.key) {
		return false, fmt.Errorf("%s does not belong to %s", nodeCertFile, nodeKeyFile)
	}
	if err := leaf.CheckSignatureFrom(id.Root); err != nil {
		return false, fmt.Errorf("%s is not signed by %s: %w", nodeCertFile, rootCertFile, err)
	}
	node, err := nodeName(leaf)
	if err != nil {
		return false, fmt.Errorf("%s: %w", nodeCertFile, err)
	}
	if node.Organization() != id.Domain || id.Node != "" && id.Node != node {
		return false, fmt.Errorf("%s is for %s, wanted a certificate of %s", nodeCertFile, node, cmp.Or(string(id.Node), "a node of "+string(id.Domain)))
	}
	if old == nil {
		id.Node = node
	}
	id.current.Store(&tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: id.key, Leaf: leaf})
	return old != nil, nil
}

// Certificate returns the node's current certificate.
func (id *Identity) Certificate() *x509.Certificate { return id.current.Load().Leaf }

// TLSCertificate returns the node's current certificate with its key.
func (id *Identity) TLSCertificate() *tls.Certificate { return id.current.Load() }

// Renew replaces the node's certificate, on disk and in use, by one that begins now. It needs the root key.
func (id *Identity) Renew(now time.Time) error {
	if id.Authority == nil {
		return wire.Errorf(wire.Invalid, "renew", "%s is not in %s: renew where it is kept, and copy %s here", rootKeyFile, id.dir, nodeCertFile)
	}
	der, err := id.Authority.issueNode(id.Node, id.key.Public(), now, 0, nil)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(id.dir, nodeCertFile), encodeCertificate(der), 0o644); err != nil {
		return fmt.Errorf("renew: %w", err)
	}
	_, err = id.Reload()
	return err
}

// Bundle reads the bundle in the identity's folder, for other organizations.
func (id *Identity) Bundle() (*Bundle, error) { return ReadBundle(filepath.Join(id.dir, bundleFile)) }

// RenewNode replaces the certificate of the node in dir by one that begins now. A running node notices
// the new certificate by itself.
func RenewNode(dir string, now time.Time) error {
	id, err := LoadIdentity(dir)
	if err != nil {
		return err
	}
	return id.Renew(now)
}
