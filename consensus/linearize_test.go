package consensus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/consensus/internal/fault"
	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// TestLinearizable runs seeded histories in virtual time. Clients on all nodes submit while nodes lose contact with
// each other, crash and lose unsynced data, restart, and have slow disks and a network that loses, repeats and
// reorders frames. Organizations join and leave, and everything falls asleep and wakes.
//
//	MLSFED_SEED=17    runs that seed alone
//	MLSFED_LONG=full  runs 200 seeds instead of 12
//
// A seed fixes the faults and the requests of clients. It does not fix how the scheduler interleaves goroutines: a
// failure may need several runs of its seed to occur again.
func TestLinearizable(t *testing.T) {
	for _, seed := range seeds(t) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			if err := runHistory(t, seed, nil); err != nil {
				t.Fatalf("seed %d: %v\nagain: MLSFED_SEED=%d go test -run 'TestLinearizable$' ./consensus", seed, err, seed)
			}
		})
	}
}

// TestCheckerFindsAMissingEpochCheck breaks the state machine and checks that the checker finds the fault.
func TestCheckerFindsAMissingEpochCheck(t *testing.T) {
	for seed := uint64(1); seed <= 10; seed++ {
		err := runHistory(t, seed, func(m *machine.Machine) { fault.DisableEpochCheck(m) })
		if err != nil {
			t.Logf("seed %d: found: %v", seed, err)
			return
		}
	}
	t.Fatal("ten histories without the check of epochs passed: the checker sees nothing")
}

func seeds(t *testing.T) []uint64 {
	if s := os.Getenv("MLSFED_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("MLSFED_SEED: %v", err)
		}
		return []uint64{seed}
	}
	n := 12
	if os.Getenv("MLSFED_LONG") == "full" {
		n = 200
	}
	list := make([]uint64, n)
	for i := range list {
		list[i] = uint64(i + 1)
	}
	return list
}

const (
	simClients = 4
	simRounds  = 12
)

// sim is one history in progress.
type sim struct {
	*cluster
	seed  uint64
	names []wire.NodeID
	convs []wire.ConversationID
	hist  map[wire.ConversationID]*history
	start map[wire.ConversationID]wire.SequenceNumber

	mu   sync.Mutex // guards the fields below
	rand *rand.Rand
	up   map[wire.NodeID]*testNode // nodes that run
	lag  map[wire.NodeID]time.Duration
	next uint64
}

func runHistory(t *testing.T, seed uint64, tamper func(*machine.Machine)) (result error) {
	synctest.Test(t, func(t *testing.T) {
		names := []wire.NodeID{nodeA, nodeB, nodeC, nodeD, "n1.e.example"}
		edit := func(cfg *Config) {
			cfg.tamper = tamper
			cfg.Timers.Sleep = 6 * time.Second
			cfg.Timers.Snapshot = 3 * time.Second
			cfg.tune = func(c *raft.Config) { c.TrailingLogs = 8 }
		}
		s := &sim{cluster: newCluster(t, seed, edit), seed: seed, names: names, convs: []wire.ConversationID{"conversation-1", "conversation-2"},
			hist: map[wire.ConversationID]*history{}, start: map[wire.ConversationID]wire.SequenceNumber{},
			rand: rand.New(rand.NewPCG(seed, 1)), up: map[wire.NodeID]*testNode{}, lag: map[wire.NodeID]time.Duration{}, next: 1000}
		for _, n := range names {
			node := s.add(n)
			s.cluster.stop(node) // set the disk's speed before the disk is used
			node.disk.Sync = func(int) error { time.Sleep(s.diskLag(n)); return nil }
			s.cluster.start(node)
			s.up[n] = node
		}
		defer s.stopAll()
		s.play()
		result = s.verdict()
	})
	return result
}

func (s *sim) n(limit int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rand.IntN(limit)
}

