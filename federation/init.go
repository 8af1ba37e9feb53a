package federation

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// InitOptions say what Init makes.
type InitOptions struct {
	Domain wire.Domain
	Node   wire.NodeID // "" is n1 of the domain
	// Address is where the node will be reached, "host:port": the one seed of the bundle. Further seeds
	// are added to it. Both may be empty; then others must be told where a node is.
	Address string
	Seeds   []Seed

	Now      time.Time     // zero is the machine's clock
	Rand     io.Reader     // nil is crypto/rand
	RootLife time.Duration // 0 is RootLife
	NodeLife time.Duration // 0 is NodeLife
}

func (o InitOptions) withDefaults() (InitOptions, error) {
	if err := o.Domain.Check(); err != nil {
		return o, wire.Errorf(wire.Malformed, "init", "%v", err)
	}
	o.Node = or(o.Node, "n1."+wire.NodeID(o.Domain))
	if err := o.Node.Check(); err != nil {
		return o, wire.Errorf(wire.Malformed, "init", "%v", err)
	}
	if o.Node.Organization() != o.Domain {
		return o, wire.Errorf(wire.Invalid, "init", "%s is not a node of %s: its name is one label and then the domain", o.Node, o.Domain)
	}
	if o.Address != "" {
		o.Seeds = append([]Seed{{Node: o.Node, Address: o.Address}}, o.Seeds...)
	}
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	o.Rand = or(o.Rand, rand.Reader)
	return o, nil
}

// Init makes an organization and its first node in the folder dir: root.key, root.crt, node.key,
// node.crt and bundle.json. It makes the folder, for its owner alone, and refuses to overwrite anything
// that it would write.
func Init(dir string, o InitOptions) error {
	o, err := o.withDefaults()
	if err != nil {
		return err
	}
	if err := prepare(dir, rootKeyFile, rootCertFile, nodeKeyFile, nodeCertFile, bundleFile); err != nil {
		return err
	}
	_, rootKey, err := ed25519.GenerateKey(o.Rand)
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	authority, err := newAuthority(o.Domain, rootKey, o.Now, o.RootLife, o.Rand)
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	bundle, err := NewBundle(o.Domain, authority.certificate, o.Seeds...)
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	content, err := bundle.Encode()
	if err != nil {
		return err
	}
	if err := writeNode(dir, authority, o); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	err = writeAtomic(filepath.Join(dir, bundleFile), content, 0o644)
	if err == nil {
		err = writeKey(filepath.Join(dir, rootKeyFile), rootKey)
	}
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	return nil
}

// InitNode makes another node of an organization in a folder of its own: root.crt, node.key and
// node.crt. The root key stays where it is. Of the options, Node, Now, Rand and NodeLife count.
func InitNode(dir string, a *Authority, o InitOptions) error {
	o.Domain = a.Domain()
	o, err := o.withDefaults()
	if err != nil {
		return err
	}
	if err := prepare(dir, rootCertFile, nodeKeyFile, nodeCertFile); err != nil {
		return err
	}
	if err := writeNode(dir, a, o); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	return nil
}

// prepare makes the folder and refuses one that holds any of the files.
func prepare(dir string, files ...string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	for _, f := range files {
		_, err := os.Lstat(filepath.Join(dir, f))
		if err == nil {
			return wire.Errorf(wire.Exists, "init", "%s holds %s already: choose another folder, or remove it if nobody needs that identity", dir, f)
		}
		if !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("init: %w", err)
		}
	}
	return nil
}

// writeNode makes a node's key and certificate, and writes them with the root certificate.
func writeNode(dir string, a *Authority, o InitOptions) error {
	var key crypto.Signer
	_, key, err := newKey(o.Rand)
	if err != nil {
		return err
	}
	der, err := a.IssueNode(o.Node, key.Public(), o.Now, o.NodeLife, o.Rand)
	if err != nil {
		return err
	}
	if err := writeKey(filepath.Join(dir, nodeKeyFile), key); err != nil {
		return err
	}
	for file, c := range map[string][]byte{rootCertFile: a.certificate.Raw, nodeCertFile: der} {
		if err := writeAtomic(filepath.Join(dir, file), encodeCertificate(c), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func newKey(random io.Reader) (crypto.PublicKey, crypto.Signer, error) {
	public, private, err := ed25519.GenerateKey(random)
	return public, private, err
}
