package mlscore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// stateVersion is the first field of every record, so that later releases recognize the format. docs/spec/state.md
// describes the format.
const stateVersion = 1

func checkVersion(r *codec.Reader, newest uint8) uint8 {
	v := r.Uint8()
	if r.Err() == nil && (v < stateVersion || v > newest) {
		r.Fail(fmt.Errorf("%w: record of version %d, this release reads up to %d", ErrUnsupported, v, newest))
	}
	return v
}

// headRecord is the small part of a member's state.
type headRecord struct {
	options GroupOptions
	context GroupContext
	interim []byte
	height  int
	state   *memberState // without public and messages
	reinit  *ReInit
}

func (h *headRecord) marshal() []byte {
	st := h.state
	var w codec.Writer
	w.Uint8(stateVersion)
	w.Optional(h.options.PublicHandshakes)
	w.Uint8(uint8(h.options.Padding.mode))
	w.Uint32(uint32(h.options.Padding.multiple))
	h.context.encode(&w)
	w.Bytes(h.interim)
	w.Uint8(uint8(h.height))
	w.Uint32(uint32(st.self))
	w.Bytes(st.signer.Bytes())
	w.Vector(func(w *codec.Writer) {
		for _, k := range st.keys {
			w.Bytes(k.Bytes())
		}
	})
	for _, s := range st.secrets.stored() {
		w.Bytes(s.Bytes())
	}
	w.Bytes(st.confirmationTag)
	w.Optional(h.reinit != nil)
	if h.reinit != nil {
		h.reinit.encode(&w)
	}
	return w.Buffer()
}

// stored lists the secrets of the head record, in the order of the record.
func (e *epochSecrets) stored() []*Secret {
	return []*Secret{&e.senderData, &e.exporter, &e.external, &e.confirmation, &e.membership, &e.resumption, &e.authenticator, &e.init}
}

func parseHead(b []byte) (*headRecord, error) {
	r := codec.NewReader(b, ownLimits(b))
	checkVersion(r, stateVersion)
	h := &headRecord{state: &memberState{secrets: &epochSecrets{}}}
	st := h.state
	h.options.PublicHandshakes = r.Optional()
	h.options.Padding = Padding{paddingMode(r.Uint8()), int(r.Uint32())}
	if p := h.options.Padding; p.mode > padPadme || p.mode == padMultiple && p.multiple < 2 {
		r.Fail(fmt.Errorf("padding mode %d to %d is not defined", p.mode, p.multiple))
	}
	h.context = decodeGroupContext(r)
	h.interim = r.Bytes()
	h.height = readHeight(r)
	st.self = LeafIndex(r.Uint32())
	st.signer = NewSecret(r.Bytes())
	r.Vector(func(r *codec.Reader) { st.keys = append(st.keys, NewSecret(r.Bytes())) })
	for _, s := range st.secrets.stored() {
		*s = NewSecret(r.Bytes())
	}
	st.confirmationTag = r.Bytes()
	if r.Optional() {
		h.reinit = decodeReInit(r)
	}
	return h, malformed("stored group", r.Finish())
}

// headOf makes the head record of a state.
func (g *Group) headOf(st *memberState) *headRecord {
	return &headRecord{
		options: g.options,
		context: st.public.context,
		interim: st.public.interim,
		height:  st.public.tree.height(),
		state:   st,
		reinit:  st.public.reinit,
	}
}

// name returns the name of the group in the store.
func (g *Group) name() groupName { return groupName{g.public().context.GroupID, g.place} }

// listRecord returns the record of a group in the list of groups.
func listRecord(place uint32) []byte {
	if place == 0 {
		return []byte{stateVersion} // the format before places were added
	}
	return append([]byte{stateVersion}, uint32Bytes(place)...)
}

// newest finds the newest group of an id.
func (c *Client) newest(id []byte) (n groupName, found bool, err error) {
	v, found, err := c.cfg.Store.Get(listKey(id))
	if err != nil {
		return n, false, &Error{Kind: ErrStore, Object: "store", Detail: "cannot be read", Err: err}
	}
	n = groupName{id: id}
	switch {
	case !found, len(v) == 1 && v[0] == stateVersion:
	case len(v) == 5 && v[0] == stateVersion:
		n.place = binary.BigEndian.Uint32(v[1:])
	default:
		return n, false, fail(ErrMalformed, "", fmt.Sprintf("group %x", id), "its record in the list of groups is of another version")
	}
	return n, found, nil
}

