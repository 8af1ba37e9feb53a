package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// founded knows which user of this organization founded which conversation, so that one user cannot spend
// what this node, or another organization's, grants to all users together. A conversation counts while this
// node holds it, and for foundedLife at least: where only others take part, the node soon holds it no longer,
// and they do. Keys are prefix, conversation; values the time in eight bytes and the user.
type founded struct {
	db     *pebble.DB
	prefix []byte
	most   int // conversations of one user; 0: no limit
	now    func() time.Time
	held   func() map[wire.ConversationID]bool // those that this node holds now

	mu      sync.Mutex // guards what follows
	by      map[wire.ConversationID]founding
	count   map[wire.UserID]int
	refused uint64
}

// founding is who founded a conversation, and when.
type founding struct {
	user wire.UserID
	at   wire.Time
}

// foundedLife is how long a conversation counts that this node does not hold any longer.
const foundedLife = 24 * time.Hour

func openFounded(db *pebble.DB, prefix []byte, most int, now func() time.Time) (*founded, error) {
	f := &founded{db: db, prefix: prefix, most: most, now: now, by: make(map[wire.ConversationID]founding), count: make(map[wire.UserID]int)}
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return nil, fmt.Errorf("founders: %w", err)
	}
	for it.First(); it.Valid(); it.Next() {
		v := it.Value()
		if len(v) < 8 {
			return nil, errors.Join(fmt.Errorf("founders: value of %d bytes", len(v)), it.Close())
		}
		f.put(wire.ConversationID(it.Key()[len(prefix):]), founding{wire.UserID(v[8:]), wire.Time(binary.BigEndian.Uint64(v))})
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return nil, fmt.Errorf("founders: %w", err)
	}
	return f, nil
}

func (f *founded) key(id wire.ConversationID) []byte { return append(bytes.Clone(f.prefix), id...) }

func (f *founded) put(id wire.ConversationID, v founding) {
	f.by[id] = v
	f.count[v.user]++
}

func (f *founded) drop(id wire.ConversationID) {
	v, ok := f.by[id]
	if !ok {
		return
	}
	delete(f.by, id)
	if f.count[v.user]--; f.count[v.user] == 0 {
		delete(f.count, v.user)
	}
}

// claim counts a conversation that a user is about to create, or refuses it with wire.Quota. A retry counts
// once. What is claimed and not created is released by the next sweep.
func (f *founded) claim(u wire.UserID, id wire.ConversationID) error {
	f.mu.Lock()
	_, known := f.by[id]
	full := f.most > 0 && f.count[u] >= f.most
	f.mu.Unlock()
	if known {
		return nil // whose conversation it is, the log decides
	}
	if full {
		if err := f.sweep(id); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.most > 0 && f.count[u] >= f.most {
		f.refused++
		return wire.Errorf(wire.Quota, "create", "%s has founded %d conversations of late or that are still here, at most %d: leave some, wait a day, or ask the node's operator", u, f.count[u], f.most)
	}
	if _, known := f.by[id]; known {
		return nil
	}
	v := founding{u, wire.TimeOf(f.now())}
	if err := f.db.Set(f.key(id), append(binary.BigEndian.AppendUint64(nil, uint64(v.at)), u...), pebble.NoSync); err != nil {
		return fmt.Errorf("founders: %w", err)
	}
	f.put(id, v)
	return nil
}

// release takes back a claim for a conversation that was not created.
func (f *founded) release(id wire.ConversationID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop(id)
	if err := f.db.Delete(f.key(id), pebble.NoSync); err != nil {
		return fmt.Errorf("founders: %w", err)
	}
	return nil
}

// sweep forgets the conversations that this node has not held for foundedLife, except one that is being
// created.
func (f *founded) sweep(except wire.ConversationID) error {
	held := f.held()
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	old := wire.TimeOf(f.now().Add(-foundedLife))
	for id, v := range f.by {
		if !held[id] && v.at < old && id != except {
			f.drop(id)
			errs = append(errs, f.db.Delete(f.key(id), pebble.NoSync))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("founders: %w", err)
	}
	return nil
}

// refusals is how many conversations were refused.
func (f *founded) refusals() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.refused
}

// owns reports whether a device of this node reads a conversation at an address, or will when the entry that adds it is
// delivered. An address that another conversation has, or whose device has refused this one, is nobody's in it: whoever
// learns an address could hold conversations here with it.
func (r *router) owns(id wire.ConversationID, t wire.Token) (bool, error) {
	if may, err := r.directory.MayRead(id, t); err != nil || may {
		return may, err
	}
	_, _, err := r.mail.Cursor(context.Background(), mailbox.Conversation(id), t)
	if wire.CodeOf(err) == wire.UnknownConversation {
		return false, nil
	}
	return err == nil, err
}
