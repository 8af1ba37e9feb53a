package federation

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

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

// KeyFiles are those of an identity's files that hold private keys.
var KeyFiles = []string{rootKeyFile, nodeKeyFile}

// Identity is who a node is: its key and certificate, and the root of its organization. It is safe for
// concurrent use; a renewed certificate replaces the old one while it is in use.
type Identity struct {
	Domain wire.Domain
	Node   wire.NodeID
	Root   *x509.Certificate
	// Authority signs for the organization. It is nil where the root key is kept elsewhere: the node
	// runs without it, and its certificate is then renewed by whoever has the key.
	Authority *Authority

	dir     string
	key     crypto.Signer
	current atomic.Pointer[tls.Certificate]
	read    atomic.Pointer[stamp] // of the file that current was read from
}

// LoadIdentity reads the folder that Init or InitNode has made. root.key may be missing. An expired
// certificate is loaded, so that it can be renewed.
func LoadIdentity(dir string) (*Identity, error) {
	root, err := readCertificate(filepath.Join(dir, rootCertFile))
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	if len(root.DNSNames) != 1 {
		return nil, fmt.Errorf("identity: %s is for %.200q, wanted one domain", rootCertFile, root.DNSNames)
	}
	id := &Identity{Domain: wire.Domain(root.DNSNames[0]), Root: root, dir: dir}
	if err := errors.Join(id.Domain.Check(), checkRoot(root, id.Domain)); err != nil {
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
	id.Authority = &Authority{id.Root, key}
	return nil
}

// Reload reads the node's certificate again, if its file has changed, and says whether it has. A certificate that is not
// one of this node, key and organization is refused, and the old one stays.
func (id *Identity) Reload() (changed bool, err error) {
	path := filepath.Join(id.dir, nodeCertFile)
	info, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	now := stamp{info.Size(), info.ModTime(), inode(info)}
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
		return false, fmt.Errorf("%s is for %s, wanted a certificate of %s", nodeCertFile, node, or(string(id.Node), "a node of "+string(id.Domain)))
	}
	if old == nil {
		id.Node = node
	}
	id.current.Store(&tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: id.key, Leaf: leaf})
	return old != nil, nil
}

// Certificate is the node's current certificate.
func (id *Identity) Certificate() *x509.Certificate { return id.current.Load().Leaf }

// Renew replaces the node's certificate by one that begins now, on disk and in use. It needs the root
// key.
func (id *Identity) Renew(now time.Time) error {
	if id.Authority == nil {
		return wire.Errorf(wire.Invalid, "renew", "%s is not in %s: renew where it is kept, and copy %s here", rootKeyFile, id.dir, nodeCertFile)
	}
	der, err := id.Authority.IssueNode(id.Node, id.key.Public(), now, 0, nil)
	if err != nil {
		return err
	}
	if err := writeAtomic(filepath.Join(id.dir, nodeCertFile), encodeCertificate(der), 0o644); err != nil {
		return fmt.Errorf("renew: %w", err)
	}
	_, err = id.Reload()
	return err
}

// Bundle reads the bundle that the identity's folder holds, to hand to other organizations.
func (id *Identity) Bundle() (*Bundle, error) { return ReadBundle(filepath.Join(id.dir, bundleFile)) }

// RenewNode replaces the certificate of the node in dir by one that begins now. A running node takes it
// up by itself.
func RenewNode(dir string, now time.Time) error {
	id, err := LoadIdentity(dir)
	if err != nil {
		return err
	}
	return id.Renew(now)
}
