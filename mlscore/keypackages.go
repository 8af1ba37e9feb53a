package mlscore

import (
	"fmt"
	"time"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// KeyPackageOptions shape a KeyPackage.
type KeyPackageOptions struct {
	Lifetime       time.Duration // from NotBefore, or from now if that is zero; zero means 30 days
	NotBefore      time.Time     // when the lifetime begins; zero means an hour ago, since clocks differ
	LastResort     bool          // may be used more than once, when no other is left
	Extensions     Extensions    // of the KeyPackage
	LeafExtensions Extensions    // of the leaf node in it
	// Capabilities are announced in place of what the Config announces; nil means the latter. What the
	// KeyPackage itself needs is added: version, cipher suite, credential type, its own extensions. The
	// member's later leaves announce the Config's again, unless LeafUpdate.Capabilities says otherwise.
	Capabilities *Capabilities
}

// keyPackageRecord is what a client keeps of a KeyPackage until it is used.
type keyPackageRecord struct {
	keyPackage *KeyPackage
	initKey    Secret
	leafKey    Secret
	signer     Secret
}

func (k *keyPackageRecord) marshal() []byte {
	var w codec.Writer
	w.Uint8(stateVersion)
	w.Vector(k.keyPackage.encode)
	w.Bytes(k.initKey.Bytes())
	w.Bytes(k.leafKey.Bytes())
	w.Bytes(k.signer.Bytes())
	return w.Buffer()
}

func parseKeyPackageRecord(b []byte) (*keyPackageRecord, error) {
	r := codec.NewReader(b, ownLimits(b))
	checkVersion(r, stateVersion)
	k := &keyPackageRecord{}
	inner := codec.NewReader(r.Bytes(), ownLimits(b))
	k.keyPackage = decodeKeyPackage(inner)
	k.initKey, k.leafKey, k.signer = NewSecret(r.Bytes()), NewSecret(r.Bytes()), NewSecret(r.Bytes())
	if err := inner.Finish(); err != nil {
		r.Fail(err)
	}
	return k, malformed("stored KeyPackage", r.Finish())
}

// NewKeyPackage makes a KeyPackage and stores its private keys (§10).
func (c *Client) NewKeyPackage(id Identity, opts KeyPackageOptions) (*KeyPackage, error) {
	s, err := c.suite(id.CipherSuite)
	if err != nil {
		return nil, err
	}
	rec, err := c.newKeyPackage(s, id, opts)
	if err != nil {
		return nil, err
	}
	return rec.keyPackage, c.keep(rec)
}

// KeyPackageKeys are the private keys of a KeyPackage.
type KeyPackageKeys struct {
	Init      Secret // HPKE: opens the Welcome
	Leaf      Secret // HPKE: of the leaf node
	Signature Secret
}

// ExportKeyPackage gives a KeyPackage that waits to be used, with copies of its private keys: for a device
// that moves to another store. ErrMissing if it is not in the store. Both stores could join with the keys,
// so the caller deletes one of the two: see DeleteKeyPackage.
func (c *Client) ExportKeyPackage(ref []byte) (*KeyPackage, KeyPackageKeys, error) {
	v, ok, err := c.cfg.Store.Get(keyPackageKey(ref))
	if err != nil {
		return nil, KeyPackageKeys{}, storeError("KeyPackages", err)
	}
	if !ok {
		return nil, KeyPackageKeys{}, fail(ErrMissing, "§10", fmt.Sprintf("key package %x", ref), "is not in the store")
	}
	rec, err := parseKeyPackageRecord(v)
	if err != nil {
		return nil, KeyPackageKeys{}, err
	}
	return rec.keyPackage, KeyPackageKeys{rec.initKey, rec.leafKey, rec.signer}, nil
}

// ImportKeyPackage stores a KeyPackage that was made elsewhere, with copies of its private keys.
// ErrMisuse if they are not those of the KeyPackage.
func (c *Client) ImportKeyPackage(kp *KeyPackage, keys KeyPackageKeys) error {
	s, err := c.suite(kp.CipherSuite)
	if err != nil {
		return err
	}
	for _, k := range []struct {
		name string
		priv Secret
		pub  []byte
		of   func([]byte) ([]byte, error)
	}{
		{"init_key", keys.Init, kp.InitKey, s.publicKeyOf},
		{"encryption_key", keys.Leaf, kp.LeafNode.EncryptionKey, s.publicKeyOf},
		{"signature_key", keys.Signature, kp.LeafNode.SignatureKey, s.signaturePublicKey},
	} {
		pub, err := k.of(k.priv.Bytes())
		if err != nil {
			return within(k.name, ErrMisuse, err)
		}
		if string(pub) != string(k.pub) {
			return fail(ErrMisuse, "§10", k.name, "the private key is not that of the KeyPackage")
		}
	}
	return c.keep(&keyPackageRecord{kp, keys.Init.Clone(), keys.Leaf.Clone(), keys.Signature.Clone()})
}

func (c *Client) keep(rec *keyPackageRecord) error {
	ref, err := rec.keyPackage.Ref()
	if err != nil {
		return err
	}
	var b Batch
	b.put(keyPackageKey(ref), rec.marshal())
	defer b.erase()
	return applyBatch(c.cfg.Store, b)
}

func (c *Client) newKeyPackage(s *suite, id Identity, opts KeyPackageOptions) (*keyPackageRecord, error) {
	if opts.Lifetime == 0 {
		opts.Lifetime = 30 * 24 * time.Hour
	}
	leaf, err := c.leafFor(s, id, opts.LeafExtensions, opts.Capabilities)
	if err != nil {
		return nil, err
	}
	if opts.LastResort {
		opts.Extensions = opts.Extensions.With(Extension{ExtensionLastResort, []byte{}})
	}
	if c.cfg.GREASE == GREASEEverywhere {
		x, err := c.greaseExtension()
		if err != nil {
			return nil, err
		}
		opts.Extensions = opts.Extensions.With(x)
	}
	for _, x := range opts.Extensions {
		if !leaf.Capabilities.listsExtension(x.Type) {
			leaf.Capabilities.Extensions = append(leaf.Capabilities.Extensions, x.Type)
		}
	}
	if err := firstError(opts.Extensions.checkUnique(), leaf.Extensions.checkUnique()); err != nil {
		return nil, err
	}
	rec := &keyPackageRecord{signer: id.SignatureKey.Clone()}
	if rec.leafKey, leaf.EncryptionKey, err = s.generateKeyPair(c.cfg.Rand); err != nil {
		return nil, err
	}
	now := c.cfg.Now()
	leaf.Source, leaf.Lifetime = SourceKeyPackage, LifetimeFrom(now, opts.Lifetime)
	if !opts.NotBefore.IsZero() {
		leaf.Lifetime = Lifetime{unixSeconds(opts.NotBefore), unixSeconds(opts.NotBefore.Add(opts.Lifetime))}
		if opts.NotBefore.After(now) {
			now = opts.NotBefore // it is to be valid then
		}
	}
	if err := leaf.sign(s, id.SignatureKey, nil, 0); err != nil {
		return nil, err
	}
	kp := &KeyPackage{Version: MLS10, CipherSuite: s.id, LeafNode: &leaf, Extensions: opts.Extensions}
	if rec.initKey, kp.InitKey, err = s.generateKeyPair(c.cfg.Rand); err != nil {
		return nil, err
	}
	var w codec.Writer
	kp.encodeTBS(&w)
	if kp.Signature, err = s.signWithLabel(id.SignatureKey.Bytes(), "KeyPackageTBS", w.Buffer()); err != nil {
		return nil, err
	}
	rec.keyPackage = kp
	return rec, kp.verify(s, c.rules(s).ownKeyPackageRules(now))
}

// VerifyKeyPackage checks somebody's KeyPackage before it is used, its lifetime included (§10.1).
func (c *Client) VerifyKeyPackage(kp *KeyPackage) error {
	s, err := c.suite(kp.CipherSuite)
	if err != nil {
		return err
	}
	return kp.verify(s, c.rules(s).ownKeyPackageRules(c.cfg.Now()))
}

// DeleteKeyPackage erases the private keys of a KeyPackage, for one that expired or was withdrawn.
func (c *Client) DeleteKeyPackage(ref []byte) error {
	var b Batch
	b.delete(keyPackageKey(ref))
	return applyBatch(c.cfg.Store, b)
}
