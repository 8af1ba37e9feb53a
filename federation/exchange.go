package federation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// Records travel in three ways over links of protoGossip2:
//
//   - A node that makes a record sends it over all its links.
//   - A node that learns a record from another node passes it on over a few links.
//   - What was missed is found by comparison: an ask has a digest for each organization that the asking
//     node admits, and the other side sends the records of those whose digest differs.
//
// So an exchange costs 16 bytes for each organization while both sides know the same. Nodes of the first
// release exchange records by memberlist (gossip.go).
const (
	frameAsk   = 'A' // a recordAsk
	frameState = 'S' // a list of records, the answer to an ask

	// fanout is over how many links a node passes on what it has learned.
	fanout = 4
	// asksAtOnce is how many new links are asked without a pause. Every further one must wait for the
	// regular comparison.
	asksAtOnce = 4
	// askEntry is the size of an entry, in bytes: two short sums.
	askEntry = 2 * len(shortSum{})
)

// shortSum is the beginning of a SHA-256. A collision only hides a difference: the organization that
// makes one hides nothing but records of its own.
type shortSum [8]byte

func shortOf(d wire.Domain) shortSum {
	sum := sha256.Sum256([]byte(d))
	return shortSum(sum[:])
}

// digestOf returns the short sum of the records of an organization, which are in the order of their nodes;
// zeros for no record.
func digestOf(list []*known) (s shortSum) {
	if len(list) == 0 {
		return s
	}
	h := sha256.New()
	for _, k := range list {
		h.Write(k.sum[:])
	}
	copy(s[:], h.Sum(nil))
	return s
}

// recordAsk has an entry for each organization: the short sum of its name, and the digest of its records. The
// entries are in order, and an organization is in one entry at most.
type recordAsk struct {
	Entries []byte `cbor:"1,keyasint"`
}

// Check refuses entries that are cut off, none, out of order or repeated.
func (a *recordAsk) Check() error {
	if len(a.Entries) == 0 || len(a.Entries)%askEntry != 0 {
		return wire.Errorf(wire.Malformed, "ask", "%d bytes of entries, wanted a multiple of %d", len(a.Entries), askEntry)
	}
	for i := askEntry; i < len(a.Entries); i += askEntry {
		if half := askEntry / 2; bytes.Compare(a.Entries[i-askEntry:i-half], a.Entries[i:i+half]) >= 0 {
			return wire.Errorf(wire.Malformed, "ask", "entry %d is out of order", i/askEntry)
		}
	}
	return nil
}

// asks returns encoded asks about all admitted organizations, each small enough for a frame.
func (f *Federation) asks() ([][]byte, error) {
	var entries [][askEntry]byte
	for _, d := range f.admitted() {
		org, digest := shortOf(d), digestOf(f.records.ofOrganization(d))
		entries = append(entries, [askEntry]byte(append(org[:], digest[:]...)))
	}
	slices.SortFunc(entries, func(a, b [askEntry]byte) int { return bytes.Compare(a[:], b[:]) })
	var list [][]byte
	for part := range slices.Chunk(entries, max(1, (f.cfg.Limits.Packet-16)/askEntry)) {
		var a recordAsk
		for _, e := range part {
			a.Entries = append(a.Entries, e[:]...)
		}
		b, err := wire.Encode(&a)
		if err != nil {
			return nil, err
		}
		list = append(list, b)
	}
	return list, nil
}

// askOver asks over some links for what the other sides know better.
func (f *Federation) askOver(list ...*link) {
	if len(list) == 0 {
		return
	}
	asks, err := f.asks()
	if err != nil {
		f.cfg.Logger.Error("records not compared", "error", err)
		return
	}
	for _, l := range list {
		for _, a := range asks {
			l.send(frameAsk, a)
		}
	}
}

// joined begins the exchange of records over a link that is up.
func (f *Federation) joined(l *link) {
	if !l.exchanges {
		f.wake(f.joinNow)
		return
	}
	if f.askRate.AllowN(f.cfg.Clock.Now(), 1) {
		f.askOver(l)
	}
}

// askSome compares records with a few nodes now, because more organizations count than before.
func (f *Federation) askSome() { f.askOver(f.links.some(fanout)...) }

// compare compares records with one other node now and then, until ctx ends.
func (f *Federation) compare(ctx context.Context) error {
	for {
		pause := time.Duration(float64(f.cfg.Timers.PushPull) * (0.75 + f.cfg.jitter()/2))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		f.askOver(f.links.some(1)...)
	}
}

