package mlscore

import (
	"fmt"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// ProposalType is a code point of the "MLS Proposal Types" registry (RFC 9420 §17.4).
type ProposalType uint16

// The default proposal types.
const (
	ProposalAdd                    ProposalType = 1
	ProposalUpdate                 ProposalType = 2
	ProposalRemove                 ProposalType = 3
	ProposalPSK                    ProposalType = 4
	ProposalReInit                 ProposalType = 5
	ProposalExternalInit           ProposalType = 6
	ProposalGroupContextExtensions ProposalType = 7
)

// String returns the registry's name.
func (t ProposalType) String() string {
	if name := t.row().name; name != "" {
		return name
	}
	return fmt.Sprintf("custom %#04x", uint16(t))
}

// Proposal is a request for one change of a group (§12.1). The field that belongs to Type is set.
type Proposal struct {
	Type         ProposalType
	Add          *KeyPackage
	Update       *LeafNode
	Remove       LeafIndex
	PSK          *PreSharedKeyID
	ReInit       *ReInit
	ExternalInit []byte     // kem_output
	Extensions   Extensions // group_context_extensions
	Custom       []byte     // any other type: its content as an opaque vector, for the application
}

// ReInit closes a group in favour of another one with other parameters (§12.1.5).
type ReInit struct {
	GroupID     []byte
	Version     ProtocolVersion
	CipherSuite CipherSuite
	Extensions  Extensions
}

func (p *ReInit) encode(w *codec.Writer) {
	w.Bytes(p.GroupID)
	w.Uint16(uint16(p.Version))
	w.Uint16(uint16(p.CipherSuite))
	p.Extensions.encode(w)
}

func decodeReInit(r *codec.Reader) *ReInit {
	return &ReInit{
		GroupID:     r.Bytes(),
		Version:     ProtocolVersion(r.Uint16()),
		CipherSuite: CipherSuite(r.Uint16()),
		Extensions:  decodeExtensions(r),
	}
}

// AddProposal returns a proposal to add the client of a KeyPackage.
func AddProposal(kp *KeyPackage) Proposal { return Proposal{Type: ProposalAdd, Add: kp} }

// RemoveProposal returns a proposal to remove the member at a leaf.
func RemoveProposal(leaf LeafIndex) Proposal { return Proposal{Type: ProposalRemove, Remove: leaf} }

// ExtensionsProposal returns a proposal to replace all GroupContext extensions.
func ExtensionsProposal(x Extensions) Proposal {
	return Proposal{Type: ProposalGroupContextExtensions, Extensions: x}
}

// ReInitProposal returns a proposal to close the group in favour of another.
func ReInitProposal(p ReInit) Proposal { return Proposal{Type: ProposalReInit, ReInit: &p} }

// CustomProposal returns a proposal with content of the application. Every member must list the type in its
// capabilities (§12.2).
func CustomProposal(t ProposalType, content []byte) Proposal {
	return Proposal{Type: t, Custom: content}
}

func (p *Proposal) encode(w *codec.Writer) {
	w.Uint16(uint16(p.Type))
	p.encodeBody(w)
}

func (p *Proposal) encodeBody(w *codec.Writer) { p.Type.row().encode(p, w) }

func decodeProposal(r *codec.Reader) Proposal {
	return decodeProposalBody(r, ProposalType(r.Uint16()))
}

func decodeProposalBody(r *codec.Reader, t ProposalType) Proposal {
	if t == 0 {
		r.Fail(fail(ErrMalformed, "§17.4", "proposal", "type 0 is reserved"))
		return Proposal{}
	}
	p := t.row().decode(r)
	p.Type = t
	return p
}

// complete reports whether the field that belongs to the type is set. It is used for proposals that a caller made.
func (p *Proposal) complete() bool {
	complete := p.Type.row().complete
	return complete == nil || complete(p)
}

// proposalOrRef is an entry of a Commit (§12.4): a proposal, or the ProposalRef of a proposal that was sent before.
type proposalOrRef struct {
	proposal *Proposal
	ref      []byte
}

func (p proposalOrRef) encode(w *codec.Writer) {
	if p.proposal != nil {
		w.Uint8(1)
		p.proposal.encode(w)
		return
	}
	w.Uint8(2)
	w.Bytes(p.ref)
}

func decodeProposalOrRef(r *codec.Reader) (p proposalOrRef) {
	switch t := r.Uint8(); t {
	case 1:
		proposal := decodeProposal(r)
		p.proposal = &proposal
	case 2:
		p.ref = r.Bytes()
	default:
		r.Fail(fail(ErrMalformed, "§12.4", "ProposalOrRef", "type %d is not defined", t))
	}
	return p
}

// commitContent is the Commit struct of §12.4.
type commitContent struct {
	proposals []proposalOrRef
	path      *updatePath
}

func (c *commitContent) encode(w *codec.Writer) {
	w.Vector(func(w *codec.Writer) {
		for _, p := range c.proposals {
			p.encode(w)
		}
	})
	w.Optional(c.path != nil)
	if c.path != nil {
		c.path.encode(w)
	}
}

func decodeCommit(r *codec.Reader) *commitContent {
	c := &commitContent{}
	r.Vector(func(r *codec.Reader) { c.proposals = append(c.proposals, decodeProposalOrRef(r)) })
	if r.Optional() {
		c.path = decodeUpdatePath(r)
	}
	return c
}

// hpkeCiphertext is HPKECiphertext of §7.6.
type hpkeCiphertext struct {
	kemOutput  []byte
	ciphertext []byte
}

func (c hpkeCiphertext) encode(w *codec.Writer) {
	w.Bytes(c.kemOutput)
	w.Bytes(c.ciphertext)
}

func decodeHPKECiphertext(r *codec.Reader) hpkeCiphertext {
	return hpkeCiphertext{r.Bytes(), r.Bytes()}
}

// updatePath is UpdatePath of §7.6.
type updatePath struct {
	leaf  *LeafNode
	nodes []updatePathNode
}

type updatePathNode struct {
	key     []byte
	secrets []hpkeCiphertext
}

func (p *updatePath) encode(w *codec.Writer) {
	p.leaf.encode(w)
	w.Vector(func(w *codec.Writer) {
		for _, n := range p.nodes {
			w.Bytes(n.key)
			w.Vector(func(w *codec.Writer) {
				for _, c := range n.secrets {
					c.encode(w)
				}
			})
		}
	})
}

func decodeUpdatePath(r *codec.Reader) *updatePath {
	p := &updatePath{leaf: decodeLeafNode(r)}
	r.Vector(func(r *codec.Reader) {
		n := updatePathNode{key: r.Bytes()}
		r.Vector(func(r *codec.Reader) { n.secrets = append(n.secrets, decodeHPKECiphertext(r)) })
		p.nodes = append(p.nodes, n)
	})
	return p
}
