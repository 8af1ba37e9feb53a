package consensus

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// memAccount is an account with a limit for each other organization.
type memAccount struct {
	mu      sync.Mutex // guards the fields below
	of      map[wire.Domain][2]uint64
	most    uint64 // limit of one other organization; 0: no limit
	full    bool   // the disk is full
	refused int
}

func newMemAccount() *memAccount { return &memAccount{of: make(map[wire.Domain][2]uint64)} }

func (a *memAccount) Charge(org wire.Domain, what Stored, n uint64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if b := a.of[org]; org != "" && a.most > 0 && b[0]+b[1]+n > a.most {
		a.refused++
		return wire.Errorf(wire.Quota, "store", "%s has %d bytes, %d more are over %d", org, b[0]+b[1], n, a.most)
	}
	a.add(org, what, n)
	return nil
}

func (a *memAccount) add(org wire.Domain, what Stored, n uint64) {
	b := a.of[org]
	b[what] += n
	a.of[org] = b
}

func (a *memAccount) Adopt(org wire.Domain, what Stored, n uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.add(org, what, n)
}

func (a *memAccount) Release(org wire.Domain, what Stored, n uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.of[org][what] < n {
		panic(fmt.Sprintf("%s has %d bytes, and %d are released", org, a.of[org][what], n))
	}
	a.add(org, what, -n)
}

func (a *memAccount) Room() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.full {
		a.refused++
		return wire.Errorf(wire.Unavailable, "store", "the disk is full")
	}
	return nil
}

func (a *memAccount) bytes(org wire.Domain, what Stored) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.of[org][what]
}

func (a *memAccount) set(most uint64, full bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.most, a.full = most, full
}

func (a *memAccount) refusals() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refused
}

// logBytes returns the size of a conversation in a node's log, as charged.
func logBytes(t *testing.T, n *testNode, id wire.ConversationID) (total uint64) {
	t.Helper()
	c, err := n.m.find(id)
	if err != nil {
		t.Fatal(err)
	}
	log := n.log.Group(c.group)
	first, err := log.FirstIndex()
	if err != nil {
		t.Fatal(err)
	}
	last, err := log.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	for i := first; i <= last && i > 0; i++ {
		var l raft.Log
		if err := log.GetLog(i, &l); err != nil {
			t.Fatal(err)
		}
		total += logCost([]*raft.Log{&l})
	}
	return total
}

// TestLogsAndSnapshotsAreCharged checks that the organization that brought a conversation is charged exactly for its
// log and its snapshots, also after a truncation of the log and after a restart, and that conversations which the
// node founded are charged to itself.
func TestLogsAndSnapshotsAreCharged(t *testing.T) {
	accounts := map[wire.NodeID]*memAccount{}
	edit := func(cfg *Config) {
		accounts[cfg.Node] = newMemAccount()
		cfg.Account = accounts[cfg.Node]
		cfg.Limits.SnapshotAfter, cfg.Timers.Snapshot = 16, time.Second
	}
	simulate(t, edit, []wire.NodeID{nodeA, nodeB}, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example")
		c.settled(conv, 1, 1)
		for range 60 {
			p = c.commit(nodeA, p, wire.DeliveryChange{})
		}
		b := c.nodes[nodeB]
		exact := func(when string) {
			t.Helper()
			c.eventually("an exact account "+when, func() bool {
				size := uint64(0)
				b.snaps.mu.Lock()
				for _, snap := range b.snaps.by {
					size += uint64(len(snap.content))
				}
				b.snaps.mu.Unlock()
				return size > 0 && accounts[nodeB].bytes("a.example", StoredLog) == logBytes(t, b, conv) && accounts[nodeB].bytes("a.example", StoredSnapshot) == size
			})
		}
		c.level(conv, nodeA, nodeB)
		exact("after 60 entries")
		if n := accounts[nodeB].bytes("", StoredLog); n != 0 {
			t.Fatalf("the node itself is charged for %d bytes", n)
		}
		if n := accounts[nodeA].bytes("", StoredLog); n == 0 || accounts[nodeA].bytes("b.example", StoredLog) != 0 {
			t.Fatalf("the founder's account: %+v", accounts[nodeA].of)
		}
		c.asleep(conv, nodeA, nodeB)
		c.stop(b)
		c.start(b)
		exact("after a restart")
		time.Sleep(time.Second)
		c.crash(b, false)
		c.start(b)
		for range 40 { // the log is truncated once more, and the account follows
			p = c.commit(nodeA, p, wire.DeliveryChange{})
		}
		c.level(conv, nodeA, nodeB)
		exact("after a crash")
		conversation, err := b.m.find(conv)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.m.remove(conversation, "test"); err != nil {
			t.Fatal(err)
		}
		if l, s := accounts[nodeB].bytes("a.example", StoredLog), accounts[nodeB].bytes("a.example", StoredSnapshot); l != 0 || s != 0 {
			t.Fatalf("%d and %d bytes are charged for a conversation that is gone", l, s)
		}
	})
}

