package mlscore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Groups lists the ids of the groups in the store.
func (c *Client) Groups() ([][]byte, error) {
	var ids [][]byte
	prefix := listKey(nil)
	err := c.cfg.Store.Scan(prefix, func(key, _ []byte) error {
		ids = append(ids, bytes.Clone(key[len(prefix):]))
		return nil
	})
	return ids, storeError("groups", err)
}

func storeError(object string, err error) error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	return &Error{Kind: ErrStore, Object: object, Detail: "cannot be read", Err: err}
}

// LoadGroup loads a group from the store, as it was after the last operation that returned. Pending returns the own
// commit that waited.
func (c *Client) LoadGroup(groupID []byte) (*Group, error) {
	n, _, err := c.newest(groupID)
	if err != nil {
		return nil, err
	}
	return c.loadGroup(n)
}

// Predecessor loads the closed group of the same id that this one succeeded, if a ReInit kept the id (§11.2). Late
// messages of the old group are processed there, for as long as in any other closed group. It returns ErrMissing if
// there is no such group, or if it was erased. LoadGroup loads the newest group of an id.
func (g *Group) Predecessor() (*Group, error) {
	n := g.name()
	if n.place == 0 {
		return nil, fail(ErrMissing, "§11.2", fmt.Sprintf("group %x", n.id), "succeeded no group of the same id")
	}
	n.place--
	return g.client.loadGroup(n)
}

func (c *Client) loadGroup(n groupName) (*Group, error) {
	l := &loader{client: c, name: n, object: fmt.Sprintf("stored group %x", n.id)}
	g, err := l.load()
	if err != nil {
		return nil, storeError(l.object, err)
	}
	return g, nil
}

type loader struct {
	client *Client
	name   groupName
	object string
	head   *headRecord
	g      *Group
	stored storedGroup
}

// storedGroup holds the records of a group, which are read at once. The records for late messages of ended epochs are
// read when such a message arrives.
type storedGroup struct {
	tree      treeReading
	nodes     []nodeRecord
	messages  *secretTree // of the present epoch
	proposals []cachedProposal
	dropped   []uint32     // of them
	past      []*pastEpoch // oldest first
	pending   []byte
}

// nodeRecord is a node that changed since the tree was stored.
type nodeRecord struct {
	at   nodeIndex
	body string
}

func (l *loader) load() (*Group, error) {
	v, ok, err := l.client.cfg.Store.Get(groupKey(l.name, recordHead))
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fail(ErrMissing, "", l.object, "is not in the store")
	}
	if l.head, err = parseHead(v); err != nil {
		return nil, err
	}
	s, err := l.client.suite(l.head.context.CipherSuite)
	if err != nil {
		return nil, err
	}
	for _, secret := range l.head.state.secrets.stored() {
		if err := s.checkStored("epoch secret", *secret); err != nil {
			return nil, within(l.object, ErrMalformed, err)
		}
	}
	l.g = &Group{client: l.client, suite: s, options: l.head.options, updates: map[string]*ownUpdate{}, place: l.name.place}
	for _, step := range []func() error{l.read, l.loadPublic, l.markDropped, l.loadPending} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return l.g, nil
}

// read visits all records of the group.
func (l *loader) read() error {
	l.stored.messages = newSecretTree(l.g.suite, l.head.height, Secret{})
	clear(l.stored.messages.nodes)
	prefix := groupPrefix(l.name)
	return l.client.cfg.Store.Scan(prefix, func(key, value []byte) error {
		if len(key) == len(prefix) {
			return fail(ErrMalformed, "", l.object, "record of no kind")
		}
		return l.take(key[len(prefix)], key[len(prefix)+1:], value)
	})
}

