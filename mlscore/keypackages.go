package mlscore

import (
	"cmp"
	"fmt"
	"time"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// KeyPackageOptions are the options of a KeyPackage.
type KeyPackageOptions struct {
	Lifetime       time.Duration // from NotBefore, or from now if that is zero; zero means 30 days
	NotBefore      time.Time     // when the lifetime begins; zero means an hour ago, since clocks differ
	LastResort     bool          // may be used more than once, when no other is left
	Extensions     Extensions    // of the KeyPackage
	LeafExtensions Extensions    // of the leaf node in it
	// Capabilities are announced instead of the Config's capabilities; nil means the Config's. NewKeyPackage adds the
	// entries that the KeyPackage itself needs: version, cipher suite, credential type, its own extensions. The
	// member's later leaves announce the Config's capabilities again, unless LeafUpdate.Capabilities is set.
	Capabilities *Capabilities
}

// keyPackageRecord is the stored record of a KeyPackage until the KeyPackage is used.
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

// NewKeyPackage makes a KeyPackage and stores its private keys (§10). Errors: ErrUnsupported for an unknown cipher suite;
// ErrMisuse for an identity without a valid key; ErrInvalid for a lifetime over Config.MaxLifetime or an extension twice;
// ErrPolicy if the own Authenticator refuses the credential; ErrStore.
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

// ExportKeyPackage returns an unused KeyPackage with copies of its private keys, for a device that moves to another
// store. It returns ErrMissing if the KeyPackage is not in the store. Both stores could join with the keys, so the
// caller must delete one of the two copies: see DeleteKeyPackage.
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

// ImportKeyPackage stores a KeyPackage that was made with another store, with copies of its private keys. It returns
// ErrMisuse if the keys do not belong to the KeyPackage.
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
		{name: "init_key", priv: keys.Init, pub: kp.InitKey, of: s.publicKeyOf},
		{name: "encryption_key", priv: keys.Leaf, pub: kp.LeafNode.EncryptionKey, of: s.publicKeyOf},
		{name: "signature_key", priv: keys.Signature, pub: kp.LeafNode.SignatureKey, of: s.signaturePublicKey},
	} {
		pub, err := k.of(k.priv.Bytes())
		if err != nil {
			return within(k.name, ErrMisuse, err)
		}
		if string(pub) != string(k.pub) {
			return fail(ErrMisuse, "§10", k.name, "the private key is not that of the KeyPackage")
		}
	}
	return c.keep(&keyPackageRecord{
		keyPackage: kp,
		initKey:    keys.Init.Clone(),
		leafKey:    keys.Leaf.Clone(),
		signer:     keys.Signature.Clone(),
	})
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
	opts.Lifetime = cmp.Or(opts.Lifetime, 30*24*time.Hour)
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
	if err := cmp.Or(opts.Extensions.checkUnique(), leaf.Extensions.checkUnique()); err != nil {
		return nil, err
	}
	rec := &keyPackageRecord{signer: id.SignatureKey.Clone()}
	if rec.leafKey, leaf.EncryptionKey, err = s.generateKeyPair(c.cfg.Rand); err != nil {
		return nil, err
	}
	now := c.cfg.Now()
	leaf.Source, leaf.Lifetime = SourceKeyPackage, lifetimeFrom(now, opts.Lifetime)
	if !opts.NotBefore.IsZero() {
		leaf.Lifetime = Lifetime{unixSeconds(opts.NotBefore), unixSeconds(opts.NotBefore.Add(opts.Lifetime))}
		if opts.NotBefore.After(now) {
			now = opts.NotBefore // the KeyPackage must be valid from then on
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

// VerifyKeyPackage checks another client's KeyPackage before it is used, its lifetime included (§10.1): KeyPackage.Verify
// with this client's Authenticator, Config.Now, Config.MaxLifetime and Config.Intake.
func (c *Client) VerifyKeyPackage(kp *KeyPackage) error {
	s, err := c.suite(kp.CipherSuite)
	if err != nil {
		return err
	}
	return kp.verify(s, c.rules(s).ownKeyPackageRules(c.cfg.Now()))
}

// DeleteKeyPackage erases the private keys of a KeyPackage that expired or was withdrawn. An unknown ref is no error. It
// returns ErrStore if the store refuses the write.
func (c *Client) DeleteKeyPackage(ref []byte) error {
	var b Batch
	b.delete(keyPackageKey(ref))
	return applyBatch(c.cfg.Store, b)
}
