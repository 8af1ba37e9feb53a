package mlscore

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"io"
	"slices"
	"time"
)

// Config configures a Client. Auth, Store and Now must be set.
type Config struct {
	Auth   Authenticator
	Policy Policy // may be nil
	Store  Store
	// Now returns the present time, for lifetimes. It is called when a KeyPackage is made or about to be used, and
	// never to decide whether a message is valid, since members would then decide differently.
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
	// Intake selects which of the RFC's rules for makers this client applies to objects that others made.
	Intake Intake
	// Extensions, Proposals and Credentials are the types that the application supports in addition to the defaults.
	// They are announced in the client's capabilities.
	Extensions  []ExtensionType
	Proposals   []ProposalType
	Credentials []CredentialType // in addition to that of the client's own credential
	// CipherSuites are announced in the client's capabilities, in addition to the cipher suite of the leaf that holds
	// the capabilities; nil means those of RFC 9420. They do not limit what the client can do.
	CipherSuites []CipherSuite
	// GREASE selects where the random code points of §13.5 are sent.
	GREASE GREASE
	// PathlessProposals are the custom proposal types whose specification allows a commit without a path (§12.4). A
	// commit of any other custom proposal has a path, even with CommitOptions.OmitPath.
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

// Identity is a credential and the signature key pair that belongs to it.
type Identity struct {
	CipherSuite  CipherSuite
	Credential   Credential
	SignatureKey Secret
}

// GenerateSignatureKey makes a key pair for the signature scheme of a cipher suite (RFC 9420 §5.1.2). A nil source of
// randomness means crypto/rand. It returns ErrUnsupported for an unknown suite.
func GenerateSignatureKey(random io.Reader, cs CipherSuite) (priv Secret, pub []byte, err error) {
	s, err := suiteOf(cs)
	if err != nil {
		return Secret{}, nil, err
	}
	random = cmp.Or(random, rand.Reader)
	return s.generateSignatureKey(random)
}

// NewIdentity makes an identity with a new signature key, for a credential that does not hold the key itself, such as
// a basic credential. A nil source of randomness means crypto/rand. The application stores the identity:
// Group.Identity returns it for a group.
func NewIdentity(random io.Reader, cs CipherSuite, c Credential) (Identity, error) {
	key, _, err := GenerateSignatureKey(random, cs)
	return Identity{cs, c, key}, err
}

// Client makes KeyPackages and creates, joins and loads groups for one device. It is safe for
// concurrent use if its Config's members are; a Group is not.
type Client struct{ cfg Config }

// NewClient checks a Config and fills in its defaults. It returns ErrMisuse if Auth, Store or Now is not set, if a
// maximum lifetime is negative, or if a default type is listed among the types that the application supports (§7.2);
// ErrUnsupported for an unknown cipher suite.
func NewClient(cfg Config) (*Client, error) {
	switch {
	case cfg.Auth == nil:
		return nil, fail(ErrMisuse, "", "Config", "Auth is missing: say whose credentials to accept")
	case cfg.Store == nil:
		return nil, fail(ErrMisuse, "", "Config", "Store is missing: NewMemoryStore, or one that lasts")
	case cfg.Now == nil:
		return nil, fail(ErrMisuse, "", "Config", "Now is missing: usually time.Now")
	}
	if err := checkAnnounced("Config", cfg.Extensions, cfg.Proposals, cfg.Credentials); err != nil {
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
	cfg.Rand = cmp.Or(cfg.Rand, rand.Reader)
	cfg.Limits = cfg.Limits.orDefault()
	return &Client{cfg}, nil
}

// checkAnnounced refuses code points that no client can announce: default types (RFC 9420 §7.2), and
// credential types that are reserved (§13.4, §13.5).
func checkAnnounced(object string, extensions []ExtensionType, proposals []ProposalType, credentials []CredentialType) error {
	for _, t := range extensions {
		if t.isDefault() {
			return fail(ErrMisuse, "§7.2", object, "default extension %#04x is announced: every client supports it", uint16(t))
		}
	}
	for _, t := range proposals {
		if !t.row().listed {
			return fail(ErrMisuse, "§7.2", object, "default proposal type %v is announced: every client supports it", t)
		}
	}
	for _, t := range credentials {
		if t == 0 || isGREASE(uint16(t)) {
			return fail(ErrMisuse, "§13.4", object, "credential type %#04x is reserved", uint16(t))
		}
	}
	return nil
}

func (c *Client) rules(s *suite) *rules {
	return &rules{suite: s, auth: c.cfg.Auth, policy: c.cfg.Policy, maxLifetime: c.cfg.MaxLifetimeReceived, maxOwnLifetime: c.cfg.MaxLifetime, intake: c.cfg.Intake}
}

// suite finds the description of a cipher suite under this client's Intake.
func (c *Client) suite(id CipherSuite) (*suite, error) { return c.cfg.Intake.suite(id) }

// capabilities returns the capabilities of a leaf with a suite and a type of credential: given, or by default those
// that this client supports.
func (c *Client) capabilities(s *suite, own CredentialType, given *Capabilities) (Capabilities, error) {
	caps := Capabilities{
		Versions:     []ProtocolVersion{MLS10},
		CipherSuites: c.cfg.CipherSuites,
		Extensions:   c.cfg.Extensions,
		Proposals:    c.cfg.Proposals,
		Credentials:  c.cfg.Credentials,
	}
	if given != nil {
		if err := checkAnnounced("Capabilities", given.Extensions, given.Proposals, given.Credentials); err != nil {
			return caps, err
		}
		caps = *given
	}
	caps = caps.clone()
	if !slices.Contains(caps.Versions, MLS10) {
		caps.Versions = append(caps.Versions, MLS10)
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

// leafFor begins a leaf node for an identity: all but key, source and signature. If caps is nil, the leaf announces
// the capabilities of the Config.
func (c *Client) leafFor(s *suite, id Identity, extensions Extensions, caps *Capabilities) (LeafNode, error) {
	pub, err := s.signaturePublicKey(id.SignatureKey.Bytes())
	if err != nil {
		return LeafNode{}, within("identity", ErrMisuse, err)
	}
	return c.leafWith(s, id.Credential, pub, extensions, caps)
}

// leafWith is leafFor where the public key is known.
func (c *Client) leafWith(s *suite, credential Credential, pub []byte, extensions Extensions, given *Capabilities) (LeafNode, error) {
	caps, err := c.capabilities(s, credential.Type, given)
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

// StorePSK stores an external PSK under an id, until DeletePSK (§8.4). It replaces an earlier PSK of that id, copies the
// secret, and returns ErrStore if the store refuses the write.
func (c *Client) StorePSK(id []byte, psk Secret) error {
	var b Batch
	b.put(externalPSKKey(id), slices.Clone(psk.Bytes()))
	defer b.erase()
	return applyBatch(c.cfg.Store, b)
}

// DeletePSK erases an external PSK. An unknown id is no error.
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

// storedPSK looks a PSK up. A resumption PSK is looked up in the newest group of its id that has such an epoch.
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

// greaseExtension returns an extension of a random reserved type with random content (§13.5).
func (c *Client) greaseExtension() (Extension, error) {
	var b [9]byte
	if _, err := io.ReadFull(c.cfg.Rand, b[:]); err != nil {
		return Extension{}, fmt.Errorf("read randomness for GREASE: %w", err)
	}
	return Extension{ExtensionType(grease(b[0])), b[1 : 1+b[1]%8]}, nil
}

// grease returns one of the reserved code points (§13.5).
func grease(b byte) uint16 { return uint16(b%15)<<12 | uint16(b%15)<<4 | 0x0a0a }