// take reads a record of a kind. rest is the part of its key after the kind.
func (l *loader) take(kind byte, rest, value []byte) error {
	r := &l.stored
	if want, ok := restLength(kind, l.g.suite); ok && len(rest) != want {
		return fail(ErrMalformed, "", l.object, "record %q has a key of %d bytes", kind, len(rest))
	}
	switch kind {
	case recordTree:
		return r.tree.take(rest, value)
	case recordNode:
		r.nodes = append(r.nodes, nodeRecord{nodeIndex(binary.BigEndian.Uint32(rest)), string(value)})
	case recordTreeKey, recordRatchet, recordSkipped:
		if binary.BigEndian.Uint64(rest) == l.head.context.Epoch {
			return r.messages.take(kind, rest[8:], value)
		}
	case recordProposal:
		c, err := openCached(l.g.suite, bytes.Clone(value))
		if err != nil {
			return err
		}
		r.proposals = append(r.proposals, *c)
	case recordDropped:
		if binary.BigEndian.Uint64(rest) == l.head.context.Epoch {
			r.dropped = append(r.dropped, binary.BigEndian.Uint32(rest[8:]))
		}
	case recordUpdate:
		u, err := parseOwnUpdate(value)
		l.g.updates[string(rest)] = u
		return err
	case recordPast:
		p, err := parsePastRecord(bytes.Clone(value))
		if err != nil {
			return err
		}
		if err := l.g.suite.checkStored("sender data secret", p.senderData); err != nil {
			return within("stored past epoch", ErrMalformed, err)
		}
		r.past = append(r.past, &pastEpoch{context: p.context, epoch: binary.BigEndian.Uint64(rest), ended: p.ended, senderData: p.senderData, stored: p})
	case recordPending:
		r.pending = bytes.Clone(value)
	}
	return nil
}

// restLength returns the number of bytes after the kind in the key of a record of that kind; false if it varies.
func restLength(kind byte, s *suite) (int, bool) {
	switch kind {
	case recordNode, recordProposal:
		return 4, true
	case recordPast:
		return 8, true
	case recordTreeKey, recordDropped:
		return 8 + 4, true
	case recordRatchet:
		return 8 + 5, true
	case recordSkipped:
		return 8 + 9, true
	case recordUpdate:
		return s.hashLen(), true
	}
	return 0, false
}

// loadPublic rebuilds the tree from the tree at the time of joining and the nodes that changed since then.
func (l *loader) loadPublic() error {
	t, err := l.tree()
	if err != nil {
		return err
	}
	if !bytes.Equal(t.hash(), l.head.context.TreeHash) {
		return fail(ErrMalformed, "", l.object, "its tree is damaged: the hash is not that of the epoch")
	}
	p := &PublicState{
		rules:   l.client.rules(l.g.suite),
		limits:  l.client.cfg.Limits,
		context: l.head.context,
		tree:    t,
		interim: l.head.interim,
		reinit:  l.head.reinit,
	}
	p.encoded = p.context.marshal()
	p.proposals = l.stored.proposals
	l.head.state.public = p
	l.head.state.messages = l.stored.messages
	l.g.state = l.head.state
	l.g.past = l.stored.past
	slices.Reverse(l.g.past)
	return nil
}

// tree puts the changed nodes into the stored tree.
func (l *loader) tree() (*ratchetTree, error) {
	t, err := l.stored.tree.finish(l.g.suite.hashLen())
	if err != nil {
		return nil, err
	}
	changed := make([]nodeIndex, len(l.stored.nodes))
	for i, n := range l.stored.nodes {
		changed[i] = n.at
		if n.body != "" && n.at > 2*rootOf(l.head.height) {
			return nil, fail(ErrMalformed, "", l.object, "%s lies outside of a tree of height %d", nodeName(n.at), l.head.height)
		}
		for uint64(len(t.bodies)) <= uint64(n.at) && n.body != "" {
			t.bodies = append(t.bodies, "")
		}
		if uint64(n.at) < uint64(len(t.bodies)) {
			t.bodies[n.at] = n.body
		}
	}
	for len(t.bodies) > 0 && t.bodies[len(t.bodies)-1] == "" {
		t.bodies = t.bodies[:len(t.bodies)-1]
	}
	if len(t.bodies)%2 == 0 || heightFor(len(t.bodies)/2+1) != l.head.height {
		return nil, fail(ErrMalformed, "", l.object, "its tree has %d nodes, and should have a height of %d", len(t.bodies), l.head.height)
	}
	return restoreTree(l.g.suite, l.client.cfg.Auth, t, changed)
}