// TestLogOverTheQuota checks that entries over an organization's quota are not stored, and that they arrive when
// there is room again. The same holds while the disk is full.
func TestLogOverTheQuota(t *testing.T) {
	account := newMemAccount()
	edit := func(cfg *Config) {
		if cfg.Node == nodeB {
			cfg.Account = account
		}
	}
	simulate(t, edit, []wire.NodeID{nodeA, nodeB}, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example")
		c.settled(conv, 1, 1)
		c.level(conv, nodeA, nodeB)
		for name, refuse := range map[string]func(){
			"quota": func() { account.set(account.bytes("a.example", StoredLog)+1, false) },
			"disk":  func() { account.set(0, true) },
		} {
			before, refused := account.bytes("a.example", StoredLog), account.refusals()
			refuse()
			p = c.commit(nodeA, p, wire.DeliveryChange{})
			c.eventually(name+": an entry is refused", func() bool { return account.refusals() > refused })
			if after := account.bytes("a.example", StoredLog); after != before {
				t.Fatalf("%s: %d bytes are charged, %d before", name, after, before)
			}
			account.set(0, false)
			c.level(conv, nodeA, nodeB)
		}
	})
}

func TestLogCacheIsBounded(t *testing.T) {
	c := newLogCache(raft.NewInmemStore())
	for i := uint64(1); i <= 40; i++ {
		size := 100
		if i > 20 {
			size = 300_000
		}
		if err := c.StoreLog(&raft.Log{Index: i, Term: 1, Data: make([]byte, size)}); err != nil {
			t.Fatal(err)
		}
		held := 0
		for _, l := range c.logs {
			if l != nil {
				held += len(l.Data)
			}
		}
		if held != c.bytes || held > cacheBytes {
			t.Fatalf("after entry %d: %d bytes held, %d counted, at most %d", i, held, c.bytes, cacheBytes)
		}
	}
	for i := uint64(1); i <= 40; i++ {
		var l raft.Log
		if err := c.GetLog(i, &l); err != nil || l.Index != i {
			t.Fatalf("entry %d: %d (%v)", i, l.Index, err)
		}
	}
	if held := c.logs[40%maxAppend]; held == nil {
		t.Fatal("the newest entry is not kept")
	}
	if err := c.DeleteRange(1, 40); err != nil || c.bytes != 0 {
		t.Fatalf("%d bytes (%v)", c.bytes, err)
	}
	if err := c.StoreLog(&raft.Log{Index: 41, Data: make([]byte, cacheBytes+1)}); err != nil || c.bytes != 0 {
		t.Fatalf("an entry over the bound is kept: %d bytes (%v)", c.bytes, err)
	}
}

// TestSleepersAreBoundedByBytes checks that the cached states of sleeping conversations are kept up to a number of
// bytes.
func TestSleepersAreBoundedByBytes(t *testing.T) {
	c := newSleeperCache[*machine.Machine](100 << 10)
	put := func(n int, applied uint64) {
		s := machine.New(conv, nil)
		c.put(&sleeper[*machine.Machine]{wire.ConversationID(fmt.Sprintf("conversation-%d", n)), applied, s, s.Size()})
	}
	has := func(n int, applied uint64) bool {
		_, ok := c.get(wire.ConversationID(fmt.Sprintf("conversation-%d", n)), applied)
		return ok
	}
	for i := range 100 {
		put(i, 1)
		held := 0
		for e := c.order.Front(); e != nil; e = e.Next() {
			held += e.Value.(*sleeper[*machine.Machine]).size
		}
		if held != c.bytes || held > c.most || len(c.by) != c.order.Len() {
			t.Fatalf("after %d: %d bytes held, %d counted, at most %d", i, held, c.bytes, c.most)
		}
	}
	if !has(99, 1) || has(0, 1) {
		t.Fatal("not the newest are kept")
	}
	put(99, 2)
	if !has(99, 2) || has(99, 1) || c.bytes > c.most {
		t.Fatalf("a newer state does not take the place of an older one: %d bytes", c.bytes)
	}
}

// TestEntriesDoNotKeepTheirFrame checks that a kept entry keeps only its own bytes, not the frame of up to 16 MiB in
// which it arrived.
func TestEntriesDoNotKeepTheirFrame(t *testing.T) {
	a := &raft.AppendEntriesRequest{Term: 1}
	for i := range uint64(maxAppend) {
		a.Entries = append(a.Entries, &raft.Log{Index: i + 1, Term: 1, Data: make([]byte, 1000)})
	}
	freed := make(chan bool, 1)
	frame := encodeAppend(a)
	runtime.AddCleanup(&frame[0], func(c chan bool) { c <- true }, freed)
	got, err := decodeAppend(frame)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		runtime.GC()
	}
	select {
	case <-freed:
	case <-time.After(10 * time.Second):
		t.Fatal("the entries keep the frame")
	}
	runtime.KeepAlive(got)
}

