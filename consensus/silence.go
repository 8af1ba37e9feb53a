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

// A node that falls silent is noticed once for all conversations that it leads here, and sooner than by
// Raft's timers, each of which waits for itself and then for the others': a pre-vote is refused by whoever
// has not given the leader up yet.
//
// Whoever follows a node listens for it: any frame is a sign of life, and one is asked for when none comes.
// After Timers.Silence, or half of it where no connection stands and none can be made, the other voters are
// asked. Only where a majority has not heard of the node either, one of them campaigns at once; the rest
// wait for it in turn. So a broken path between two nodes deposes nobody, nor does a node that stood still
// itself. Where this fails, Raft's timers remain.

// leaders are the nodes that lead conversations of which this node has an awake replica.
type leaders struct {
	m *Manager

	mu sync.Mutex // guards by
	by map[wire.NodeID]map[*live]bool
}

// move notes that l follows another node than before; "" is none.
func (s *leaders) move(l *live, from, to wire.NodeID) {
	if to == s.m.cfg.Node {
		to = ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if set := s.by[from]; set != nil {
		delete(set, l)
	}
	if to == "" {
		return
	}
	set := s.by[to]
	if set == nil {
		if !s.m.spawn(func(ctx context.Context) { s.listen(ctx, to) }) {
			return
		}
		set = make(map[*live]bool)
		s.by[to] = set
	}
	set[l] = true
}

// following are the replicas that follow n. Without any, the listening ends.
func (s *leaders) following(n wire.NodeID) []*live {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*live, 0, len(s.by[n]))
	for l := range s.by[n] {
		list = append(list, l)
	}
	return list
}

func (s *leaders) ended(n wire.NodeID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.by[n]) > 0 {
		return false
	}
	delete(s.by, n)
	return true
}

func (s *leaders) listensTo(n wire.NodeID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.by[n]) > 0
}

// listen watches one node for as long as it leads something.
func (s *leaders) listen(ctx context.Context, n wire.NodeID) {
	limit := s.m.cfg.Timers.Silence
	var asked atomic.Bool
	at := time.Now()
	since := at // before it, nobody listened
	for wait := limit / 8; pause(ctx, wait) && !s.ended(n); {
		now := time.Now()
		if now.Sub(at) > wait+limit/4 {
			since = now // this node stood still itself
		}
		wait = limit / 8
		p := s.m.mesh.peer(n)
		if p == nil {
			return
		}
		silent := min(p.silence(now), now.Sub(since))
		patience := s.m.patienceWith(p)
		if (silent >= limit/2 || patience < limit) && asked.CompareAndSwap(false, true) {
			s.m.spawn(func(ctx context.Context) {
				defer asked.Store(false)
				s.m.ping(ctx, p, s.m.cfg.Timers.Call)
			})
		}
		if silent >= patience && !s.depose(ctx, p) {
			wait = limit / 2 // those who could replace it are not of this opinion, or fewer than a majority
		}
		at = time.Now()
	}
}

// silence is how long nothing has come from the node.
func (p *peer) silence(now time.Time) time.Duration {
	return now.Sub(time.Unix(0, p.heard.Load()))
}

// patienceWith is how long a node may be silent.
func (m *Manager) patienceWith(p *peer) time.Duration {
	if m.mesh.reachable(p.node) {
		return m.cfg.Timers.Silence
	}
	return m.cfg.Timers.Silence / 2
}

// ping asks for a sign of life: heartbeats of no conversation. It connects where that is needed.
func (m *Manager) ping(ctx context.Context, p *peer, atMost time.Duration) bool {
	_, err := m.mesh.askFor(ctx, p.node, &frame{kind: kindBeats}, atMost)
	return err == nil
}

// electionsAtOnce is the number of conversations that campaign without a pause between them.
const electionsAtOnce = 64

// depose replaces the node as leader where a majority does not hear of it. It returns false when there is
// nothing that this node can do.
func (s *leaders) depose(ctx context.Context, p *peer) bool {
	lives := s.following(p.node)
	views := s.opinions(ctx, p.node, lives)
	begun := 0
	for _, l := range lives {
		turn := s.turnOf(l, views)
		if turn < 0 || !l.deposing.CompareAndSwap(false, true) {
			continue
		}
		if begun++; begun%electionsAtOnce == 0 && !pause(ctx, 5*time.Millisecond) {
			return false
		}
		if begun == 1 {
			s.m.log.Info("node is silent for a majority; others take over what it leads", "peer", p.node, "silence", p.silence(time.Now()).Round(time.Millisecond), "conversations", len(lives))
		}
		heard := p.heard.Load()
		s.m.serve(l.c, "depose", func(ctx context.Context) {
			defer l.deposing.Store(false)
			s.replace(ctx, l, p, heard, turn)
		})
	}
	return begun > 0
}

// replace campaigns when it is this node's turn and nobody else has been elected, unless the old leader has
// been heard of.
func (s *leaders) replace(ctx context.Context, l *live, p *peer, heard int64, turn int) {
	if !pause(ctx, time.Duration(turn)*s.m.cfg.Timers.Silence/8) {
		return
	}
	if leader := l.leader(); leader != p.node && leader != "" || l.leads() || l.ctx.Err() != nil || p.heard.Load() != heard {
		return
	}
	s.m.stats.elections.Add(1)
	l.trans.campaign()
}

// opinions asks the other voters of some conversations whether they hear of a node. Those who do not answer
// have none.
func (s *leaders) opinions(ctx context.Context, about wire.NodeID, lives []*live) map[wire.NodeID]bool {
	shared := make(map[wire.NodeID]*live) // with whom, and one conversation of it
	for _, l := range lives {
		for _, n := range l.peers() {
			if n != about {
				shared[n] = l
			}
		}
	}
	silent := map[wire.NodeID]bool{s.m.cfg.Node: true}
	var mu sync.Mutex // guards silent
	var all sync.WaitGroup
	for n, l := range shared {
		all.Go(func() {
			f := &frame{kind: kindSilent, generation: l.c.generation(), conversation: l.c.id, payload: []byte(about)}
			b, err := s.m.mesh.askFor(ctx, n, f, s.m.cfg.Timers.Silence/2)
			if err != nil || len(b) != 1 || b[0] != 1 {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			silent[n] = true
		})
	}
	all.Wait()
	return silent
}

// turnOf is this node's place among those who may replace the leader of l, -1 for none. The first is another
// one for each conversation, so that no node gets them all.
func (s *leaders) turnOf(l *live, silent map[wire.NodeID]bool) int {
	voters := s.m.voters(l.c)
	var may []wire.NodeID
	for _, n := range voters {
		if silent[n] {
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

// receiveSilent answers whether this node has not heard lately of another replica of a conversation.
func (m *Manager) receiveSilent(ctx context.Context, from wire.NodeID, f *frame) ([]byte, error) {
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
	silent := p.silence(time.Now()) >= m.patienceWith(p)*3/4 // who asks has waited longest
	if silent && !m.leaders.listensTo(about) {
		silent = !m.ping(ctx, p, m.cfg.Timers.Silence/4) // nobody here has expected to hear of it
	}
	if silent {
		return []byte{1}, nil
	}
	return []byte{0}, nil
}
