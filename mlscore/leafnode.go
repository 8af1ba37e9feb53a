package mlscore

import (
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// LeafNodeSource is the way in which a leaf came into the tree (RFC 9420 §7.2).
type LeafNodeSource uint8

// The sources of §7.2.
const (
	SourceKeyPackage LeafNodeSource = 1
	SourceUpdate     LeafNodeSource = 2
	SourceCommit     LeafNodeSource = 3
)

// Capabilities lists the types that a client supports in addition to the defaults (§7.2).
type Capabilities struct {
	Versions     []ProtocolVersion
	CipherSuites []CipherSuite
	Extensions   []ExtensionType
	Proposals    []ProposalType
	Credentials  []CredentialType
}

func (c Capabilities) encode(w *codec.Writer) {
	encodeCodes(w, c.Versions)
	encodeCodes(w, c.CipherSuites)
	encodeCodes(w, c.Extensions)
	encodeCodes(w, c.Proposals)
	encodeCodes(w, c.Credentials)
}

// decode reads capabilities into the existing lists of c.
func (c *Capabilities) decode(r *codec.Reader) {
	c.Versions = codec.Uint16Vector(r, c.Versions)
	c.CipherSuites = codec.Uint16Vector(r, c.CipherSuites)
	c.Extensions = codec.Uint16Vector(r, c.Extensions)
	c.Proposals = codec.Uint16Vector(r, c.Proposals)
	c.Credentials = codec.Uint16Vector(r, c.Credentials)
}

func (c Capabilities) clone() Capabilities {
	return Capabilities{
		Versions:     slices.Clone(c.Versions),
		CipherSuites: slices.Clone(c.CipherSuites),
		Extensions:   slices.Clone(c.Extensions),
		Proposals:    slices.Clone(c.Proposals),
		Credentials:  slices.Clone(c.Credentials),
	}
}

// SupportsExtension reports whether the client supports an extension. Default types need not be listed (§7.2). A
// GREASE type is listed but never supported (§13.5); otherwise the result would depend on the random values that a
// member listed.
func (c Capabilities) SupportsExtension(t ExtensionType) bool {
	return c.listsExtension(t) && !isGREASE(uint16(t))
}

// listsExtension reports whether the capabilities allow an extension of the leaf itself, GREASE included (§13.5).
func (c Capabilities) listsExtension(t ExtensionType) bool {
	return t.isDefault() || slices.Contains(c.Extensions, t)
}

// SupportsProposal reports whether the client supports a proposal type. Default types need not be listed (§7.2), and
// GREASE is never supported (§13.5).
func (c Capabilities) SupportsProposal(t ProposalType) bool {
	return !t.row().listed || slices.Contains(c.Proposals, t) && !isGREASE(uint16(t))
}

// SupportsCredential reports whether the client supports a credential type. There are no default types, and GREASE is
// never supported (§13.5).
func (c Capabilities) SupportsCredential(t CredentialType) bool {
	return slices.Contains(c.Credentials, t) && !isGREASE(uint16(t))
}

// satisfies checks required_capabilities (§11.1).
func (c Capabilities) satisfies(req RequiredCapabilities) error {
	for _, t := range req.Extensions {
		if !c.SupportsExtension(t) {
			return fail(ErrInvalid, "§11.1", "", "required extension %#04x is not supported", uint16(t))
		}
	}
	for _, t := range req.Proposals {
		if !c.SupportsProposal(t) {
			return fail(ErrInvalid, "§11.1", "", "required proposal type %#04x is not supported", uint16(t))
		}
	}
	for _, t := range req.Credentials {
		if !c.SupportsCredential(t) {
			return fail(ErrInvalid, "§11.1", "", "required credential type %#04x is not supported", uint16(t))
		}
	}
	return nil
}

// Lifetime bounds the use of a KeyPackage, in seconds of Unix time, both ends included.
type Lifetime struct {
	NotBefore uint64
	NotAfter  uint64
}

// lifetimeFrom returns a lifetime that begins an hour before now, since clocks differ, and ends d after now.
func lifetimeFrom(now time.Time, d time.Duration) Lifetime {
	return Lifetime{unixSeconds(now.Add(-time.Hour)), unixSeconds(now.Add(d))}
}

// unixSeconds returns a time in seconds of Unix time; a time before 1970 becomes 0.
func unixSeconds(t time.Time) uint64 { return uint64(max(t.Unix(), 0)) }

// Contains reports whether t is within the lifetime.
func (l Lifetime) Contains(t time.Time) bool {
	now := t.Unix()
	return now >= 0 && l.NotBefore <= uint64(now) && uint64(now) <= l.NotAfter
}

// LeafNode is the leaf of one client in a group (§7.2).
type LeafNode struct {
	EncryptionKey []byte
	SignatureKey  []byte
	Credential    Credential
	Capabilities  Capabilities
	Source        LeafNodeSource
	Lifetime      Lifetime // source key_package
	ParentHash    []byte   // source commit
	Extensions    Extensions
	Signature     []byte
}

func (l *LeafNode) encodeTBS(w *codec.Writer) {
	w.Bytes(l.EncryptionKey)
	w.Bytes(l.SignatureKey)
	l.Credential.encode(w)
	l.Capabilities.encode(w)
	w.Uint8(uint8(l.Source))
	switch l.Source {
	case SourceKeyPackage:
		w.Uint64(l.Lifetime.NotBefore)
		w.Uint64(l.Lifetime.NotAfter)
	case SourceCommit:
		w.Bytes(l.ParentHash)
	}
	l.Extensions.encode(w)
}

func (l *LeafNode) encode(w *codec.Writer) {
	l.encodeTBS(w)
	w.Bytes(l.Signature)
}

// marshal returns the encoding that the tree keeps.
func (l *LeafNode) marshal() ([]byte, error) {
	var w codec.Writer
	l.encode(&w)
	b, err := w.Finish()
	return b, malformed("leaf node", err)
}

func decodeLeafNode(r *codec.Reader) *LeafNode {
	l := new(LeafNode)
	l.decode(r)
	return l
}

// decode reads a leaf node into l. Capabilities are read into the existing lists of l, so that many leaves can be
// read into one l; they are valid until the next decode. All other fields are new, or parts of the input.
func (l *LeafNode) decode(r *codec.Reader) {
	*l = LeafNode{
		EncryptionKey: r.Bytes(),
		SignatureKey:  r.Bytes(),
		Credential:    decodeCredential(r),
		Capabilities:  l.Capabilities,
	}
	l.Capabilities.decode(r)
	l.Source = LeafNodeSource(r.Uint8())
	switch l.Source {
	case SourceKeyPackage:
		l.Lifetime = Lifetime{r.Uint64(), r.Uint64()}
	case SourceUpdate:
	case SourceCommit:
		l.ParentHash = r.Bytes()
	default:
		r.Fail(fail(ErrMalformed, "§7.2", "leaf node", "source %d is not defined", l.Source))
	}
	l.Extensions = decodeExtensions(r)
	l.Signature = r.Bytes()
}

// parseLeafNode decodes a leaf as the tree stores it.
func parseLeafNode(body string) (*LeafNode, error) {
	r := codec.NewReader([]byte(body), codec.DefaultLimits)
	l := decodeLeafNode(r)
	return l, malformed("leaf node", r.Finish())
}

// tbs returns LeafNodeTBS (§7.2), which includes group and leaf index unless the leaf comes from a KeyPackage.
func (l *LeafNode) tbs(groupID []byte, index LeafIndex) []byte {
	var w codec.Writer
	l.encodeTBS(&w)
	if l.Source != SourceKeyPackage {
		w.Bytes(groupID)
		w.Uint32(uint32(index))
	}
	return w.Buffer()
}

func (l *LeafNode) sign(s *suite, key Secret, groupID []byte, index LeafIndex) error {
	k, err := s.newSigner(key.Bytes())
	if err != nil {
		return err
	}
	return l.signWith(k, groupID, index)
}

func (l *LeafNode) signWith(k *signer, groupID []byte, index LeafIndex) (err error) {
	l.Signature, err = k.signWithLabel("LeafNodeTBS", l.tbs(groupID, index))
	return err
}

// verifySignature makes the second check of §7.3.
func (l *LeafNode) verifySignature(s *suite, groupID []byte, index LeafIndex) error {
	if !s.verifyWithLabel(l.SignatureKey, "LeafNodeTBS", l.tbs(groupID, index), l.Signature) {
		return badLeafSignature()
	}
	return nil
}

func badLeafSignature() error {
	return fail(ErrForged, "§7.3", "leaf node", "signature does not verify")
}
