package mlscore

import (
	"bytes"
	"fmt"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// publicVersion is the first field of an encoded PublicState, so that later releases recognize the format.
const publicVersion = 1

// MarshalBinary encodes a PublicState without its rules, for ParsePublicState. A server stores this encoding of a
// group that it follows, or sends it to a replica. Equal states have equal encodings. docs/spec/state.md describes the
// format.
func (p *PublicState) MarshalBinary() ([]byte, error) {
	tree, err := p.tree.marshal()
	if err != nil {
		return nil, err
	}
	var w codec.Writer
	w.Uint8(publicVersion)
	p.context.encode(&w)
	w.Bytes(p.interim)
	w.Bytes(tree)
	w.Vector(func(w *codec.Writer) {
		for i := range p.proposals {
			w.Bytes(p.proposals[i].content)
		}
	})
	w.Optional(p.reinit != nil)
	if p.reinit != nil {
		p.reinit.encode(&w)
	}
	b, err := w.Finish()
	return b, malformed("public state", err)
}

// ParsePublicState decodes the result of MarshalBinary. It checks the form, and that the tree has the tree hash in
// the GroupContext. It does not verify signatures, credentials and rules again: the bytes must come from a place that
// the caller trusts like its own memory. For a group state from others, use NewPublicState.
func ParsePublicState(b []byte, cfg PublicConfig) (*PublicState, error) {
	const object = "stored public state"
	if cfg.Auth == nil {
		return nil, fail(ErrMisuse, "", "PublicConfig", "Auth is missing")
	}
	limits := cfg.Limits.orDefault()
	limits.Codec.Bytes = max(limits.Codec.Bytes, len(b)) // limits apply to messages of others
	r := codec.NewReader(b, limits.Codec)
	if v := r.Uint8(); r.Err() == nil && v != publicVersion {
		return nil, fail(ErrUnsupported, "", object, "has version %d, this release reads %d", v, publicVersion)
	}
	p := &PublicState{limits: cfg.Limits.orDefault(), context: decodeGroupContext(r)}
	p.interim = bytes.Clone(r.Bytes())
	tree := r.Bytes()
	var proposals [][]byte
	r.Vector(func(r *codec.Reader) { proposals = append(proposals, bytes.Clone(r.Bytes())) })
	if r.Optional() {
		p.reinit = decodeReInit(r)
	}
	if err := r.Finish(); err != nil {
		return nil, malformed(object, err)
	}
	if p.context.Version != MLS10 {
		return nil, fail(ErrUnsupported, "", object, "is of protocol version %d", p.context.Version)
	}
	s, err := cfg.suite(p.context.CipherSuite)
	if err != nil {
		return nil, within(object, ErrUnsupported, err)
	}
	p.rules = cfg.rules(s)
	p.context = p.context.clone()
	p.encoded = p.context.marshal()
	if p.reinit != nil {
		p.reinit = p.reinit.clone()
	}
	if err := p.restore(tree, proposals, limits.Codec); err != nil {
		return nil, within(object, ErrMalformed, err)
	}
	return p, nil
}

// restore sets the tree and the waiting proposals.
func (p *PublicState) restore(tree []byte, proposals [][]byte, limits codec.Limits) (err error) {
	s := p.rules.suite
	if len(p.interim) != s.hashLen() {
		return fail(ErrMalformed, "§8.2", "", "interim transcript hash of %d bytes, not %d", len(p.interim), s.hashLen())
	}
	if p.tree, err = parseTree(s, p.rules.auth, tree, limits); err != nil {
		return err
	}
	if !bytes.Equal(p.tree.hash(), p.context.TreeHash) {
		return fail(ErrMalformed, "", "ratchet tree", "its hash is not that of the GroupContext")
	}
	for at, content := range proposals {
		c, err := openCached(s, content)
		if err != nil {
			return within(fmt.Sprintf("proposal %d", at), ErrMalformed, err)
		}
		if _, twice := p.cached(c.ref); twice {
			return fail(ErrMalformed, "", fmt.Sprintf("proposal %d", at), "is in the list twice")
		}
		p.proposals = append(p.proposals, *c)
	}
	return nil
}

// clone copies the fields that may share memory with a message.
func (p *ReInit) clone() *ReInit {
	var w codec.Writer
	p.encode(&w)
	return decodeReInit(codec.NewReader(w.Buffer(), codec.Limits{}))
}
