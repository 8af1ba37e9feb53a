package machine

import (
	"slices"

	"github.com/mlsfed/mlsfed/wire"
)

// Head is the visible part of an epoch that can be committed to.
type Head struct {
	Sequence wire.SequenceNumber // the entry that opened the epoch: a submission's Parent
	Epoch    wire.Epoch
	Key      wire.SubmissionKey
	Previous wire.SubmissionKey // key of the previous epoch; zero in epoch 0
	Removal  bool               // the commit that opened it removed a member, who has Previous too
	Delivery []wire.Address     // read-only
	// Fork is the first entry that this head does not share with another one; it is 0 if there is none, or if the
	// head has lost against a confirmed one.
	Fork wire.SequenceNumber
	// Confirmed reports that members of two organizations have shown that they are in this head, while there are
	// other heads of the same epoch.
	Confirmed bool
	earlier   []ancestor // the ended epochs before the one of Previous, oldest first; see Past
	trail     []ancestor // see Has
	Info      *wire.Payload
	Tree      *wire.Payload
}

// Slim returns a copy without Info, Tree and the public group states of epochs, and the approximate memory of the
// copy in bytes. Past and Has of the copy give the same answers.
func (h *Head) Slim() (s Head, size int) {
	s, size = *h, headSize+addressSize*len(h.Delivery)
	s.Info, s.Tree, s.trail, s.earlier = nil, nil, nil, nil
	copies := func(list []ancestor) []ancestor {
		slim := make([]ancestor, len(list))
		for i, a := range list {
			slim[i] = a
			slim[i].point = &point{seq: a.seq, epoch: a.epoch, key: a.key, winner: a.winner}
			size += ancestorSize + addressSize*(len(a.change.Add)+len(a.change.Remove))
		}
		return slim
	}
	if len(h.trail) > 0 {
		s.trail = copies(h.trail)
	}
	if len(h.earlier) > 0 {
		s.earlier = copies(h.earlier)
	}
	return s, size
}

// Past returns the submission key of an ended epoch on the way to this head that can still be contested. removed
// reports that a member who knows the key has been removed since.
func (h *Head) Past(epoch wire.Epoch) (key wire.SubmissionKey, removed, ok bool) {
	if !h.Previous.IsZero() && epoch+1 == h.Epoch {
		return h.Previous, h.Removal, true
	}
	for i := range h.earlier {
		if h.earlier[i].epoch != epoch {
			continue
		}
		removed := h.Removal
		for _, a := range h.earlier[i:] {
			removed = removed || len(a.change.Remove) > 0
		}
		return h.earlier[i].key, removed, true
	}
	return key, false, false
}

// Has reports whether entry seq is an unconfirmed commit on the way to this head.
func (h *Head) Has(seq wire.SequenceNumber) bool {
	return h.Sequence == seq || slices.ContainsFunc(h.trail, func(a ancestor) bool { return a.child == seq })
}

// Created reports whether the first entry has been accepted.
func (m *Machine) Created() bool { return m.created }

// Closed reports whether the conversation has ended.
func (m *Machine) Closed() bool { return m.closed }

// Policy returns the policy with which the conversation was created.
func (m *Machine) Policy() wire.Policy { return m.policy }

// Level returns the level of the rules for the next entry.
func (m *Machine) Level() uint8 { return m.level }

// Sequence returns the number of accepted entries.
func (m *Machine) Sequence() wire.SequenceNumber { return m.seq }

// Order returns the order hash over all accepted entries.
func (m *Machine) Order() wire.Hash { return m.order }

// Now returns the log's clock: the time of the last accepted entry, or zero before the first.
func (m *Machine) Now() wire.Time { return m.now }

// Heads returns the epochs that can be committed to: one, or several if an epoch is contested, the branch of first
// children first.
func (m *Machine) Heads() []Head {
	heads := m.view()
	for i := range heads {
		h := &heads[i]
		h.trail, h.earlier = slices.Clone(h.trail), slices.Clone(h.earlier) // the machine changes its trails in place
	}
	return heads
}

// SlimHeads returns a Slim copy of each of Heads, and their memory in bytes.
func (m *Machine) SlimHeads() (heads []Head, size int) {
	heads = m.view()
	for i := range heads {
		var n int
		heads[i], n = heads[i].Slim()
		size += n
	}
	return heads, size
}

// view does the work of Heads without copies of trails.
func (m *Machine) view() []Head {
	if m.level >= 2 {
		return m.branches()
	}
	heads := make([]Head, len(m.heads))
	for i, h := range m.heads {
		heads[i] = Head{Sequence: h.seq, Epoch: h.epoch, Key: h.key, Delivery: h.delivery, Info: h.info, Tree: h.tree}
		if h.parent != nil {
			heads[i].Previous = h.parent.key
			heads[i].Removal = len(h.change.Remove) > 0
		}
	}
	return heads
}

