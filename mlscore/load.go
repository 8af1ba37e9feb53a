package mlscore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
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

// LoadGroup opens a group from the store, as it was after the last operation that returned. A commit
// that waited is there again as Pending.
func (c *Client) LoadGroup(groupID []byte) (*Group, error) {
	n, _, err := c.newest(groupID)
	if err != nil {
		return nil, err
	}
	return c.loadGroup(n)
}

// Predecessor opens the closed group of the same id that this one succeeded, where a ReInit kept the id
// (§11.2): late messages of the old group are read there, for as long as in any other closed group.
// ErrMissing if there is none, or if it was erased. LoadGroup opens the newest group of an id.
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
	for _, step := range []func() error{l.loadPublic, l.loadPresent, l.loadProposals, l.loadDropped, l.loadPast, l.loadPending} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return l.g, nil
}

// loadPublic rebuilds the tree: the one of the time of joining, and the nodes that changed since.
func (l *loader) loadPublic() error {
	v, ok, err := l.client.cfg.Store.Get(groupKey(l.name, recordTree))
	if err != nil {
		return err
	}
	if !ok || len(v) == 0 || v[0] != stateVersion {
		return fail(ErrMalformed, "", l.object, "its tree is missing, or of another version")
	}
	bodies, err := splitTree(v[1:], ownLimits(v))
	if err != nil {
		return err
	}
	err = l.scan(recordNode, func(rest, value []byte) error {
		n := NodeIndex(binary.BigEndian.Uint32(rest))
		if len(value) > 0 && n > 2*rootOf(l.head.height) {
			return fail(ErrMalformed, "", l.object, "%s lies outside of a tree of height %d", nodeName(n), l.head.height)
		}
		for uint64(len(bodies)) <= uint64(n) && len(value) > 0 {
			bodies = append(bodies, "")
		}
		if uint64(n) < uint64(len(bodies)) {
			bodies[n] = string(value)
		}
		return nil
	}, 4)
	if err != nil {
		return err
	}
	for len(bodies) > 0 && bodies[len(bodies)-1] == "" {
		bodies = bodies[:len(bodies)-1]
	}
	if len(bodies)%2 == 0 || heightFor(len(bodies)/2+1) != l.head.height {
		return fail(ErrMalformed, "", l.object, "its tree has %d nodes, and should have a height of %d", len(bodies), l.head.height)
	}
	t, err := buildTree(l.g.suite, l.client.cfg.Auth, bodies)
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
	l.head.state.public = p
	return nil
}

// scan visits the group's records of one kind; what follows the kind in their keys has a known length.
func (l *loader) scan(kind byte, visit func(rest, value []byte) error, length int, within ...[]byte) error {
	prefix := groupKey(l.name, kind, within...)
	return l.client.cfg.Store.Scan(prefix, func(key, value []byte) error {
		if len(key) != len(prefix)+length {
			return fail(ErrMalformed, "", l.object, "record %q has a key of %d bytes", kind, len(key))
		}
		return visit(key[len(prefix):], value)
	})
}

func (l *loader) loadPresent() (err error) {
	st := l.head.state
	st.messages, err = l.secretTree(l.head.context.Epoch, l.head.height)
	l.g.state = st
	return err
}

// secretTree rebuilds what is left of an epoch's message keys.
func (l *loader) secretTree(epoch uint64, height int) (*secretTree, error) {
	t := newSecretTree(l.g.suite, height, Secret{})
	clear(t.nodes)
	e := uint64Bytes(epoch)
	err := l.scan(recordTreeKey, func(rest, value []byte) error {
		secret := NewSecret(value)
		t.nodes[NodeIndex(binary.BigEndian.Uint32(rest))] = secret
		return l.g.suite.checkStored("secret tree", secret)
	}, 4, e)
	if err != nil {
		return nil, err
	}
	err = l.scan(recordRatchet, func(rest, value []byte) error {
		entry, err := parseRatchet(value)
		if err != nil {
			return err
		}
		t.ratchets[parseRatchetName(rest)] = entry
		return l.g.suite.checkStored("stored ratchet", entry.secret)
	}, 5, e)
	if err != nil {
		return nil, err
	}
	err = l.scan(recordSkipped, func(rest, value []byte) error {
		owner := t.ratchets[parseRatchetName(rest)]
		if owner == nil {
			return fail(ErrMalformed, "", l.object, "key without a ratchet")
		}
		k, err := l.g.suite.parseMessageKey(binary.BigEndian.Uint32(rest[5:]), value)
		if err != nil {
			return err
		}
		owner.skipped[k.generation] = k
		return nil
	}, 9, e)
	return t, err
}

func parseRatchetName(b []byte) ratchetName {
	return ratchetName{LeafIndex(binary.BigEndian.Uint32(b)), ContentType(b[4]) != ContentApplication}
}

func (l *loader) loadProposals() error {
	st := l.head.state
	err := l.scan(recordProposal, func(_, value []byte) error {
		c, err := openCached(l.g.suite, value)
		if err == nil {
			st.public.proposals = append(st.public.proposals, *c)
		}
		return err
	}, 4)
	if err != nil {
		return err
	}
	return l.scan(recordUpdate, func(ref, value []byte) error {
		u, err := parseOwnUpdate(value)
		l.g.updates[string(ref)] = u
		return err
	}, l.g.suite.hashLen())
}

// loadPast rebuilds the past epochs from the newest back, each from the tree of the one after it.
func (l *loader) loadPast() error {
	type record struct {
		epoch uint64
		value []byte
	}
	var records []record
	err := l.scan(recordPast, func(rest, value []byte) error {
		records = append(records, record{binary.BigEndian.Uint64(rest), bytes.Clone(value)})
		return nil
	}, 8)
	if err != nil {
		return err
	}
	after := l.head.state.public.tree
	for i := len(records) - 1; i >= 0; i-- {
		record, err := parsePastRecord(records[i].value)
		if err != nil {
			return err
		}
		p, err := record.restore(l.g.suite, records[i].epoch, after)
		if err != nil {
			return within("stored past epoch", ErrMalformed, err)
		}
		if p.messages, err = l.secretTree(p.epoch, record.height); err != nil {
			return err
		}
		l.g.past = append(l.g.past, p)
		after = p.tree
	}
	return nil
}

func (l *loader) loadPending() error {
	v, ok, err := l.client.cfg.Store.Get(groupKey(l.name, recordPending))
	if err != nil || !ok {
		return err
	}
	record, err := parsePendingRecord(v)
	if err != nil {
		return err
	}
	l.g.pending, err = record.restore(l.g)
	return err
}
