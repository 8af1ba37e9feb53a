package node

import (
	"sync"

	"github.com/mlsfed/mlsfed/consensus"
	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// Bounds of the branches that one user may open in a contested conversation.
const (
	maxBranchesOfUser = 3
	maxOpeners        = 4096 // commits whose users are remembered
)

// contests bounds the branches of contested conversations for each user of this organization. The ordering bounds
// organizations only, so that one member could use up its organization's share: docs/spec/consensus.md, 'Contests'. The
// counts are in memory: after a restart each user may open as many branches again.
type contests struct {
	mu    sync.Mutex
	users map[opener]wire.UserID
	order []opener // of users, oldest first
}

// opener is a commit that may have opened a branch.
type opener struct {
	conversation wire.ConversationID
	sequence     wire.SequenceNumber
}

func newContests() *contests { return &contests{users: make(map[opener]wire.UserID)} }

// mayOpen refuses a contest by a user who has opened maxBranchesOfUser branches that have not lost.
func (c *contests) mayOpen(user wire.UserID, e *wire.Envelope, heads func(wire.ConversationID) ([]machine.Head, error)) error {
	if e.Commit == nil || !e.Commit.Contest {
		return nil
	}
	list, err := heads(e.Conversation)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, h := range list {
		if c.users[opener{e.Conversation, h.Fork}] == user {
			n++
		}
	}
	if n >= maxBranchesOfUser {
		return wire.Errorf(wire.TooManyHeads, "update", "%s has opened %d branches of %v, and none has lost yet: contest it later, or leave it to others", user, n, e.Conversation)
	}
	return nil
}

// note records which user made an accepted commit.
func (c *contests) note(user wire.UserID, e *wire.Envelope, seq wire.SequenceNumber) {
	if e.Commit == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	o := opener{e.Conversation, seq}
	if _, known := c.users[o]; !known {
		c.order = append(c.order, o)
	}
	c.users[o] = user
	if len(c.order) > maxOpeners {
		delete(c.users, c.order[0])
		c.order = c.order[1:]
	}
}

// contestedList returns the delivery list of the branch that a commit belongs to, if there are several branches, and
// for a contest in any case. It applies from level 2 of the rules on: before, an entry does not name the organization
// that brought it.
func contestedList(orders *consensus.Manager, id wire.ConversationID, seq wire.SequenceNumber, contest bool) []wire.Address {
	status, err := orders.Status(id)
	if err != nil || status.Level < 2 {
		return nil
	}
	heads, err := orders.Heads(id)
	if err != nil || len(heads) < 2 && !contest {
		return nil
	}
	for i := range heads {
		if heads[i].Has(seq) {
			return heads[i].Delivery
		}
	}
	if heads[0].Confirmed || len(heads) == 1 {
		return heads[0].Delivery // the commit is confirmed, and what followed led here
	}
	return nil
}
