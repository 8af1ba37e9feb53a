package machine

import (
	"slices"
	"sort"

	"github.com/mlsfed/mlsfed/wire"
)

// applyChange returns list after change. Lists are sorted, shared between heads and never written to. A change is
// exact: the addresses that it adds must be absent and those that it removes must be present, so undoChange is its
// inverse.
func applyChange(list []wire.Address, change wire.DeliveryChange) ([]wire.Address, *wire.Error) {
	if len(change.Add)+len(change.Remove) == 0 {
		return list, nil
	}
	for _, a := range change.Remove {
		if _, found := slices.BinarySearchFunc(list, a, wire.Address.Compare); !found {
			return nil, wire.Errorf(wire.Invalid, "delivery", "removes %v, which is not in the list", a)
		}
	}
	next := make([]wire.Address, 0, max(0, len(list)+len(change.Add)-len(change.Remove)))
	add, remove := change.Add, change.Remove
	for _, a := range list {
		for len(add) > 0 && add[0].Compare(a) < 0 {
			next, add = append(next, add[0]), add[1:]
		}
		if len(add) > 0 && add[0] == a {
			return nil, wire.Errorf(wire.Invalid, "delivery", "adds %v, which is in the list already", a)
		}
		if len(remove) > 0 && remove[0] == a {
			remove = remove[1:]
			continue
		}
		next = append(next, a)
	}
	next = append(next, add...)
	if len(next) == 0 {
		return nil, wire.Errorf(wire.Invalid, "delivery", "would be empty: close the conversation instead")
	}
	if len(next) > MaxAddresses {
		return nil, wire.Errorf(wire.TooLarge, "delivery", "would have %d addresses, at most %d", len(next), MaxAddresses)
	}
	return next, nil
}

// undoChange returns the list that applyChange(_, change) turned into list.
func undoChange(list []wire.Address, change wire.DeliveryChange) ([]wire.Address, *wire.Error) {
	return applyChange(list, wire.DeliveryChange{Add: change.Remove, Remove: change.Add})
}

// composeChanges returns the change that has the effect of a and then b.
func composeChanges(a, b wire.DeliveryChange) wire.DeliveryChange {
	return wire.DeliveryChange{Add: compose(a.Add, b.Remove, b.Add, a.Remove), Remove: compose(a.Remove, b.Add, b.Remove, a.Add)}
}

// compose merges the rest of first without undone with the rest of then without undoes. All lists are sorted.
func compose(first, undone, then, undoes []wire.Address) []wire.Address {
	without := func(list, gone []wire.Address) (rest []wire.Address) {
		for _, a := range list {
			if _, found := slices.BinarySearchFunc(gone, a, wire.Address.Compare); !found {
				rest = append(rest, a)
			}
		}
		return rest
	}
	all := append(without(first, undone), without(then, undoes)...)
	slices.SortFunc(all, wire.Address.Compare)
	return all
}

// Organizations returns the organizations of a sorted delivery list, in order. It skips from one to the next.
func Organizations(list []wire.Address) []wire.Domain {
	var orgs []wire.Domain
	for len(list) > 0 {
		org := list[0].Organization
		orgs = append(orgs, org)
		list = list[sort.Search(len(list), func(i int) bool { return list[i].Organization > org }):]
	}
	return orgs
}

// Span is the part of the log in which an organization took part: from the entry that added it to the entry that
// removed it, both included. Until is 0 while it takes part.
type Span struct {
	_            struct{} `cbor:",toarray"`
	Organization wire.Domain
	Since, Until wire.SequenceNumber
}

// someLeft reports whether the spans still contain an organization that has left.
func (m *Machine) someLeft() bool {
	return slices.ContainsFunc(m.spans, func(s Span) bool { return s.Until != 0 })
}

// updateSpans records which organizations joined and left with entry seq, and reports whether any did.
func (m *Machine) updateSpans(seq wire.SequenceNumber) bool {
	present := make(map[wire.Domain]bool)
	for _, h := range m.heads {
		if h.closed && !m.closed {
			continue
		}
		for _, org := range Organizations(h.delivery) {
			present[org] = true
		}
	}
	var next []Span
	oldest := m.oldest()
	for _, s := range m.spans {
		switch here := present[s.Organization]; {
		case here && s.Until == 0:
			delete(present, s.Organization)
		case here:
			continue // the organization comes back: a new span below
		case s.Until == 0:
			s.Until = seq
		case s.Until < oldest:
			continue // the entry that removed the organization is no longer available to anybody
		}
		next = append(next, s)
	}
	for org := range present {
		next = append(next, Span{Organization: org, Since: seq})
	}
	slices.SortFunc(next, func(a, b Span) int {
		if a.Organization < b.Organization {
			return -1
		}
		return 1
	})
	moved := !slices.Equal(m.spans, next)
	m.spans = next
	return moved
}
