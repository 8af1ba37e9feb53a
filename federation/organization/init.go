package organization

import (
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/mlsfed/mlsfed/federation/internal/atomicfile"
	"github.com/mlsfed/mlsfed/wire"
)

// InitOptions are the parameters of Init and InitNode.
type InitOptions struct {
	Domain wire.Domain
	Node   wire.NodeID // "" is n1 of the domain
	// Address is the "host:port" at which other nodes reach the node: the one seed of the bundle. Further seeds are
	// added to it. Both may be empty; then the operators of other organizations must configure the node's address.
	Address string
	Seeds   []Seed

	Now      time.Time     // zero is the machine's clock
	Rand     io.Reader     // nil is crypto/rand
	RootLife time.Duration // 0 is ten years
	NodeLife time.Duration // 0 is 90 days
}

func (o InitOptions) withDefaults() (InitOptions, error) {
	if err := o.Domain.Check(); err != nil {
		return o, wire.Errorf(wire.Malformed, "init", "%v", err)
	}
	o.Node = cmp.Or(o.Node, "n1."+wire.NodeID(o.Domain))
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
	o.Rand = cmp.Or(o.Rand, rand.Reader)
	return o, nil
}

// Init makes an organization and its first node in the folder dir: root.key, root.crt, node.key, node.crt and
// bundle.json. It makes the folder, for its owner alone, and does not overwrite any of these files.
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
	content, err := bundle.encode()
	if err != nil {
		return err
	}
	if err := writeNode(dir, authority, o); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	err = atomicfile.Write(filepath.Join(dir, bundleFile), content, 0o644)
	if err == nil {
		err = writeKey(filepath.Join(dir, rootKeyFile), rootKey)
	}
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	return nil
}

// InitNode makes a further node of an organization in a separate folder: root.crt, node.key and node.crt. The root key
// is not copied. It uses the options Node, Now, Rand and NodeLife.
func InitNode(dir string, a *Authority, o InitOptions) error {
	o.Domain = a.domain()
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

// prepare makes the folder and refuses a folder with any of the files.
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

// writeNode makes the key and certificate of a node, and writes them with the root certificate.
func writeNode(dir string, a *Authority, o InitOptions) error {
	_, key, err := ed25519.GenerateKey(o.Rand)
	if err != nil {
		return err
	}
	der, err := a.issueNode(o.Node, key.Public(), o.Now, o.NodeLife, o.Rand)
	if err != nil {
		return err
	}
	if err := writeKey(filepath.Join(dir, nodeKeyFile), key); err != nil {
		return err
	}
	for file, c := range map[string][]byte{rootCertFile: a.certificate.Raw, nodeCertFile: der} {
		if err := atomicfile.Write(filepath.Join(dir, file), encodeCertificate(c), 0o644); err != nil {
			return err
		}
	}
	return nil
}
