package machine

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/mlsfed/mlsfed/wire"
)

// The log's clock makes kept entries, heads and answers expire. An entry bears the time of the node that
// proposed it. Under the first level of the rules it moves the clock by MaxStep at most; 31 entries of one
// proposer are a month. From level 2 on, the clock follows an organization only as far as another one has
// been: its proposers move it MaxLead beyond the latest time that a second organization's proposer has
// named, and no further, however many entries there are. Where one organization alone has members and
// replicas, nobody else is harmed, and its time counts. A log that one organization's nodes lead for long
// keeps entries longer, within the policy's number and bytes. The leader writes both time and name: a lying
// one is stopped by the followers, each of which holds entries against its own clock before it stores them.

// MaxLead is by how much one organization alone moves the clock, in milliseconds.
const MaxLead wire.Time = 15 * 60_000

// Clock is the latest time that an organization's proposers have named.
type Clock struct {
	_            struct{}    `cbor:",toarray"`
	Organization wire.Domain // "": the clock when level 2 began
	Time         wire.Time
}

// clock is the machine's time with e.
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

// agreed is how far a proposer of org may move the clock.
func (m *Machine) agreed(org wire.Domain) wire.Time {
	orgs := m.orderers()
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

// orderers are the organizations with replicas, whose nodes may propose, sorted.
func (m *Machine) orderers() []wire.Domain {
	if m.replicas == nil {
		return nil
	}
	var orgs []wire.Domain
	for _, list := range [][]wire.NodeID{m.replicas.Voters, m.replicas.Learners} {
		for _, n := range list {
			orgs = append(orgs, n.Organization())
		}
	}
	slices.Sort(orgs)
	return slices.Compact(orgs)
}

// noteClock remembers the time that an accepted entry bears, and forgets organizations without replicas.
func (m *Machine) noteClock(e *wire.Entry) {
	if m.level < 2 {
		return
	}
	if m.clocks == nil {
		m.clocks = []Clock{{Time: m.now}}
	}
	org, orgs := e.Proposer.Organization(), m.orderers()
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
	orgs := v.orderers()
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