// take puts a stored record of this epoch into a secret tree. rest is the part of its key after the epoch.
func (t *secretTree) take(kind byte, rest, value []byte) error {
	switch kind {
	case recordTreeKey:
		secret := NewSecret(value)
		t.nodes[nodeIndex(binary.BigEndian.Uint32(rest))] = secret
		return t.suite.checkStored("secret tree", secret)
	case recordRatchet:
		entry, err := parseRatchet(value)
		if err != nil {
			return err
		}
		t.ratchets[parseRatchetName(rest)] = entry
		return t.suite.checkStored("stored ratchet", entry.secret)
	}
	owner := t.ratchets[parseRatchetName(rest)]
	if owner == nil {
		return fail(ErrMalformed, "", "stored message key", "has no ratchet")
	}
	k, err := t.suite.parseMessageKey(binary.BigEndian.Uint32(rest[5:]), value)
	if err != nil {
		return err
	}
	owner.skipped[k.generation] = k
	return nil
}

func parseRatchetName(b []byte) ratchetName {
	return ratchetName{LeafIndex(binary.BigEndian.Uint32(b)), ContentType(b[4]) != ContentApplication}
}

// openPast reads the records that the past epoch at index at needs for a late message, unless they have been read.
func (g *Group) openPast(at int) (*pastEpoch, error) {
	p := g.past[at]
	if p.messages != nil {
		return p, nil
	}
	if err := g.restorePast(at); err != nil {
		return nil, within("stored past epoch", ErrMalformed, err)
	}
	messages, err := g.client.storedMessages(g.suite, g.name(), p.epoch, p.tree.height())
	if err != nil {
		return nil, storeError("past epoch", err)
	}
	p.messages = messages
	return p, nil
}

// storedMessages reads the remaining message keys of a past epoch.
func (c *Client) storedMessages(s *suite, group groupName, epoch uint64, height int) (*secretTree, error) {
	t := newSecretTree(s, height, Secret{})
	clear(t.nodes)
	for _, kind := range []byte{recordTreeKey, recordRatchet, recordSkipped} {
		prefix := groupKey(group, kind, uint64Bytes(epoch))
		want, _ := restLength(kind, s)
		err := c.cfg.Store.Scan(prefix, func(key, value []byte) error {
			if len(key)-len(prefix)+8 != want {
				return fail(ErrMalformed, "", "stored past epoch", "record %q has a key of %d bytes", kind, len(key))
			}
			return t.take(kind, key[len(prefix):], value)
		})
		if err != nil {
			t.erase()
			return nil, err
		}
	}
	return t, nil
}

// restorePast rebuilds the tree of a past epoch and the trees of the epochs after it: each tree is computed from the
// tree of the next epoch.
func (g *Group) restorePast(at int) error {
	from := at
	for from >= 0 && g.past[from].tree == nil {
		from--
	}
	after := g.public().tree
	if from >= 0 {
		after = g.past[from].tree
	}
	for from++; from <= at; from++ {
		p := g.past[from]
		tree, err := p.stored.restore(after)
		if err != nil {
			return err
		}
		p.tree, p.stored, after = tree, nil, tree
	}
	return nil
}

func (l *loader) loadPending() error {
	if l.stored.pending == nil {
		return nil
	}
	record, err := parsePendingRecord(l.stored.pending)
	if err != nil {
		return err
	}
	l.g.pending, err = record.restore(l.g)
	return err
}