func (s *sim) diskLag(n wire.NodeID) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lag[n] + time.Duration(s.rand.IntN(400))*time.Microsecond
}

func (s *sim) submission() wire.SubmissionID {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	return author.Submission(s.next)
}

// running returns a random node that runs, or nil.
func (s *sim) running() *testNode {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []wire.NodeID
	for n := range s.up {
		list = append(list, n)
	}
	if len(list) == 0 {
		return nil
	}
	slices.Sort(list)
	return s.up[list[s.rand.IntN(len(list))]]
}

// play runs clients and faults at the nodes, then heals everything.
func (s *sim) play() {
	for _, id := range s.convs {
		s.hist[id] = &history{}
		p := s.found(nodeA, id, wire.Policy{RecentCount: 4096, RecentBytes: 64 << 20}, "a.example", "b.example", "c.example")
		s.start[id] = p.Parent
		s.settled(id, 3, 0)
	}
	var clients, faults sync.WaitGroup
	done := make(chan struct{})
	for i := range simClients {
		clients.Go(func() { s.client(i) })
	}
	faults.Go(func() { s.nemesis(done) })
	clients.Wait()
	close(done)
	faults.Wait()
	s.heal()
}

// client submits for a while, to changing nodes.
func (s *sim) client(i int) {
	for range simRounds {
		time.Sleep(time.Duration(s.n(1200)) * time.Millisecond)
		if s.n(12) == 0 {
			time.Sleep(10 * time.Second) // long enough to fall asleep, if the other clients wait too
		}
		id := s.convs[s.n(len(s.convs))]
		node := s.running()
		if node == nil {
			continue
		}
		m := node.m
		heads, err := m.Heads(id)
		if err != nil || len(heads) == 0 {
			continue
		}
		op := &operation{client: i, e: s.draw(m, id, heads[0])}
		if op.e == nil {
			continue
		}
		s.order(m, id, op)
		if op.code == "" && !op.open && s.n(4) == 0 {
			s.again(op, id)
		}
	}
}

// draw makes a submission for the epoch that a node reports, which may be an old one.
func (s *sim) draw(m *Manager, id wire.ConversationID, h machine.Head) *wire.Envelope {
	opener, ok := s.openerOf(m, id, h.Sequence)
	if !ok {
		return nil
	}
	p := author.Place{Conversation: id, Epoch: h.Epoch, Parent: h.Sequence, Opener: opener}
	if s.n(4) == 0 {
		return p.Propose(s.submission(), 32)
	}
	var change wire.DeliveryChange
	if s.n(3) == 0 {
		address := author.Address([]wire.Domain{"d.example", "e.example"}[s.n(2)], 7)
		if slices.Contains(h.Delivery, address) {
			change.Remove = []wire.Address{address}
		} else {
			change.Add = []wire.Address{address}
		}
	}
	return p.Commit(s.submission(), 64, change)
}

// openerOf returns the submission that opened an epoch: its key signs in the epoch.
func (s *sim) openerOf(m *Manager, id wire.ConversationID, seq wire.SequenceNumber) (wire.SubmissionID, bool) {
	entries, _, err := m.Entries(id, seq-1, 1, 1<<20)
	if err != nil || len(entries) == 0 || entries[0].Sequence != seq {
		return wire.SubmissionID{}, false
	}
	e, err := entries[0].Open()
	if err != nil || e.Envelope == nil {
		return wire.SubmissionID{}, false
	}
	return e.Envelope.Submission, true
}

func (s *sim) order(m *Manager, id wire.ConversationID, op *operation) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(2+s.n(12))*time.Second)
	defer cancel()
	op.call = time.Now()
	var err error
	op.receipt, err = m.Order(ctx, op.e)
	op.ret = time.Now()
	switch code := wire.CodeOf(err); code {
	case "", wire.StaleEpoch, wire.Forged, wire.Invalid, wire.Quota:
		op.code = code
		var e *wire.Error
		if errors.As(err, &e) && e.Stale != nil && e.Stale.OwnPast {
			op.open, op.code = true, "" // the winner is this same submission, which has been forgotten since
		}
	default:
		op.open = true
	}
	s.hist[id].add(op)
}