// placeFor returns the place at which a new group of an id is to be stored, and whether the id is taken: by a group
// that was not closed by a ReInit in favour of a group of the same id (§11.2).
func (c *Client) placeFor(id []byte) (place uint32, taken bool, err error) {
	n, found, err := c.newest(id)
	if err != nil || !found {
		return 0, false, err
	}
	v, found, err := c.cfg.Store.Get(groupKey(n, recordHead))
	if err != nil {
		return 0, false, &Error{Kind: ErrStore, Object: "store", Detail: "cannot be read", Err: err}
	}
	if !found {
		return n.place, false, nil
	}
	h, err := parseHead(v)
	if err != nil {
		return 0, false, err
	}
	if h.reinit != nil && bytes.Equal(h.reinit.GroupID, id) {
		return n.place + 1, false, nil
	}
	return n.place, true, nil
}

// writeFounding writes a group that is new to this client. It deletes all records at the place of the group.
func (g *Group) writeFounding(b *Batch) error {
	name := g.name()
	b.deleteAll(groupPrefix(name))
	b.put(listKey(name.id), listRecord(name.place))
	if err := writeTree(b, name, g.public().tree); err != nil {
		return err
	}
	g.writeEpoch(b, g.state)
	return nil
}

// writeEpoch writes the records of a new epoch, except the tree.
func (g *Group) writeEpoch(b *Batch, st *memberState) {
	c := &st.public.context
	epoch := uint64Bytes(c.Epoch)
	b.put(groupKey(g.name(), recordHead), g.headOf(st).marshal())
	b.put(groupKey(g.name(), recordPSK, epoch), slices.Clone(st.secrets.resumption.Bytes()))
	for n, s := range st.messages.nodes {
		b.put(groupKey(g.name(), recordTreeKey, epoch, uint32Bytes(uint32(n))), slices.Clone(s.Bytes()))
	}
}

// mergeWrites returns the writes that enter the epoch of a staged commit: the small head record, the changed nodes of
// the tree, and the records that turn the present epoch into a past one.
func (g *Group) mergeWrites(s *StagedCommit) (Batch, *treeStep, error) {
	var b Batch
	c := &g.public().context
	if s.removes {
		b.deleteGroups(c.GroupID)
		return b, nil, nil
	}
	var step *treeStep
	if s.used != nil {
		var err error
		if step, err = g.state.messages.peek(*s.used, s.usedGeneration, g.client.cfg.Limits.Ratchet); err != nil {
			return b, nil, within("staged commit", ErrReplay, err)
		}
		g.state.messages.writeStep(&b, g.name(), c.Epoch, step)
	}
	g.writeChange(&b, s.next)
	return b, step, nil
}

// writeChange writes the change from the present epoch to next.
func (g *Group) writeChange(b *Batch, next *memberState) {
	old := &g.public().context
	limits := g.client.cfg.Limits
	name := g.name()
	b.deleteAll(groupKey(name, recordProposal))
	b.deleteAll(groupKey(name, recordDropped))
	b.deleteAll(groupKey(name, recordUpdate))
	b.delete(groupKey(name, recordPending))
	changedNodes(g.public().tree, next.public.tree, func(n nodeIndex, body string) {
		b.put(groupKey(name, recordNode, uint32Bytes(uint32(n))), []byte(body))
	})
	next.entered = g.client.cfg.Now()
	forget := func(epoch uint64) {
		for _, kind := range []byte{recordPast, recordTreeKey, recordRatchet, recordSkipped} {
			b.deleteAll(groupKey(name, kind, uint64Bytes(epoch)))
		}
	}
	if limits.PastEpochs > 0 {
		b.put(groupKey(name, recordPast, uint64Bytes(old.Epoch)), g.pastRecord(next))
	} else {
		forget(old.Epoch)
	}
	for _, gone := range g.leaving(next.entered) {
		forget(gone.epoch)
	}
	if gone := int64(next.public.context.Epoch) - int64(limits.Resumption); gone >= 0 {
		b.delete(groupKey(name, recordPSK, uint64Bytes(uint64(gone))))
	}
	g.writeEpoch(b, next)
}

// leaving lists the past epochs that are deleted when the next epoch begins: the oldest ones.
func (g *Group) leaving(now time.Time) []*pastEpoch {
	l := &g.client.cfg.Limits
	for i, p := range g.past {
		at := i + 1 // index in the next epoch, after the epoch that ends now
		if at >= l.PastEpochs && (at >= l.PastMost || l.PastTime <= 0 || now.Sub(p.ended) >= l.PastTime) {
			return g.past[i:]
		}
	}
	return nil
}

// pastRecord encodes the data of the present epoch that late messages need, among them the leaves that differ in the
// next epoch.
func (g *Group) pastRecord(next *memberState) []byte {
	p := pastRecord{context: g.public().encoded, height: g.public().tree.height(), senderData: g.state.secrets.senderData, ended: next.entered}
	changedNodes(next.public.tree, g.public().tree, func(n nodeIndex, body string) {
		if n.level() == 0 {
			p.leaves = append(p.leaves, leafChange{n.firstLeaf(), body})
		}
	})
	return p.marshal()
}

