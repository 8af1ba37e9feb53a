package mlscore

import (
	"crypto/rand"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// Config is what a client works with. Auth, Store and Now must be set.
type Config struct {
	Auth   Authenticator
	Policy Policy // may be nil
	Store  Store
	// Now is the time, for lifetimes. It is asked when a KeyPackage is made or about to be used;
	// never when a message is processed, since members would then judge differently.
	Now func() time.Time
	// Rand is the source of all randomness; nil means crypto/rand.
	Rand io.Reader
	// MaxLifetime is the longest lifetime of a KeyPackage that this client makes, verifies, proposes or
	// commits (RFC 9420 §7.2). Zero means no bound, as everywhere in this package: THE LIBRARY SETS NO
	// MAXIMUM, AND §7.2 DEMANDS ONE OF EVERY APPLICATION. An application should set it, 100 days for
	// instance. The value of one member does not concern the others.
	MaxLifetime time.Duration
	// MaxLifetimeReceived is the longest lifetime of a leaf that another member committed, or that the
	// tree of a joined group holds. Zero means no bound. All members must have the same value: a member
	// that refuses a leaf which the others accept is out of the group for good. Other implementations
	// make lifetimes of 365 days and of 2^64-1 seconds, so that no value admits all of them.
	MaxLifetimeReceived time.Duration
	// Intake says which of the rules for makers hold for what others made, too.
	Intake Intake
	// Extensions, Proposals and Credentials are supported by the application beyond the defaults,
	// and announced in the client's capabilities.
	Extensions  []ExtensionType
	Proposals   []ProposalType
	Credentials []CredentialType // in addition to that of the client's own credential
	// CipherSuites are announced in the client's capabilities, in addition to that of the leaf they
	// stand in; nil means those of RFC 9420. They do not limit what the client can do.
	CipherSuites []CipherSuite
	// GREASE says where the random code points of §13.5 are sent.
	GREASE GREASE
	// PathlessProposals are the custom proposal types whose specification allows a commit without a path
	// (§12.4). A commit of any other custom proposal has a path, whatever CommitOptions say.
	PathlessProposals []ProposalType
	Limits            Limits
}

// GREASE is a level of RFC 9420 §13.5: where random reserved code points are sent.
type GREASE uint8

// The levels of GREASE.
const (
	// GREASEListed sends them in the capabilities of leaves and in GroupInfos.
	GREASEListed GREASE = iota
	// GREASEEverywhere sends them in the extensions of KeyPackages, too. OpenMLS 0.9.2 refuses such a
	// KeyPackage, and cannot follow a commit that adds it.
	GREASEEverywhere
	// GREASENowhere sends none.
	GREASENowhere
)

// Identity is a credential and the signature key that it speaks for.
type Identity struct {
	CipherSuite  CipherSuite
	Credential   Credential
	SignatureKey Secret
}

// GenerateSignatureKey makes a key pair for the signature scheme of a cipher suite. A nil source of
// randomness means crypto/rand.
func GenerateSignatureKey(random io.Reader, cs CipherSuite) (priv Secret, pub []byte, err error) {
	s, err := suiteOf(cs)
	if err != nil {
		return Secret{}, nil, err
	}
	if random == nil {
		random = rand.Reader
	}
	return s.generateSignatureKey(random)
}

// Client makes KeyPackages and creates, joins and loads groups for one device. It is safe for
// concurrent use if its Config's members are; a Group is not.
type Client struct{ cfg Config }

// NewClient checks a Config and fills in its defaults.
func NewClient(cfg Config) (*Client, error) {
	switch {
	case cfg.Auth == nil:
		return nil, fail(ErrMisuse, "", "Config", "Auth is missing: say whose credentials to accept")
	case cfg.Store == nil:
		return nil, fail(ErrMisuse, "", "Config", "Store is missing: NewMemoryStore, or one that lasts")
	case cfg.Now == nil:
		return nil, fail(ErrMisuse, "", "Config", "Now is missing: usually time.Now")
	}
	if err := cfg.checkAnnounced(); err != nil {
		return nil, err
	}
	if cfg.MaxLifetime < 0 || cfg.MaxLifetimeReceived < 0 {
		return nil, fail(ErrMisuse, "§7.2", "Config", "a maximum lifetime is negative: zero means no bound")
	}
	for _, id := range cfg.CipherSuites {
		if _, err := suiteOf(id); err != nil {
			return nil, within("Config", ErrMisuse, err)
		}
	}
	if cfg.CipherSuites == nil {
		cfg.CipherSuites = CipherSuites()
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	cfg.Limits = cfg.Limits.orDefault()
	return &Client{cfg}, nil
}

// checkAnnounced refuses code points that no client can announce: default types (RFC 9420 §7.2), and
// credential types that are reserved (§13.4, §13.5).
func (cfg *Config) checkAnnounced() error {
	for _, t := range cfg.Extensions {
		if t.isDefault() {
			return fail(ErrMisuse, "§7.2", "Config", "default extension %#04x is announced: every client supports it", uint16(t))
		}
	}
	for _, t := range cfg.Proposals {
		if t.isDefault() {
			return fail(ErrMisuse, "§7.2", "Config", "default proposal type %v is announced: every client supports it", t)
		}
	}
	for _, t := range cfg.Credentials {
		if t == 0 || isGREASE(uint16(t)) {
			return fail(ErrMisuse, "§13.4", "Config", "credential type %#04x is reserved", uint16(t))
		}
	}
	return nil
}

func (c *Client) rules(s *suite) *rules {
	return &rules{suite: s, auth: c.cfg.Auth, policy: c.cfg.Policy, maxLifetime: c.cfg.MaxLifetimeReceived, maxOwnLifetime: c.cfg.MaxLifetime, intake: c.cfg.Intake}
}

// suite finds the description of a cipher suite as this client takes it.
func (c *Client) suite(id CipherSuite) (*suite, error) { return c.cfg.Intake.suite(id) }

// capabilities announces what this client supports, in a leaf of a suite and a type of credential.
func (c *Client) capabilities(s *suite, own CredentialType) (Capabilities, error) {
	caps := Capabilities{
		Versions:     []ProtocolVersion{MLS10},
		CipherSuites: slices.Clone(c.cfg.CipherSuites),
		Extensions:   slices.Clone(c.cfg.Extensions),
		Proposals:    slices.Clone(c.cfg.Proposals),
		Credentials:  slices.Clone(c.cfg.Credentials),
	}
	if !slices.Contains(caps.CipherSuites, s.id) {
		caps.CipherSuites = append(caps.CipherSuites, s.id)
	}
	if !slices.Contains(caps.Credentials, own) {
		caps.Credentials = append(caps.Credentials, own)
	}
	if c.cfg.GREASE == GREASENowhere {
		return caps, nil
	}
	var g [4]byte
	if _, err := io.ReadFull(c.cfg.Rand, g[:]); err != nil {
		return caps, fmt.Errorf("read randomness for GREASE: %w", err)
	}
	caps.CipherSuites = append(caps.CipherSuites, CipherSuite(grease(g[0])))
	caps.Extensions = append(caps.Extensions, ExtensionType(grease(g[1])))
	caps.Proposals = append(caps.Proposals, ProposalType(grease(g[2])))
	caps.Credentials = append(caps.Credentials, CredentialType(grease(g[3])))
	return caps, nil
}

// leafFor begins a leaf node for an identity: all but key, source and signature.
func (c *Client) leafFor(s *suite, id Identity, extensions Extensions) (LeafNode, error) {
	pub, err := s.signaturePublicKey(id.SignatureKey.Bytes())
	if err != nil {
		return LeafNode{}, within("identity", ErrMisuse, err)
	}
	return c.leafWith(s, id.Credential, pub, extensions)
}

// leafWith is leafFor where the public key is known.
func (c *Client) leafWith(s *suite, credential Credential, pub []byte, extensions Extensions) (LeafNode, error) {
	caps, err := c.capabilities(s, credential.Type)
	if err != nil {
		return LeafNode{}, err
	}
	for _, x := range extensions {
		if !caps.listsExtension(x.Type) {
			caps.Extensions = append(caps.Extensions, x.Type)
		}
	}
	leaf := LeafNode{SignatureKey: pub, Credential: credential, Capabilities: caps, Extensions: extensions}
	return leaf, leaf.bindCredential(s)
}

// KeyPackageOptions shape a KeyPackage.
type KeyPackageOptions struct {
	Lifetime       time.Duration // from now; zero means 30 days
	LastResort     bool          // may be used more than once, when no other is left
	Extensions     Extensions    // of the KeyPackage
	LeafExtensions Extensions    // of the leaf node in it
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

// ImportKeyPackage stores a KeyPackage that was made elsewhere with its private keys: the HPKE keys of
// the Welcome and of the leaf, and the signature key.
func (c *Client) ImportKeyPackage(kp *KeyPackage, initKey, leafKey, signatureKey Secret) error {
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
		{"init_key", initKey, kp.InitKey, s.publicKeyOf},
		{"encryption_key", leafKey, kp.LeafNode.EncryptionKey, s.publicKeyOf},
		{"signature_key", signatureKey, kp.LeafNode.SignatureKey, s.signaturePublicKey},
	} {
		pub, err := k.of(k.priv.Bytes())
		if err != nil {
			return within(k.name, ErrMisuse, err)
		}
		if string(pub) != string(k.pub) {
			return fail(ErrMisuse, "§10", k.name, "the private key is not that of the KeyPackage")
		}
	}
	return c.keep(&keyPackageRecord{kp, initKey.Clone(), leafKey.Clone(), signatureKey.Clone()})
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
	leaf, err := c.leafFor(s, id, opts.LeafExtensions)
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
	leaf.Source, leaf.Lifetime = SourceKeyPackage, LifetimeFrom(c.cfg.Now(), opts.Lifetime)
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
	return rec, kp.verify(s, c.rules(s).ownKeyPackageRules(c.cfg.Now()))
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

// StorePSK keeps an external PSK under an id, until DeletePSK (§8.4).
func (c *Client) StorePSK(id []byte, psk Secret) error {
	var b Batch
	b.put(externalPSKKey(id), slices.Clone(psk.Bytes()))
	defer b.erase()
	return applyBatch(c.cfg.Store, b)
}

// DeletePSK erases an external PSK.
func (c *Client) DeletePSK(id []byte) error {
	var b Batch
	b.delete(externalPSKKey(id))
	return applyBatch(c.cfg.Store, b)
}

// psks looks PSKs up in their order (§8.4).
func (c *Client) psks(ids []PreSharedKeyID, closing *StagedCommit) ([]Secret, error) {
	list := make([]Secret, len(ids))
	for i, id := range ids {
		if closing.begins(id) {
			list[i] = closing.next.secrets.resumption.Clone()
			continue
		}
		v, ok, err := c.storedPSK(id)
		if err != nil {
			return nil, &Error{Kind: ErrStore, Object: id.String(), Detail: "cannot be read", Err: err}
		}
		if !ok {
			return nil, fail(ErrMissing, "§8.4", id.String(), "is not in the store")
		}
		list[i] = NewSecret(v)
	}
	return list, nil
}

// storedPSK looks a PSK up. A resumption PSK is that of the newest group of its id that has such an epoch.
func (c *Client) storedPSK(id PreSharedKeyID) (v []byte, ok bool, err error) {
	if id.Type != PSKResumption {
		return c.cfg.Store.Get(externalPSKKey(id.ID))
	}
	n, _, err := c.newest(id.GroupID)
	for err == nil && !ok {
		v, ok, err = c.cfg.Store.Get(groupKey(n, recordPSK, uint64Bytes(id.Epoch)))
		if n.place == 0 {
			break
		}
		n.place--
	}
	return v, ok, err
}

// newPSKID names a PSK for use in a commit, with a fresh nonce (§8.4).
func (c *Client) newPSKID(s *suite, id PreSharedKeyID) (PreSharedKeyID, error) {
	id.Nonce = make([]byte, s.hashLen())
	_, err := io.ReadFull(c.cfg.Rand, id.Nonce)
	return id, err
}

// greaseExtension is an extension of a random reserved type with random content (§13.5).
func (c *Client) greaseExtension() (Extension, error) {
	var b [9]byte
	if _, err := io.ReadFull(c.cfg.Rand, b[:]); err != nil {
		return Extension{}, fmt.Errorf("read randomness for GREASE: %w", err)
	}
	return Extension{ExtensionType(grease(b[0])), b[1 : 1+b[1]%8]}, nil
}

// grease is one of the reserved code points (§13.5).
func grease(b byte) uint16 { return uint16(b%15)<<12 | uint16(b%15)<<4 | 0x0a0a }
