package consensus

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/wire"
)

// usurper is a voter with changed code that takes the leadership from the others, or ends it, in a way that Raft
// trusts.
type usurper struct {
	*scene
	evil wire.NodeID
}

// strikes are the ways. term is the highest term of the honest nodes.
var strikes = map[string]func(u *usurper, to wire.NodeID, term uint64){
	"heartbeats of the next term": func(u *usurper, to wire.NodeID, term uint64) { u.beat(to, term+1) },
	"heartbeats of this term":     func(u *usurper, to wire.NodeID, term uint64) { u.beat(to, term) },
	"entries of the next term": func(u *usurper, to wire.NodeID, term uint64) {
		u.call(to, &raft.AppendEntriesRequest{Term: term + 1, LeaderCommitIndex: 1})
	},
	"candidacies": func(u *usurper, to wire.NodeID, term uint64) {
		u.call(to, &raft.RequestVoteRequest{Term: term + 1, LeadershipTransfer: true})
	},
	"candidacies with votes": func(u *usurper, to wire.NodeID, term uint64) {
		u.call(to, &raft.RequestVoteRequest{Term: term + 1, LastLogIndex: 1 << 20, LastLogTerm: term + 1, LeadershipTransfer: true})
		u.beat(to, term+1)
	},
	"campaigns of others": func(u *usurper, to wire.NodeID, _ uint64) { u.call(to, &raft.TimeoutNowRequest{}) },
	"answers":             func(*usurper, wire.NodeID, uint64) {}, // raise
}

func (u *usurper) call(to wire.NodeID, cmd any) {
	kind, payload := encodeRPC(cmd)
	u.ask(to, &frame{kind: kind, conversation: conv, payload: payload})
}

func (u *usurper) beat(to wire.NodeID, term uint64) {
	u.ask(to, &frame{kind: kindBeats, payload: encodeBeats([]*beat{{id: conv, term: term}})})
}

func (u *usurper) ask(to wire.NodeID, f *frame) {
	_, _ = u.nodes[u.evil].m.mesh.ask(u.context(time.Second), to, f)
}

// raise returns a function for fabric.mangle that raises the terms in the answers of the usurper to Raft's requests.
func (u *usurper) raise() func(from, to wire.NodeID, b []byte) []byte {
	var mu sync.Mutex
	asked := make(map[wire.NodeID]map[uint64]bool) // the numbers of Raft's requests to the usurper
	return func(from, to wire.NodeID, b []byte) []byte {
		f, err := parseFrame(b[4:])
		if err != nil {
			return b
		}
		mu.Lock()
		defer mu.Unlock()
		switch {
		case to == u.evil && (f.kind == kindAppend || f.kind == kindVote || f.kind == kindPreVote):
			if asked[from] == nil {
				asked[from] = make(map[uint64]bool)
			}
			asked[from][f.number] = true
		case from == u.evil && f.kind == kindReply && asked[to][f.number]:
			delete(asked[to], f.number)
			content, err := openReply(f.payload)
			if err != nil {
				return b
			}
			if a, err := decodeAppendReply(content); err == nil {
				a.Term, a.Success = a.Term+1, false
				content = encodeAppendReply(a)
			} else if term, _, err := decodeVoteReply(content); err == nil {
				content = encodeVoteReply(term+1, false)
			}
			f.payload = sealReply(content, nil)
			return f.append(nil)
		}
		return b
	}
}

// highest returns the highest term that a node of the conversation has.
func (s *scene) highest(nodes ...wire.NodeID) (term uint64) {
	for _, n := range nodes {
		if c, err := s.nodes[n].m.held(conv); err == nil {
			term = max(term, s.nodes[n].m.termOf(c))
		}
	}
	return term
}

// TestVoterEndsNoLeadership checks that a voter which ends the leadership of others without end, in each way that Raft
// trusts, does not stop their commits: after a few elections the others continue with a leader of their own. The
// conversation is busy for some time, and sleeps between the commits later.
func TestVoterEndsNoLeadership(t *testing.T) {
	for name, strike := range strikes {
		t.Run(name, func(t *testing.T) {
			withScene(t, nil, func(s *scene) wire.NodeID {
				u := &usurper{s, s.voters[0]}
				honest := s.honest(u.evil)
				if name == "answers" {
					s.f.mu.Lock()
					s.f.mangle = u.raise()
					s.f.mu.Unlock()
				}
				ctx, cancel := context.WithCancel(context.Background())
				var all sync.WaitGroup
				all.Go(func() {
					for pause(ctx, 100*time.Millisecond) {
						term := s.highest(honest...)
						for _, n := range honest {
							all.Go(func() { strike(u, n, term) })
						}
					}
				})
				var longest time.Duration
				refused := 0
				for i := range 40 {
					at, start := honest[i%len(honest)], time.Now()
					e := s.p.Commit(s.id(), 64, wire.DeliveryChange{})
					r, err := s.nodes[at].m.Order(s.context(20*time.Second), e)
					if err == nil {
						s.p = author.After(e, r)
					} else if refused++; refused > 1 {
						t.Errorf("commit %d on %s: %v", i, at, err)
						break
					}
					longest = max(longest, time.Since(start))
					time.Sleep(time.Duration(1+i/20*14) * time.Second)
				}
				t.Logf("the longest commit took %v", longest)
				cancel()
				all.Wait()
				s.f.mu.Lock()
				s.f.mangle = nil
				s.f.mu.Unlock()
				return u.evil
			})
		})
	}
}
