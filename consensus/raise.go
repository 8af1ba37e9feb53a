package consensus

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// raiseRules orders the usual level of the rules when every replica, and every node that is to have one, has
// announced it. It reports whether it did. A conversation of one organization keeps its level: the additional rules
// of the usual level concern other organizations, and a node of another organization that is added later may run an
// earlier release. A higher level is ordered together with a submission that needs it.
func (l *live) raiseRules(ctx context.Context, r *raft.Raft) bool {
	level, orgs, now := l.rules()
	if level >= wire.UsualLevel || now == nil || orgs < 2 {
		return false
	}
	return len(l.unannounced(r, wire.UsualLevel)) == 0 && l.raise(ctx, now, wire.UsualLevel)
}

// raiseFor raises the rules to the level that a submission needs, or returns the reason why it cannot: refused, the
// refusal of the submission, with the nodes that have not announced the level.
func (l *live) raiseFor(ctx context.Context, want uint8, refused error) error {
	r := l.r.Load()
	if r == nil {
		return fmt.Errorf("starting: %w", errAgain)
	}
	for deadline := time.Now().Add(min(raiseWait, l.m.cfg.Timers.Call)); ; {
		level, _, now := l.rules()
		if level >= want {
			return nil
		}
		if now == nil {
			now = new(wire.Replicas) // none has been ordered yet
			now.Voters, now.Learners = splitServers(r.GetConfiguration().Configuration().Servers)
		}
		if missing := l.unannounced(r, want); len(missing) > 0 {
			if time.Now().Before(deadline) && pause(ctx, raisePause) {
				continue // the nodes are being asked
			}
			e := wire.Errorf(wire.Version, "submit", "%v: %v have not announced it, so their builds are older, or they have not answered yet", refused, missing)
			e.Nodes = missing
			return e
		}
		if !l.raise(ctx, now, want) {
			if after, _, _ := l.rules(); after < want { // otherwise another submission was faster
				return fmt.Errorf("rules of level %d are not ordered: %w", want, errAgain)
			}
		}
	}
}

// Limits of a submission that needs a higher level: how long it waits for the announcements of replicas, and the
// interval of its checks.
const (
	raiseWait  = 2 * time.Second
	raisePause = 20 * time.Millisecond
)

// rules returns the level of the conversation's rules, the number of organizations with members, and the replicas
// that the log names, nil for none.
func (l *live) rules() (level uint8, orgs int, now *wire.Replicas) {
	l.fsm.read(func(m *machine.Machine) {
		level = m.Level()
		if !m.Closed() {
			now, _ = m.Replicas()
		}
		for _, s := range m.Spans() {
			if s.Until == 0 {
				orgs++
			}
		}
	})
	return level, orgs, now
}

// unannounced returns the replicas, and the nodes that are to have one, that have not announced a level of the rules.
// It asks all of them: Announced asks in the background.
func (l *live) unannounced(r *raft.Raft, level uint8) []wire.NodeID {
	voters, learners := splitServers(r.GetConfiguration().Configuration().Servers)
	nodes := append(voters, learners...)
	if want := l.wanted(r); want != nil {
		nodes = slices.Concat(nodes, want.Voters, want.Learners)
	}
	slices.Sort(nodes)
	roster := l.m.cfg.Roster
	return slices.DeleteFunc(slices.Compact(nodes), func(n wire.NodeID) bool {
		if roster == nil {
			return n == l.m.cfg.Node
		}
		return roster.Announced(n, wire.LevelFeature(level))
	})
}

func (l *live) raise(ctx context.Context, now *wire.Replicas, level uint8) bool {
	return l.orderOwn(ctx, "change of rules", &wire.Entry{Replicas: wire.RaiseLevel(now, level)})
}