// TestLargeEntriesInMemory checks that three conversations with 40 entries of nearly a mebibyte each, awake and
// asleep, hold no more of them in memory than the node's limits allow.
func TestLargeEntriesInMemory(t *testing.T) {
	const limit, sleepers = 4 << 20, 6 << 20
	edit := func(cfg *Config) {
		cfg.Limits.RecentBytes, cfg.Limits.RecentEntries, cfg.Limits.Sleepers = limit, 256, sleepers
	}
	simulate(t, edit, []wire.NodeID{nodeA, nodeB}, func(c *cluster) {
		e := author.Create("conversation-x", c.id(), wire.Policy{RecentBytes: limit + 1}, author.Addresses(1, "a.example"))
		if _, err := c.nodes[nodeA].m.Create(c.context(time.Second), e); wire.CodeOf(err) != wire.Quota {
			t.Fatalf("a policy over the limit: %v", err)
		}
		ids := []wire.ConversationID{"conversation-1", "conversation-2", "conversation-3"}
		for _, id := range ids {
			p := c.found(nodeA, id, wire.Policy{RecentBytes: limit}, "a.example", "b.example")
			c.settled(id, 1, 1)
			for range 40 {
				e := p.Commit(c.id(), 900<<10, wire.DeliveryChange{})
				r, err := c.nodes[nodeA].m.Order(c.context(20*time.Second), e)
				if err != nil {
					t.Fatal(err)
				}
				p = author.After(e, r)
			}
			c.level(id, nodeA, nodeB)
		}
		for _, n := range c.nodes {
			awake, states, cached := 0, 0, 0
			for _, id := range ids {
				conversation, err := n.m.find(id)
				if err != nil {
					t.Fatal(err)
				}
				if l := conversation.awake(); l != nil {
					awake++
					states += l.size()
				}
			}
			n.m.asleep.mu.Lock()
			cached = n.m.asleep.bytes
			n.m.asleep.mu.Unlock()
			t.Logf("%s: %d awake with %d KiB, %d KiB of sleepers", n.id, awake, states>>10, cached>>10)
			if states > awake*(3<<20) || cached > sleepers {
				t.Errorf("%s holds %d bytes awake and %d asleep", n.id, states, cached)
			}
		}
		c.asleep(ids[0], nodeA, nodeB)
		for _, id := range ids {
			for _, n := range c.nodes {
				if _, _, err := n.m.Entries(id, 0, 1, 1); err != nil {
					t.Fatal(err)
				}
				if n.m.asleep.bytes > sleepers {
					t.Errorf("%s holds %d bytes of sleepers", n.id, n.m.asleep.bytes)
				}
			}
		}
	})
}

// TestSnapshotOverTheQuota checks that a snapshot from another organization's node is charged to that organization
// before it is stored. A snapshot that exceeds the quota, or for which the disk has no room, is refused and sent
// again.
func TestSnapshotOverTheQuota(t *testing.T) {
	for name, refuse := range map[string]func(*memAccount){
		"quota": func(a *memAccount) { a.set(1, false) },
		"disk":  func(a *memAccount) { a.set(0, true) },
	} {
		t.Run(name, func(t *testing.T) {
			account := newMemAccount()
			edit := func(cfg *Config) {
				cfg.Timers.Snapshot = time.Second
				if cfg.Node == nodeB {
					cfg.Account = account
				}
			}
			simulate(t, edit, []wire.NodeID{nodeA, nodeB}, func(c *cluster) {
				p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example")
				c.settled(conv, 1, 1)
				c.level(conv, nodeA, nodeB)
				b := c.nodes[nodeB]
				c.stop(b)
				for range 80 { // more than the log keeps before a snapshot
					p = c.commit(nodeA, p, wire.DeliveryChange{})
				}
				before := account.bytes("a.example", StoredSnapshot)
				refuse(account)
				c.start(b)
				// A starting node adopts the data on its disk; it refuses only new data.
				refused := account.refusals()
				p = c.commit(nodeA, p, wire.DeliveryChange{})
				c.eventually("a snapshot is refused", func() bool { return account.refusals() > refused })
				if n := account.bytes("a.example", StoredSnapshot); n > 2*before {
					t.Fatalf("%d bytes of snapshots are charged, %d before", n, before)
				}
				account.set(0, false)
				c.commit(nodeA, p, wire.DeliveryChange{})
				c.level(conv, nodeA, nodeB)
			})
		})
	}
}
