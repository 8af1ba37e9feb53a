package mlscore

import (
	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// groupInfo is GroupInfo of §12.4.3: a signed statement of a group's state.
type groupInfo struct {
	context         GroupContext
	extensions      Extensions
	confirmationTag []byte
	signer          LeafIndex
	signature       []byte
}

func (g *groupInfo) encodeTBS(w *codec.Writer) {
	g.context.encode(w)
	g.extensions.encode(w)
	w.Bytes(g.confirmationTag)
	w.Uint32(uint32(g.signer))
}

func (g *groupInfo) encode(w *codec.Writer) {
	g.encodeTBS(w)
	w.Bytes(g.signature)
}

func decodeGroupInfo(r *codec.Reader) *groupInfo {
	return &groupInfo{
		context:         decodeGroupContext(r),
		extensions:      decodeExtensions(r),
		confirmationTag: r.Bytes(),
		signer:          LeafIndex(r.Uint32()),
		signature:       r.Bytes(),
	}
}

func (g *groupInfo) tbs() []byte {
	var w codec.Writer
	g.encodeTBS(&w)
	return w.Buffer()
}

func (g *groupInfo) sign(s *suite, key Secret) error {
	k, err := s.newSigner(key.Bytes())
	if err != nil {
		return err
	}
	return g.signWith(k)
}

func (g *groupInfo) signWith(k *signer) (err error) {
	g.signature, err = k.signWithLabel("GroupInfoTBS", g.tbs())
	return err
}

// verify checks the signature with the key of the member that the GroupInfo names as its signer (§12.4.3.1).
func (g *groupInfo) verify(s *suite, tree *ratchetTree) error {
	key := tree.signatureKey(g.signer)
	if key == "" {
		return fail(ErrForged, "§12.4.3.1", "GroupInfo", "signed by blank %v", leafName(g.signer))
	}
	if !s.verifyWithLabel([]byte(key), "GroupInfoTBS", g.tbs(), g.signature) {
		return s.unverified([]byte(key), fail(ErrForged, "§12.4.3.1", "GroupInfo", "signature by %v does not verify", leafName(g.signer)))
	}
	return nil
}

// externalPub reads the key for external commits (§12.4.3.2).
func (g *groupInfo) externalPub() ([]byte, error) {
	data, ok := g.extensions.Find(ExtensionExternalPub)
	if !ok {
		return nil, fail(ErrMissing, "§12.4.3.2", "GroupInfo", "has no external_pub: the group does not offer external joins with it")
	}
	r := codec.NewReader(data, codec.DefaultLimits)
	pub := r.Bytes()
	if err := r.Finish(); err != nil {
		return nil, &Error{Kind: ErrMalformed, Clause: "§12.4.3.2", Object: "external_pub", Detail: "is no opaque vector", Err: err}
	}
	return pub, nil
}

// treeFor returns the ratchet tree for a GroupInfo: outOfBand, or the content of the extension.
func (g *groupInfo) treeFor(outOfBand []byte) ([]byte, error) {
	if outOfBand != nil {
		return outOfBand, nil
	}
	if data, ok := g.extensions.Find(ExtensionRatchetTree); ok {
		return data, nil
	}
	return nil, fail(ErrMissing, "§12.4.3.3", "ratchet tree", "is neither in the GroupInfo nor given separately")
}

// GroupInfo is a group's state as a member signed it, decoded for reading. It is not verified: verification needs the
// ratchet tree and happens in the operation that takes the GroupInfo.
type GroupInfo struct{ g *groupInfo }

// ParseGroupInfo reads an MLSMessage with a GroupInfo in it (§12.4.3). Errors: ErrMalformed; ErrUnsupported
// for another protocol version; ErrLimit for a message over codec.DefaultLimits. The GroupInfo shares memory with the
// message.
func ParseGroupInfo(message []byte) (*GroupInfo, error) {
	g, err := parseGroupInfo(message, codec.DefaultLimits)
	if err != nil {
		return nil, err
	}
	return &GroupInfo{g}, nil
}

func parseGroupInfo(b []byte, limits codec.Limits) (*groupInfo, error) {
	m, err := parseMessage(b, limits)
	if err != nil {
		return nil, err
	}
	if m.groupInfo == nil {
		return nil, fail(ErrMalformed, "§6", "message", "is a %v, not a GroupInfo", m.format)
	}
	return m.groupInfo, nil
}

// Context returns the GroupContext in the GroupInfo.
func (g *GroupInfo) Context() GroupContext { return g.g.context }

// Extensions returns the extensions of the GroupInfo, which may include external_pub and ratchet_tree.
func (g *GroupInfo) Extensions() Extensions { return g.g.extensions }

// Signer returns the leaf of the member that the GroupInfo names as its signer.
func (g *GroupInfo) Signer() LeafIndex { return g.g.signer }

// ConfirmationTag returns the confirmation tag of the commit that began the epoch.
func (g *GroupInfo) ConfirmationTag() []byte { return g.g.confirmationTag }
