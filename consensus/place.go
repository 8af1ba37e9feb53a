package consensus

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"slices"

	"github.com/mlsfed/mlsfed/wire"
)

// DefaultVoters is the largest number of voters if the policy names none.
const DefaultVoters = 5

// placing holds the input of the placement of a conversation's replicas.
type placing struct {
	id      wire.ConversationID
	orgs    []wire.Domain        // organizations with members
	witness wire.Domain          // "" for none
	voters  int                  // the limit, an odd number
	current map[wire.NodeID]bool // replicas; true for voters
	nodesOf func(wire.Domain) []wire.NodeID

	ordersOnly func(wire.NodeID) bool // nil: no node is orders-only
}

// place chooses the replicas: an odd number of voters, spread over organizations and then over nodes, and a learner
// for each organization without a voter. Existing replicas stay if possible.
func place(p placing) (voters, learners []wire.NodeID) {
	orgs := slices.Clone(p.orgs)
	if p.witness != "" && len(orgs) <= 2 && !slices.Contains(orgs, p.witness) {
		orgs = append(orgs, p.witness)
	}
	ranked := make(map[wire.Domain][]wire.NodeID, len(orgs))
	total := 0
	for _, org := range orgs {
		ranked[org] = p.rank(org)
		total += len(ranked[org])
	}
	slices.SortStableFunc(orgs, func(a, b wire.Domain) int {
		return cmp.Compare(p.voterRank(ranked[a]), p.voterRank(ranked[b]))
	})
	limit := min(p.voters, total)
	if limit%2 == 0 {
		limit--
	}
	for round := 0; len(voters) < limit; round++ {
		for _, org := range orgs {
			if nodes := ranked[org]; round < len(nodes) && len(voters) < limit {
				voters = append(voters, nodes[round])
			}
		}
	}
	for _, org := range p.orgs {
		nodes := ranked[org]
		if len(nodes) > 0 && !slices.ContainsFunc(voters, func(n wire.NodeID) bool { return n.Organization() == org }) {
			learners = append(learners, nodes[0])
		}
	}
	if room := wire.MaxReplicas - len(voters); len(learners) > room { // Limits.Organizations prevents this case
		slices.SortStableFunc(learners, func(a, b wire.NodeID) int { return cmp.Compare(p.class(a), p.class(b)) })
		learners = learners[:room]
	}
	slices.Sort(voters)
	slices.Sort(learners)
	return voters, learners
}

// rank orders an organization's nodes: nodes with devices first, since entries reach devices from a replica on their
// node; then voters, learners and the other nodes. A hash orders equal nodes, so that one node does not get all
// conversations.
func (p *placing) rank(org wire.Domain) []wire.NodeID {
	nodes := slices.Clone(p.nodesOf(org))
	if len(nodes) == 0 { // the roster does not know the organization now: existing replicas stay
		for n := range p.current {
			if n.Organization() == org {
				nodes = append(nodes, n)
			}
		}
	}
	slices.Sort(nodes)
	nodes = slices.Compact(nodes)
	hash := func(n wire.NodeID) []byte {
		h := sha256.Sum256([]byte(string(p.id) + "\x00" + string(n)))
		return h[:]
	}
	slices.SortStableFunc(nodes, func(a, b wire.NodeID) int {
		if c := cmp.Or(cmp.Compare(p.distance(a), p.distance(b)), cmp.Compare(p.class(a), p.class(b))); c != 0 {
			return c
		}
		return bytes.Compare(hash(a), hash(b))
	})
	return nodes
}

// distance returns the distance of a node from devices.
func (p *placing) distance(n wire.NodeID) int {
	if p.ordersOnly != nil && p.ordersOnly(n) {
		return 1
	}
	return 0
}

func (p *placing) class(n wire.NodeID) int {
	voter, there := p.current[n]
	switch {
	case voter:
		return 0
	case there:
		return 1
	}
	return 2
}

// replicaStatus returns 0 for organizations with a voter, so that those are not displaced.
func (p *placing) voterRank(ranked []wire.NodeID) int {
	if len(ranked) == 0 {
		return 3
	}
	return p.class(ranked[0])
}