// answerAsk sends the records of the organizations in an ask about which the two sides differ, as far as the
// organization's budget and the link's queue go. Records that are left out are sent after a later request: an answer
// begins at a random entry.
func (f *Federation) answerAsk(l *link, payload []byte) error {
	var a recordAsk
	if err := wire.Decode(payload, f.cfg.Limits.Packet, &a); err != nil {
		return err
	}
	budget, now := f.budgets.of(l.node.Organization()), f.cfg.Clock.Now()
	if !budget.answers.AllowN(now, len(a.Entries)) {
		f.dropPacket(l.node, dropRate, nil)
		return nil
	}
	n := len(a.Entries) / askEntry
	begin := rand.IntN(n)
	var batch []*known
	size := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		b, err := encodeRecords(batch)
		batch, size = nil, 0
		if err == nil {
			l.send(frameState, b)
		}
		return err
	}
	for i := range n {
		e := a.Entries[(begin+i)%n*askEntry:][:askEntry]
		d, ok := f.records.organization(shortSum(e))
		if !ok {
			continue
		}
		list := f.records.ofOrganization(d)
		if digestOf(list) == shortSum(e[askEntry/2:]) {
			continue
		}
		for _, k := range list {
			cost := len(k.raw) + 8
			if len(l.out) > cap(l.out)/2 || !budget.answers.AllowN(now, cost) {
				return flush()
			}
			if size+cost > f.cfg.Limits.Packet-16 {
				if err := flush(); err != nil {
					return err
				}
			}
			batch, size = append(batch, k), size+cost
		}
	}
	return flush()
}

// takeState takes in the records of an answer. Each that is not known yet counts as a packet: it has to be
// verified.
func (f *Federation) takeState(l *link, budget *budget, payload []byte) error {
	var list recordList
	if err := wire.Decode(payload, f.maxFrame(), &list); err != nil {
		return err
	}
	for _, raw := range list.Records {
		if f.records.has(raw) {
			continue
		}
		if !budget.packets.AllowN(f.cfg.Clock.Now(), 1) {
			f.dropPacket(l.node, dropRate, nil)
			return nil
		}
		f.learnFrom(l, raw)
	}
	return nil
}

// exchange takes in a frame of the exchange of records.
func (f *Federation) exchange(l *link, budget *budget, kind byte, payload []byte) error {
	switch {
	case !l.exchanges:
		return wire.Errorf(wire.Malformed, "link", "a frame of type %q, which this link does not have", kind)
	case kind == frameAsk:
		return f.answerAsk(l, payload)
	}
	return f.takeState(l, budget, payload)
}

// learnFrom takes in a record that came over a link. A record that is older than the one known here is
// answered with the newer one.
func (f *Federation) learnFrom(l *link, raw []byte) {
	n := f.learn(raw, l.node)
	if n == nil || !l.exchanges || !f.budgets.of(l.node.Organization()).answers.AllowN(f.cfg.Clock.Now(), len(n.raw)) {
		return
	}
	l.send(frameRecord, n.raw)
}

// rumours are records on their way to others. News of one node goes out at once; what follows within
// Timers.Gossip waits, and only the newest record is sent.
type rumours struct {
	mu      sync.Mutex // guards what follows
	sent    map[wire.NodeID]time.Time
	waiting map[wire.NodeID]rumour
	due     bool // a goroutine will send what waits
}

type rumour struct {
	k    *known
	from wire.NodeID // the node that sent it, "" for this one
}

// pass takes a rumour in. It reports whether to send it now, and whether the caller has to see to it
// that what waits is sent later.
func (s *rumours) pass(r rumour, now time.Time, pause time.Duration) (send, later bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if since := now.Sub(s.sent[r.k.Node]); since < 0 || since >= pause {
		if s.sent == nil {
			s.sent, s.waiting = make(map[wire.NodeID]time.Time), make(map[wire.NodeID]rumour)
		}
		s.sent[r.k.Node] = now
		send = true
	} else {
		s.waiting[r.k.Node] = r
	}
	later = !s.due
	s.due = true
	return send, later
}

// take returns what waits, and forgets what was sent more than pause ago.
func (s *rumours) take(now time.Time, pause time.Duration) (list []rumour, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, r := range s.waiting {
		list = append(list, r)
		s.sent[n] = now
	}
	clear(s.waiting)
	for n, at := range s.sent {
		if since := now.Sub(at); since < 0 || since >= pause {
			delete(s.sent, n)
		}
	}
	s.due = len(s.sent) > 0
	return list, s.due
}

// spread passes a record on.
func (f *Federation) spread(k *known, from wire.NodeID) {
	if f.links.plain() {
		f.gossip.queue.QueueBroadcast(&recordNews{k.Node, k.raw})
	}
	pause := f.cfg.Timers.Gossip
	send, later := f.rumours.pass(rumour{k, from}, time.Now(), pause)
	if later {
		started := f.spawn(func(ctx context.Context) {
			for more := true; more && ctx.Err() == nil; {
				select {
				case <-ctx.Done():
					return
				case <-time.After(pause):
				}
				var list []rumour
				list, more = f.rumours.take(time.Now(), pause)
				for _, r := range list {
					f.send(r)
				}
			}
		})
		if !started {
			f.rumours.take(time.Now(), 0)
		}
	}
	if send {
		f.send(rumour{k, from})
	}
}

func (f *Federation) send(r rumour) {
	for _, l := range f.links.some(fanout, r.from, r.k.Node) {
		l.send(frameRecord, r.k.raw)
	}
}
