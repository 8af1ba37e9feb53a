package node

import (
	"context"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/directory"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/wire"
)

// founded records which user of this organization founded which conversation, so that one user cannot use up what
// this node, or a node of another organization, grants to all users together. A conversation counts while this node
// holds it, and for at least foundedLife: where only other organizations take part, this node soon stops holding the
// conversation, and they still hold it.
type founded struct {
	kept store.Founders
	most int // the limit of conversations of one user; 0: no limit
	now  func() time.Time
	held func() []wire.ConversationID // the conversations that this node holds now

	mu      sync.Mutex // guards what follows
	by      map[wire.ConversationID]store.Founding
	count   map[wire.UserID]int
	refused uint64
}

// foundedLife is how long a conversation still counts after this node has stopped holding it.
const foundedLife = 24 * time.Hour

func openFounded(ctx context.Context, kept store.Founders, most int, now func() time.Time, held func() []wire.ConversationID) (*founded, error) {
	f := &founded{kept: kept, most: most, now: now, held: held, by: make(map[wire.ConversationID]store.Founding), count: make(map[wire.UserID]int)}
	err := kept.Load(ctx, func(id wire.ConversationID, v store.Founding) error {
		f.put(id, v)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return f, f.sweep(ctx, "")
}

func (f *founded) put(id wire.ConversationID, v store.Founding) {
	f.by[id] = v
	f.count[v.User]++
}

func (f *founded) drop(id wire.ConversationID) {
	v, ok := f.by[id]
	if !ok {
		return
	}
	delete(f.by, id)
	if f.count[v.User]--; f.count[v.User] == 0 {
		delete(f.count, v.User)
	}
}

// claim counts a conversation that a user is about to create, or refuses it with wire.Quota. A retry counts once. The
// next sweep releases a claim whose conversation was not created.
func (f *founded) claim(ctx context.Context, u wire.UserID, id wire.ConversationID) error {
	f.mu.Lock()
	_, known := f.by[id]
	full := f.most > 0 && f.count[u] >= f.most
	f.mu.Unlock()
	if known {
		return nil // the log decides whose conversation this is
	}
	if full {
		if err := f.sweep(ctx, id); err != nil {
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
	v := store.Founding{User: u, At: wire.TimeOf(f.now())}
	if err := f.kept.Set(ctx, id, v); err != nil {
		return err
	}
	f.put(id, v)
	return nil
}

// release takes back a claim for a conversation that was not created.
func (f *founded) release(ctx context.Context, id wire.ConversationID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop(id)
	return f.kept.Delete(context.WithoutCancel(ctx), id) // as in memory
}

// sweep forgets the conversations that this node has not held for foundedLife, except one that is being
// created.
func (f *founded) sweep(ctx context.Context, except wire.ConversationID) error {
	held := make(map[wire.ConversationID]bool)
	for _, id := range f.held() {
		held[id] = true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var gone []wire.ConversationID
	old := wire.TimeOf(f.now().Add(-foundedLife))
	for id, v := range f.by {
		if !held[id] && v.At < old && id != except {
			f.drop(id)
			gone = append(gone, id)
		}
	}
	return f.kept.Delete(context.WithoutCancel(ctx), gone...) // as in memory
}

// refusals returns how many conversations were refused.
func (f *founded) refusals() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.refused
}

// ownership knows at which addresses devices of this node read.
type ownership struct {
	directory *directory.Directory
	mailbox   mailbox.Box
}

// owns reports whether a device of this node reads a conversation at an address, or will when the entry that adds it
// is delivered. An address that another conversation has, or whose device has refused this conversation, does not
// count: otherwise an attacker who learns an address could make this node hold conversations.
func (o *ownership) owns(id wire.ConversationID, t wire.Token) (bool, error) {
	ctx := context.Background() // the ordering asks for itself, for no request
	if may, err := o.directory.MayRead(ctx, id, t); err != nil || may {
		return may, err
	}
	at, err := o.mailbox.ReaderStates(ctx, mailbox.Reader{Stream: mailbox.Conversation(id), Token: t})
	return err == nil && at[0].Known, err
}
