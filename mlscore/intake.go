package mlscore

import (
	"crypto/ecdsa"
	"crypto/elliptic"
)

// Intake selects how a client checks objects that others made, where RFC 9420 leaves a choice. The zero value applies
// exactly the RFC's rules for receivers; it suits groups with members of other implementations. All members of a
// group, and the servers that follow it, must have the same Intake: a member that refuses a commit that the others
// accept is permanently out of the group.
type Intake struct {
	// Strict applies the RFC's rules for makers to objects that others made: capabilities list the protocol version
	// and the leaf's own cipher suite and no default types (§7.2), a GroupContext holds no application_id,
	// ratchet_tree or external_pub (§17.3), external senders have keys of the group's signature scheme (§12.1.8.1),
	// and credentials are basic or x509 (§5.3). It suits groups whose members are all of one implementation.
	Strict bool
	// CompressedKeys accepts signature keys of ECDSA suites that are compressed points, against §5.1.1. ts-mls makes
	// them in suites 2, 5 and 7, and other libraries accept them. Keys are compared as points, and the Authenticator
	// is given the uncompressed form. This client's own keys are always uncompressed.
	CompressedKeys bool
}

// compressedSuites are the suites, with signature schemes that accept compressed points.
var compressedSuites = takingCompressed(suites)

func takingCompressed(list []*suite) map[CipherSuite]*suite {
	out := map[CipherSuite]*suite{}
	for _, s := range list {
		if e, ok := s.signature.(*ecdsaScheme); ok {
			scheme, taking := *e, *s
			scheme.compressed = true
			taking.signature = &scheme
			out[s.id] = &taking
		}
	}
	return out
}

// suite returns the description of a cipher suite; ErrUnsupported if there is none.
func (in Intake) suite(id CipherSuite) (*suite, error) {
	if s, ok := compressedSuites[id]; ok && in.CompressedKeys {
		return s, nil
	}
	return suiteOf(id)
}

// checkLeaf applies the rules for the makers of leaves, if the intake is strict (§7.2, §5.3).
func (in Intake) checkLeaf(s *suite, l *LeafNode) error {
	if !in.Strict {
		return nil
	}
	if err := in.checkCredential(l.Credential); err != nil {
		return err
	}
	c := &l.Capabilities
	if !contains(c.Versions, MLS10) {
		return fail(ErrInvalid, "§7.2", "capabilities", "protocol version %d is not listed", MLS10)
	}
	if !contains(c.CipherSuites, s.id) {
		return fail(ErrInvalid, "§7.2", "capabilities", "cipher suite %v is not listed", s.id)
	}
	for _, t := range c.Extensions {
		if t.isDefault() {
			return fail(ErrInvalid, "§7.2", "capabilities", "default extension %#04x is listed", uint16(t))
		}
	}
	for _, t := range c.Proposals {
		if !t.row().listed {
			return fail(ErrInvalid, "§7.2", "capabilities", "default proposal type %v is listed", t)
		}
	}
	return nil
}

// checkCredential refuses credentials of other types than those of RFC 9420, if the intake is strict.
func (in Intake) checkCredential(c Credential) error {
	if in.Strict && c.Type != CredentialBasic && c.Type != CredentialX509 {
		return fail(ErrUnsupported, "§5.3", "credential", "type %#04x", uint16(c.Type))
	}
	return nil
}

// checkProposal applies checkCredential to the leaf in a received proposal.
func (in Intake) checkProposal(p *Proposal) error {
	if leaf := p.Type.row().leaf; leaf != nil {
		return in.checkCredential(leaf(p).Credential)
	}
	return nil
}

func contains[T comparable](list []T, v T) bool {
	for _, have := range list {
		if have == v {
			return true
		}
	}
	return false
}

// canonicalKey returns a signature key in a form that equal keys share: a compressed point becomes an uncompressed
// one, where the suite accepts compressed points.
func (s *suite) canonicalKey(pub string) string {
	if e, ok := s.signature.(*ecdsaScheme); !ok || !e.compressed {
		return pub
	}
	return string(s.authKey([]byte(pub)))
}

// authKey returns the form of a signature key that an Authenticator is given.
func (s *suite) authKey(pub []byte) []byte {
	e, ok := s.signature.(*ecdsaScheme)
	if !ok || !e.compressed {
		return pub
	}
	key, err := e.parse(pub)
	if err != nil {
		return pub
	}
	b, err := key.Bytes()
	if err != nil {
		return pub
	}
	return b
}

// parse decodes a public key, which may be compressed if the scheme accepts compressed points.
func (e *ecdsaScheme) parse(pub []byte) (*ecdsa.PublicKey, error) {
	if e.compressed && len(pub) == 1+e.size {
		if x, y := elliptic.UnmarshalCompressed(e.curve, pub); x != nil {
			point := make([]byte, 1+2*e.size)
			point[0] = 4
			x.FillBytes(point[1 : 1+e.size])
			y.FillBytes(point[1+e.size:])
			pub = point
		}
	}
	return ecdsa.ParseUncompressedPublicKey(e.curve, pub)
}