// branches returns the heads from level 2 on. A confirmed head comes before others; closed heads are omitted while
// there is an open one.
func (m *Machine) branches() []Head {
	heads := make([]Head, 0, len(m.heads))
	for _, h := range m.heads {
		if h.closed && !m.closed {
			continue
		}
		v := Head{Sequence: h.seq, Epoch: h.epoch, Key: h.key, Delivery: h.delivery, Info: h.info, Tree: h.tree, trail: h.trail}
		if h.lost == 0 {
			v.Fork, v.Confirmed = h.fork, h.branch.confirmed
		}
		from := len(h.trail)
		for from > 0 && m.alive(h, &h.trail[from-1]) {
			from--
		}
		if n := len(h.trail) - 1; from <= n {
			v.Previous, v.Removal, v.earlier = h.trail[n].key, len(h.trail[n].change.Remove) > 0, h.trail[from:n]
		}
		heads = append(heads, v)
	}
	slices.SortStableFunc(heads, func(a, b Head) int { return m.rank(a) - m.rank(b) })
	return heads
}

// alive reports whether the key of an ended epoch may still be used by members that are in head h: as long as the
// epoch can be contested. A contest that nobody has confirmed keeps a key alive only as long as the contested commit
// does. Otherwise a removed member that contests its removal could submit with its old key after the commit that
// removed it is out of reach.
func (m *Machine) alive(h *head, a *ancestor) bool {
	if len(m.heads) == 1 && a.child == h.seq || m.off.has(rulePast) {
		return true
	}
	recent := func(a *ancestor) bool { return m.now-a.at <= HeadLife }
	if a.seq <= h.lost || !recent(a) {
		return false
	}
	return a.child == a.winner || a.confirmed() || slices.ContainsFunc(m.heads, func(g *head) bool {
		j := g.find(a.seq)
		return j >= 0 && g.trail[j].child == a.winner && recent(&g.trail[j])
	})
}

// rank orders heads for code that has to choose one: confirmed, not contested or not decided, lost.
func (m *Machine) rank(v Head) int {
	switch h := m.headAt(v.Sequence); {
	case h.lost > 0:
		return 2
	case h.branch.confirmed:
		return 0
	}
	return 1
}

// Delivery returns the union of the heads' delivery lists, sorted. The caller must not modify it.
func (m *Machine) Delivery() []wire.Address {
	if len(m.heads) == 1 {
		return m.heads[0].delivery
	}
	var all []wire.Address
	for _, h := range m.heads {
		all = append(all, h.delivery...)
	}
	slices.SortFunc(all, wire.Address.Compare)
	return slices.Compact(all)
}

// Spans returns the organizations that take part, and since when. Organizations that have left stay as long as the
// entry that removed them is kept.
func (m *Machine) Spans() []Span { return slices.Clone(m.spans) }

// Delivers reports whether an organization with these spans is to receive entry seq.
func Delivers(spans []Span, org wire.Domain, seq wire.SequenceNumber) bool {
	for _, s := range spans {
		if s.Organization == org {
			return s.Since <= seq && (s.Until == 0 || seq <= s.Until)
		}
	}
	return false
}

// Holders returns the organizations that are to hold a replica although they no longer take part: a commit has
// removed them that they can still contest. The list is sorted, and the caller must not modify it.
func (m *Machine) Holders() []wire.Domain { return m.holders }

// Replicas returns the nodes that are to hold the conversation and the entry that said so, or nil and 0 before the
// first such entry.
func (m *Machine) Replicas() (*wire.Replicas, wire.SequenceNumber) { return m.replicas, m.since }

// Generation returns the number of forced recoveries.
func (m *Machine) Generation() uint64 {
	if m.replicas == nil {
		return 0
	}
	return m.replicas.Generation
}

// Entries returns the kept entries after since, in order, up to count entries and bytes bytes, but at least one
// entry. gap is true if the entry after since is no longer kept.
func (m *Machine) Entries(since wire.SequenceNumber, count, bytes int) (s EntryRange, gap bool) {
	s = EntryRange{archive: m.archive, snapshot: m.stored}
	if since >= m.seq {
		return s, false
	}
	first := m.oldest()
	if gap = since+1 < first; gap {
		since = first - 1
	}
	for _, k := range m.recent[min(since+1-first, wire.SequenceNumber(len(m.recent))):] {
		if len(s.list) >= count {
			break
		}
		if bytes -= k.at.size; bytes < 0 && len(s.list) > 0 {
			break
		}
		s.list = append(s.list, k)
	}
	return s, gap
}

// Blobs returns references to the content that the kept entries and the heads name.
func (m *Machine) Blobs() []wire.BlobRef {
	var refs []wire.BlobRef
	for i := range m.recent {
		refs = append(refs, m.recent[i].blobs...)
	}
	for _, h := range m.heads {
		for _, p := range []*wire.Payload{h.info, h.tree} {
			if p != nil && p.Blob != nil {
				refs = append(refs, *p.Blob)
			}
		}
	}
	slices.SortFunc(refs, func(a, b wire.BlobRef) int { return slices.Compare(a.Hash[:], b.Hash[:]) })
	return slices.Compact(refs)
}

// Names reports whether a kept entry or a head names a content.
func (m *Machine) Names(ref wire.BlobRef) bool {
	for i := range m.recent {
		if slices.Contains(m.recent[i].blobs, ref) {
			return true
		}
	}
	for _, h := range m.heads {
		for _, p := range []*wire.Payload{h.info, h.tree} {
			if p != nil && p.Blob != nil && *p.Blob == ref {
				return true
			}
		}
	}
	return false
}
