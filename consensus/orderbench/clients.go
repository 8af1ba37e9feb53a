package orderbench

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/wire"
)

// clients are the submitting clients: in each conversation they submit one commit after the other, of EntrySize
// bytes. They sign before a round, as they would on machines of their own, so that a round measures only the
// ordering.
type clients struct {
	ids   atomic.Uint64
	talks []*talk
}

// talk is one conversation with the data for its next commit.
type talk struct {
	id wire.ConversationID
	n  uint64

	mu      sync.Mutex // guards the fields below
	place   author.Place
	waiting *wire.Envelope // submitted, and not answered yet
	ahead   []signed
}

// signed is a commit signed in advance, without the fields that all commits share.
type signed struct {
	place     author.Place
	id        wire.SubmissionID
	key       wire.SubmissionKey
	signature []byte
}

func newClients(n int) *clients {
	c := &clients{talks: make([]*talk, n)}
	for i := range c.talks {
		c.talks[i] = &talk{id: wire.ConversationID(fmt.Sprintf("conversation %08d", i)), n: uint64(i)}
	}
	return c
}

func (c *clients) submission() wire.SubmissionID { return author.Submission(c.ids.Add(1)) }

// overhead is the approximate number of bytes that an envelope and its entry add to the body of a commit.
const overhead = 300

// next returns the next submission in conversation i: the unanswered submission again, the create if it was not
// created, or the next commit.
func (c *clients) next(i int) *wire.Envelope {
	t := c.talks[i]
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting != nil {
		return t.waiting
	}
	if t.place.Parent == 0 {
		t.waiting = author.Create(t.id, c.submission(), wire.Policy{Voters: 3}, author.Addresses(t.n, organizations...))
		return t.waiting
	}
	for len(t.ahead) > 0 && t.waiting == nil {
		if s := t.ahead[0]; s.place == t.place {
			t.waiting = t.place.Unsigned(s.id, s.key, EntrySize-overhead, wire.DeliveryChange{})
			t.waiting.Signature = s.signature
		}
		t.ahead = t.ahead[1:]
	}
	if t.waiting == nil {
		t.waiting = t.place.Commit(c.submission(), EntrySize-overhead, wire.DeliveryChange{})
	}
	return t.waiting
}

// answered processes the receipt for the submission in conversation i.
func (c *clients) answered(i int, r wire.Receipt) {
	t := c.talks[i]
	t.mu.Lock()
	defer t.mu.Unlock()
	t.place, t.waiting = author.After(t.waiting, r), nil
}

// prepare signs n commits in advance in each conversation. It assumes that nothing else is ordered in between.
func (c *clients) prepare(n int) {
	var all sync.WaitGroup
	for _, t := range c.talks {
		all.Go(func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.ahead = nil
			for at := t.place; len(t.ahead) < n && at.Parent != 0; {
				e := at.Commit(c.submission(), EntrySize-overhead, wire.DeliveryChange{})
				t.ahead = append(t.ahead, signed{place: at, id: e.Submission, key: e.Commit.Key, signature: e.Signature})
				at = author.After(e, wire.Receipt{Sequence: at.Parent + 1, Epoch: at.Epoch + 1})
			}
		})
	}
	all.Wait()
}
