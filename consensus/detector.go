package consensus

import (
	"context"
	"hash/fnv"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// Failure detection works per node: an unresponsive node is noticed once for all conversations that it leads here. It
// is also faster than Raft's timers, each of which first waits for itself and then for the timers of the others: a
// voter refuses a pre-vote as long as it has not given the leader up.
//
// A node that follows another node listens for it: any frame is a sign of life, and the follower asks for one when none
// arrives. After Timers.LeaderTimeout, or half of it if there is no connection and none can be made, it asks the other
// voters. Only if a majority has not heard from the node either, one of them campaigns at once; the others wait for
// that voter in turn. So neither a broken path between two nodes nor a pause of the asking node deposes a leader. If
// this detection fails, Raft's timers remain.

// failureDetector detects unresponsive nodes among those that lead conversations of which this node has an awake
// replica.
type failureDetector struct {
	m *Manager

	mu        sync.Mutex // guards followers
	followers map[wire.NodeID]map[*live]bool
}

// move records that l now follows another node; "" means no node.
func (s *failureDetector) move(l *live, from, to wire.NodeID) {
	if to == s.m.cfg.Node {
		to = ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if set := s.followers[from]; set != nil {
		delete(set, l)
	}
	if to == "" {
		return
	}
	set := s.followers[to]
	if set == nil {
		if !s.m.spawn(func(ctx context.Context) { s.monitor(ctx, to) }) {
			return
		}
		set = make(map[*live]bool)
		s.followers[to] = set
	}
	set[l] = true
}

// following returns the replicas that follow n. If there are none, the monitoring ends.
func (s *failureDetector) following(n wire.NodeID) []*live {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*live, 0, len(s.followers[n]))
	for l := range s.followers[n] {
		list = append(list, l)
	}
	return list
}

func (s *failureDetector) stopIfUnused(n wire.NodeID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.followers[n]) > 0 {
		return false
	}
	delete(s.followers, n)
	return true
}

func (s *failureDetector) monitors(n wire.NodeID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.followers[n]) > 0
}

// monitor watches one node for as long as the node leads something.
func (s *failureDetector) monitor(ctx context.Context, n wire.NodeID) {
	limit := s.m.cfg.Timers.LeaderTimeout
	var asked atomic.Bool
	at := time.Now()
	since := at // before this time, this node did not monitor n
	for wait := limit / 8; pause(ctx, wait) && !s.stopIfUnused(n); {
		now := time.Now()
		if now.Sub(at) > wait+limit/4 {
			since = now // this node itself was paused
		}
		wait = limit / 8
		p := s.m.mesh.peer(n)
		if p == nil {
			return
		}
		unresponsive := min(p.sinceHeard(now), now.Sub(since))
		patience := s.m.responseTimeout(p)
		if (unresponsive >= limit/2 || patience < limit) && asked.CompareAndSwap(false, true) {
			s.m.spawn(func(ctx context.Context) {
				defer asked.Store(false)
				s.m.ping(ctx, p, s.m.cfg.Timers.Call)
			})
		}
		if unresponsive >= patience && !s.depose(ctx, p) {
			wait = limit / 2 // the voters that could replace the leader disagree, or are fewer than a majority
		}
		at = time.Now()
	}
}

// sinceHeard returns the time since the last frame from the node.
func (p *peer) sinceHeard(now time.Time) time.Duration {
	return now.Sub(time.Unix(0, p.heard.Load()))
}

// responseTimeout returns the time without a frame after which a node is unresponsive.
func (m *Manager) responseTimeout(p *peer) time.Duration {
	if m.mesh.reachable(p.node) {
		return m.cfg.Timers.LeaderTimeout
	}
	return m.cfg.Timers.LeaderTimeout / 2
}

// ping asks for a sign of life: it sends an empty list of heartbeats, and connects if necessary.
func (m *Manager) ping(ctx context.Context, p *peer, atMost time.Duration) bool {
	_, err := m.mesh.askFor(ctx, p.node, &frame{kind: kindBeats}, atMost)
	return err == nil
}

// maxElections is the number of conversations that campaign without a pause between them.
const maxElections = 64