// again submits an accepted submission once more, on another node: the answer must be the first one.
func (s *sim) again(op *operation, id wire.ConversationID) {
	node := s.running()
	if node == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	r, err := node.m.Order(ctx, op.e)
	code := wire.CodeOf(err)
	if err == nil && r != op.receipt || code == wire.StaleEpoch || code == wire.Forged || code == wire.SubmissionReused {
		s.t.Errorf("seed %d: entry %d of %v, submitted again, was answered %+v, %v", s.seed, op.receipt.Sequence, id, r, err)
	}
}

// nemesis causes random faults until done.
func (s *sim) nemesis(done chan struct{}) {
	for {
		select {
		case <-done:
			return
		case <-time.After(time.Duration(300+s.n(2500)) * time.Millisecond):
		}
		a, b := s.names[s.n(len(s.names))], s.names[s.n(len(s.names))]
		switch s.n(9) {
		case 0, 1:
			if a != b {
				s.f.setCut(a, b, true)
			}
		case 2:
			for _, n := range s.names { // only one node
				if n != a {
					s.f.setCut(a, n, true)
				}
			}
		case 3:
			s.mend()
		case 4, 5:
			s.crashOne(a)
		case 6:
			s.mu.Lock()
			s.lag[a] = time.Duration(s.rand.IntN(60)) * time.Millisecond
			s.mu.Unlock()
		case 7:
			s.f.setFaults(time.Duration(s.n(60))*time.Millisecond, float64(s.n(10))/100, float64(s.n(20))/100)
		case 8:
			s.f.setFaults(0, 0, 0)
			s.restartAll()
		}
	}
}

func (s *sim) mend() {
	for i, a := range s.names {
		for _, b := range s.names[i+1:] {
			s.f.setCut(a, b, false)
		}
	}
}

func (s *sim) crashOne(n wire.NodeID) {
	s.mu.Lock()
	node := s.up[n]
	delete(s.up, n)
	keep := s.rand.IntN(2) == 0
	s.mu.Unlock()
	if node == nil {
		s.revive(n)
		return
	}
	// Clients may still use the crashed node's Manager: the Manager stays as it is, only its network and disk are cut
	// off.
	s.f.leave(n)
	node.disk.Crash(keep)
	node.cancel()
	<-node.done
	node.log.Close()
}

func (s *sim) revive(n wire.NodeID) {
	old := s.nodes[n]
	fresh := &testNode{id: n, disk: old.disk, snaps: old.snaps, consumer: old.consumer}
	s.cluster.start(fresh)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes[n], s.up[n] = fresh, fresh
}

func (s *sim) restartAll() {
	for _, n := range s.names {
		s.mu.Lock()
		up := s.up[n] != nil
		s.mu.Unlock()
		if !up {
			s.revive(n)
		}
	}
}

func (s *sim) heal() {
	s.mend()
	s.f.setFaults(0, 0, 0)
	s.mu.Lock()
	clear(s.lag)
	s.mu.Unlock()
	s.restartAll()
}

// verdict waits until every conversation works and all replicas agree, and judges the history.
func (s *sim) verdict() error {
	for _, id := range s.convs {
		log, err := s.converge(id)
		if err != nil {
			return fmt.Errorf("%v: %w", id, err)
		}
		f, err := readFinal(log)
		if err != nil {
			return fmt.Errorf("%v: %w", id, err)
		}
		h := s.hist[id]
		for _, check := range []error{h.nothingLost(f), h.check(f, s.start[id]), f.oneCommitAnEpoch(), s.deliveredOnce(id, f)} {
			if check != nil {
				return fmt.Errorf("%v: %w", id, check)
			}
		}
	}
	return nil
}