// restore rebuilds the tree of a past epoch from the tree of the following epoch.
func (p *pastRecord) restore(after *ratchetTree) (*ratchetTree, error) {
	e := after.editBare()
	if err := e.extend(LeafIndex(1)<<p.height - 1); err != nil {
		return nil, err
	}
	changes := slices.DeleteFunc(p.leaves, func(c leafChange) bool { return !e.holds(c.index) })
	if err := e.replace(changes); err != nil {
		return nil, err
	}
	return e.finish(), nil
}

// writeProposal stores the last proposal of next's list.
func (g *Group) writeProposal(b *Batch, next *PublicState) {
	at := len(next.proposals) - 1
	b.put(groupKey(g.name(), recordProposal, uint32Bytes(uint32(at))), slices.Clone(next.proposals[at].content))
}

// storePending stores the pending own commit.
func (g *Group) storePending(b *Batch, s *StagedCommit, ac *authenticatedContent) error {
	root := s.next.messages.nodes[rootOf(s.next.messages.height)]
	record, err := (&pendingRecord{
		message:    s.message,
		content:    ac.marshal(),
		head:       g.headOf(s.next).marshal(),
		encryption: root,
	}).marshal()
	b.put(groupKey(g.name(), recordPending), record)
	return err
}

// restore stages a stored commit in the epoch in which it was made.
func (p *pendingRecord) restore(g *Group) (*StagedCommit, error) {
	const object = "stored commit"
	r := codec.NewReader(p.content, ownLimits(p.content))
	ac := decodeAuthenticatedContent(r)
	if err := r.Finish(); err != nil {
		return nil, malformed(object, err)
	}
	h, err := parseHead(p.head)
	if err != nil {
		return nil, err
	}
	if ac.content.kind != ContentCommit {
		return nil, fail(ErrMalformed, "", object, "is a %v", ac.content.kind)
	}
	st, err := g.public().stage(ac)
	if err != nil {
		return nil, within(object, ErrMalformed, err)
	}
	next := h.state
	next.public = g.public().advance(st, ac)
	if !bytes.Equal(next.public.encoded, h.context.marshal()) || !bytes.Equal(next.public.interim, h.interim) ||
		next.public.tree.height() != h.height || next.self != g.state.self {
		return nil, fail(ErrMalformed, "", object, "does not lead to the epoch that was stored with it")
	}
	for _, secret := range append(next.secrets.stored(), &p.encryption) {
		if err := g.suite.checkStored("epoch secret", *secret); err != nil {
			return nil, within(object, ErrMalformed, err)
		}
	}
	next.messages = newSecretTree(g.suite, h.height, p.encryption)
	return &StagedCommit{
		base:    g.state,
		next:    next,
		own:     true,
		effects: st.effects(g.public(), next.public, ac),
		message: slices.Clone(p.message),
	}, nil
}

// writeStep writes the changes of a step, the use of one message key.
func (t *secretTree) writeStep(b *Batch, group groupName, epoch uint64, st *treeStep) {
	e := uint64Bytes(epoch)
	if st.opened != nil {
		b.delete(groupKey(group, recordTreeKey, e, uint32Bytes(uint32(st.used))))
		for _, n := range slices.Sorted(maps.Keys(st.expanded)) {
			b.put(groupKey(group, recordTreeKey, e, uint32Bytes(uint32(n))), slices.Clone(st.expanded[n].Bytes()))
		}
		for name, r := range st.opened {
			if name != st.name || st.fromSkipped {
				b.put(ratchetKeyOf(group, epoch, name), marshalRatchet(r.secret, r.generation))
			}
		}
	}
	if st.fromSkipped {
		b.delete(skippedKeyOf(group, epoch, st.name, st.key.generation))
		return
	}
	b.put(ratchetKeyOf(group, epoch, st.name), marshalRatchet(st.secret, st.generation))
	for _, gen := range st.forgotten {
		b.delete(skippedKeyOf(group, epoch, st.name, gen))
	}
	for _, k := range st.skipped {
		b.put(skippedKeyOf(group, epoch, st.name, k.generation), k.marshal())
	}
}

func (n ratchetName) bytes() []byte {
	kind := byte(ContentApplication)
	if n.handshake {
		kind = byte(ContentCommit)
	}
	return append(uint32Bytes(uint32(n.leaf)), kind)
}

func ratchetKeyOf(name groupName, epoch uint64, n ratchetName) []byte {
	return groupKey(name, recordRatchet, uint64Bytes(epoch), n.bytes())
}

func skippedKeyOf(name groupName, epoch uint64, n ratchetName, generation uint32) []byte {
	return groupKey(name, recordSkipped, uint64Bytes(epoch), n.bytes(), uint32Bytes(generation))
}
