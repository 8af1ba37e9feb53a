package machine

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/mlsfed/mlsfed/wire"
)

// The log's clock makes kept entries, heads and answers expire. An entry bears the time of the node that proposed it.
// Under the first level of the rules an entry moves the clock by at most MaxStep; 31 entries of one proposer are a
// month. From level 2 on, the clock follows an organization only as far as another one has been: its proposers move
// the clock at most MaxLead beyond the latest time that a second organization's proposer has named, however many
// entries there are. If only one organization has members and replicas, nobody else is harmed, and its time counts. A
// log that one organization's nodes lead for long keeps entries longer, within the policy's number and bytes. The
// leader writes both time and name. Followers stop a lying leader: each of them compares entries with its own clock
// before it stores them.

// MaxLead is the time in milliseconds by which one organization alone can move the clock.
const MaxLead wire.Time = 15 * 60_000

// Clock is the latest time that an organization's proposers have named.
type Clock struct {
	_            struct{}    `cbor:",toarray"`
	Organization wire.Domain // "": the clock at the beginning of level 2
	Time         wire.Time
}

// clock returns the machine's time after e.
func (m *Machine) clock(e *wire.Entry) wire.Time {
	if !m.created {
		return max(e.Time, 0)
	}
	t := e.Time
	if m.level >= 2 {
		t = min(t, m.agreed(e.Proposer.Organization()))
	}
	return min(max(t, m.now), m.now+MaxStep)
}

// agreed returns the latest time to which a proposer of org may move the clock.
func (m *Machine) agreed(org wire.Domain) wire.Time {
	orgs := m.orderers
	if others := slices.ContainsFunc(orgs, func(o wire.Domain) bool { return o != org }); !others &&
		!slices.ContainsFunc(m.spans, func(s Span) bool { return s.Until == 0 && s.Organization != org }) {
		return maxTime
	}
	latest := wire.Time(0)
	for _, c := range m.clocks {
		if c.Organization != org {
			latest = max(latest, c.Time)
		}
	}
	return latest + MaxLead
}

// setReplicas sets the replicas that the entry since has ordered; r may be nil.
func (m *Machine) setReplicas(r *wire.Replicas, since wire.SequenceNumber) {
	m.replicas, m.since, m.orderers = r, since, nil
	if r == nil {
		return
	}
	for _, list := range [][]wire.NodeID{r.Voters, r.Learners} {
		for _, n := range list {
			m.orderers = append(m.orderers, n.Organization())
		}
	}
	slices.Sort(m.orderers)
	m.orderers = slices.Compact(m.orderers)
}

// noteClock records the time of an accepted entry, and drops organizations without replicas.
func (m *Machine) noteClock(e *wire.Entry) {
	if m.level < 2 {
		return
	}
	if m.clocks == nil {
		m.clocks = []Clock{{Time: m.now}}
	}
	org, orgs := e.Proposer.Organization(), m.orderers
	next := make([]Clock, 0, len(m.clocks)+1)
	said := min(max(e.Time, 0), maxTime)
	for _, c := range m.clocks {
		switch {
		case c.Organization == org:
			said = max(said, c.Time)
		case c.Organization == "" || slices.Contains(orgs, c.Organization):
			next = append(next, c)
		}
	}
	if slices.Contains(orgs, org) {
		next = append(next, Clock{Organization: org, Time: said})
	}
	slices.SortFunc(next, func(a, b Clock) int { return cmp.Compare(a.Organization, b.Organization) })
	m.clocks = next
}

func (v *validator) checkClocks() error {
	if v.level < 2 {
		if len(v.clocks) > 0 {
			return fmt.Errorf("%d clocks in level %d of the rules", len(v.clocks), v.level)
		}
		return nil
	}
	orgs := v.orderers
	for i, c := range v.clocks {
		if (i == 0) != (c.Organization == "") || i > 0 && (v.clocks[i-1].Organization >= c.Organization || !slices.Contains(orgs, c.Organization)) ||
			c.Time < 0 || c.Time > maxTime || i == 0 && c.Time > v.now {
			return fmt.Errorf("clock %d of %q at %d", i, c.Organization, c.Time)
		}
	}
	if len(v.clocks) == 0 || v.replicas == nil {
		return fmt.Errorf("no clocks in level %d of the rules", v.level)
	}
	return nil
}