// converge submits a last proposal, and waits until all replicas have the same log with it.
func (s *sim) converge(id wire.ConversationID) ([]wire.Committed, error) {
	var last wire.SequenceNumber
	for try := 0; last == 0; try++ {
		if try == 60 {
			return nil, fmt.Errorf("no submission was accepted in %d tries after all was healed:\n%s", try, s.report(id))
		}
		node := s.nodes[s.names[try%3]]
		heads, err := node.m.Heads(id)
		if err != nil || len(heads) == 0 { // the replica sleeps, and does not know which entries were committed before its crash
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			_ = node.m.Wake(ctx, id)
			cancel()
			time.Sleep(time.Second)
			continue
		}
		opener, ok := s.openerOf(node.m, id, heads[0].Sequence)
		if !ok {
			time.Sleep(time.Second)
			continue
		}
		p := author.Place{Conversation: id, Epoch: heads[0].Epoch, Parent: heads[0].Sequence, Opener: opener}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		op := &operation{client: simClients, e: p.Propose(s.submission(), 8), call: time.Now()}
		op.receipt, err = node.m.Order(ctx, op.e)
		cancel()
		op.ret = time.Now()
		switch code := wire.CodeOf(err); {
		case err == nil:
			last = op.receipt.Sequence
		case code == wire.StaleEpoch: // this node does not know of the commit yet
			op.code = code
			time.Sleep(time.Second)
		default:
			op.open = true
			time.Sleep(time.Second)
		}
		s.hist[id].add(op)
	}
	for range 200 {
		if log := s.agreed(id, last); log != nil {
			return log, nil
		}
		time.Sleep(500 * time.Millisecond)
	}
	return nil, fmt.Errorf("the replicas did not come to one log with entry %d:\n%s", last, s.report(id))
}

// agreed returns the common log of all replicas on the first three organizations' nodes, if they agree.
func (s *sim) agreed(id wire.ConversationID, last wire.SequenceNumber) []wire.Committed {
	var log []wire.Committed
	for _, n := range s.names {
		m := s.nodes[n].m
		entries, gap, err := m.Entries(id, 0, 1<<20, 1<<30)
		if wire.CodeOf(err) == wire.UnknownConversation && n != nodeA && n != nodeB && n != nodeC {
			continue
		}
		if err != nil || gap || len(entries) == 0 || entries[len(entries)-1].Sequence < last {
			return nil
		}
		if log == nil {
			log = entries
		}
		if len(log) != len(entries) || log[len(log)-1].Order != entries[len(entries)-1].Order {
			return nil
		}
	}
	return log
}

// deliveredOnce checks that the entries in the consumers are in order, without a repetition, and equal to the log.
func (s *sim) deliveredOnce(id wire.ConversationID, f *final) error {
	for _, n := range s.names {
		last := wire.SequenceNumber(0)
		s.nodes[n].consumer.mu.Lock()
		got := slices.Clone(s.nodes[n].consumer.got[id])
		s.nodes[n].consumer.mu.Unlock()
		for _, d := range got {
			seq := d.Committed.Sequence
			if seq <= last || int(seq) > len(f.list) || f.list[seq-1].order != d.Committed.Order {
				return fmt.Errorf("%s was delivered entry %d after %d, which is not the log's", n, seq, last)
			}
			last = seq
		}
	}
	return nil
}

func (s *sim) report(id wire.ConversationID) string {
	out := ""
	for _, n := range s.names {
		st, err := s.nodes[n].m.Status(id)
		out += fmt.Sprintf("  %s: %s, leader %q, voters %v, learners %v, generation %d, entry %d, commit %d of %d, %v (%v)\n",
			n, st.State, st.Leader, st.Voters, st.Learners, st.Generation, st.Sequence, st.Commit, st.Last, st.Idle, err)
	}
	return out
}