// depose replaces the node as leader if a majority does not hear from it. It returns false if this node can do
// nothing.
func (s *failureDetector) depose(ctx context.Context, p *peer) bool {
	lives := s.following(p.node)
	views := s.confirmations(ctx, p.node, lives)
	begun := 0
	for _, l := range lives {
		turn := s.electionRank(l, views)
		if turn < 0 || !l.deposing.CompareAndSwap(false, true) {
			continue
		}
		if begun++; begun%maxElections == 0 && !pause(ctx, 5*time.Millisecond) {
			return false
		}
		if begun == 1 {
			s.m.log.Info("node is unresponsive for a majority; others take over what it leads", "peer", p.node, "silence", p.sinceHeard(time.Now()).Round(time.Millisecond), "conversations", len(lives))
		}
		heard := p.heard.Load()
		s.m.serve(l.c, "depose", func(ctx context.Context) {
			defer l.deposing.Store(false)
			s.replace(ctx, l, p, heard, turn)
		})
	}
	return begun > 0
}

// replace campaigns when it is this node's turn and no other node has been elected, unless the old leader has sent a
// frame.
func (s *failureDetector) replace(ctx context.Context, l *live, p *peer, heard int64, turn int) {
	if !pause(ctx, time.Duration(turn)*s.m.cfg.Timers.LeaderTimeout/8) {
		return
	}
	if leader := l.leader(); leader != p.node && leader != "" || l.leads() || l.ctx.Err() != nil || p.heard.Load() != heard {
		return
	}
	s.m.stats.elections.Add(1)
	l.trans.campaign()
}

// confirmations asks the other voters of the conversations whether they hear from a node, and returns those that do
// not, this node included. A voter that does not answer is not among them.
func (s *failureDetector) confirmations(ctx context.Context, about wire.NodeID, lives []*live) map[wire.NodeID]bool {
	shared := make(map[wire.NodeID]*live) // nodes that share a conversation, and one conversation of each
	for _, l := range lives {
		for _, n := range l.peers() {
			if n != about {
				shared[n] = l
			}
		}
	}
	confirmed := map[wire.NodeID]bool{s.m.cfg.Node: true}
	var mu sync.Mutex // guards confirmed
	var all sync.WaitGroup
	for n, l := range shared {
		all.Go(func() {
			f := &frame{kind: kindUnresponsive, generation: l.c.generation(), conversation: l.c.id, payload: []byte(about)}
			b, err := s.m.mesh.askFor(ctx, n, f, s.m.cfg.Timers.LeaderTimeout/2)
			if err != nil || len(b) != 1 || b[0] != 1 {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			confirmed[n] = true
		})
	}
	all.Wait()
	return confirmed
}

// electionRank returns this node's position among the nodes that may replace the leader of l, or -1 if it may not. The
// first node differs by conversation, so that no node gets all conversations.
func (s *failureDetector) electionRank(l *live, confirmed map[wire.NodeID]bool) int {
	voters := s.m.voters(l.c)
	var may []wire.NodeID
	for _, n := range voters {
		if confirmed[n] {
			may = append(may, n)
		}
	}
	slices.Sort(may)
	own := slices.Index(may, s.m.cfg.Node)
	if own < 0 || len(may) < len(voters)/2+1 {
		return -1
	}
	h := fnv.New32a()
	h.Write([]byte(l.c.id))
	return (own + int(h.Sum32()%uint32(len(may)))) % len(may)
}

// receiveUnresponsive answers whether this node has not heard lately from another replica of a conversation.
func (m *Manager) receiveUnresponsive(ctx context.Context, from wire.NodeID, f *frame) ([]byte, error) {
	about := wire.NodeID(f.payload)
	if err := about.Check(); err != nil {
		return nil, wire.Errorf(wire.Malformed, "silent", "%v", err)
	}
	c, err := m.find(f.conversation)
	if err != nil {
		return nil, err
	}
	if about == m.cfg.Node || !contains(m.members(c), about) {
		return []byte{0}, nil
	}
	p := m.mesh.peer(about)
	if p == nil {
		return nil, wire.Errorf(wire.Unavailable, "silent", "the node is not running")
	}
	unresponsive := p.sinceHeard(time.Now()) >= m.responseTimeout(p)*3/4 // the asking node has waited longest
	if unresponsive && !m.failures.monitors(about) {
		unresponsive = !m.ping(ctx, p, m.cfg.Timers.LeaderTimeout/4) // nobody here has expected to hear from it
	}
	if unresponsive {
		return []byte{1}, nil
	}
	return []byte{0}, nil
}
