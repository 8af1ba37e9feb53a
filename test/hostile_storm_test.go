package test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// storm sends hand-made frames of the ordering protocol, as an admitted organization's node can: every kind, with
// hostile numbers, states, orders and rates. The same seed gives the same frames.
type storm struct {
	*evil
	dice    *rand.Rand
	targets []wire.NodeID
	ids     []wire.ConversationID // existing conversations; mallory.example takes part in the first
	number  uint64
	window  chan struct{} // a place for each frame that awaits its answer

	mu      sync.Mutex // guards what follows
	answers map[wire.Code]int
	granted int
	ended   int // connections that the other side has closed
}

func pick[T any](s *storm, list ...T) T { return list[s.dice.IntN(len(list))] }

// hostile returns a number near an edge of some range.
func (s *storm) hostile() uint64 {
	return pick(s, 0, 1, 2, 3, uint64(s.dice.IntN(64)), 1<<16, 1<<32-1, 1<<32, 1<<40, 1<<63-1, 1<<63, math.MaxUint64-1, math.MaxUint64)
}

func (s *storm) junk(most int) []byte {
	b := make([]byte, s.dice.IntN(most+1))
	for i := range b {
		b[i] = byte(s.dice.Uint32())
	}
	return b
}

func (s *storm) conversation() wire.ConversationID {
	switch s.dice.IntN(10) {
	case 0:
		return wire.ConversationID(fmt.Sprintf("made up %d", s.dice.IntN(1000)))
	case 1:
		return wire.ConversationID(s.junk(64))
	case 2:
		return ""
	}
	return pick(s, s.ids...)
}

func (s *storm) name() wire.NodeID {
	return pick(s, "n1.a.example", "n1.b.example", "n1.c.example", "n1.mallory.example", "n2.mallory.example",
		wire.NodeID(fmt.Sprintf("n%d.invented%d.example", s.dice.IntN(9), s.dice.IntN(1000))), wire.NodeID(s.junk(40)), "")
}

func (s *storm) names() []wire.NodeID {
	list := []wire.NodeID{"n1.mallory.example"}
	for range s.dice.IntN(8) {
		list = append(list, s.name())
	}
	return list
}

func (s *storm) configuration() []byte {
	var c raft.Configuration
	for range s.dice.IntN(6) {
		n := s.name()
		c.Servers = append(c.Servers, raft.Server{Suffrage: raft.ServerSuffrage(s.dice.IntN(4)), ID: raft.ServerID(n), Address: raft.ServerAddress(pick(s, n, s.name()))})
	}
	return raft.EncodeConfiguration(c)
}

func (s *storm) entry(id wire.ConversationID) []byte {
	e := &wire.Entry{Version: 1, Time: wire.Time(s.hostile() >> 1), Proposer: "n1.mallory.example"}
	switch s.dice.IntN(4) {
	case 0:
		return s.junk(200)
	case 1:
		e.Replicas = &wire.Replicas{Generation: s.hostile(), Voters: s.names(), Learners: s.names()}
		if s.dice.IntN(2) == 0 {
			e.Replicas.Recovery = &wire.Recovery{Note: pick(s, "rules/2", "rules/9", "x"), Lost: s.names()}
		}
	default:
		e.Envelope = s.envelope(id)
	}
	b, err := wire.Encode(e)
	if err != nil {
		return nil
	}
	return b
}

func (s *storm) envelope(id wire.ConversationID) *wire.Envelope {
	e := &wire.Envelope{Version: 1, Conversation: id, Submission: wire.SubmissionID(random16()), Epoch: wire.Epoch(s.hostile()), Parent: wire.SequenceNumber(s.hostile()),
		Signature: make([]byte, 64)}
	switch s.dice.IntN(4) {
	case 0:
		e.Kind, e.Proposal = wire.KindProposal, s.junk(100)
	case 1:
		e.Kind = wire.KindClose
	default:
		blob := &wire.Payload{Blob: &wire.BlobRef{Hash: sha256.Sum256(s.junk(8)), Size: s.hostile()}}
		e.Kind, e.Commit = wire.KindCommit, &wire.CommitBundle{Commit: s.junk(100), Key: wire.SubmissionKey{1}, Contest: s.dice.IntN(2) == 0,
			Welcome: pick(s, nil, blob), Info: pick(s, nil, blob)}
	}
	return e
}

// payload returns the payload of a kind of frame: mostly well formed, so that the receiver decodes it.
func (s *storm) payload(kind byte, id wire.ConversationID) []byte {
	var b []byte
	u64 := func(list ...uint64) {
		for _, n := range list {
			b = binary.BigEndian.AppendUint64(b, n)
		}
	}
	part := func(p []byte) { b = append(binary.BigEndian.AppendUint32(b, uint32(len(p))), p...) }
	encoded := func(v any) []byte { b, _ := wire.Encode(v); return b }
	if s.dice.IntN(8) == 0 {
		return s.junk(300)
	}
	switch kind {
	case 1: // AppendEntries
		prev := s.hostile()
		u64(s.hostile(), prev, s.hostile(), s.hostile())
		n := s.dice.IntN(4)
		b = append(b, byte(n))
		for i := range n {
			u64(prev+1+uint64(i), s.hostile())
			typ := byte(s.dice.IntN(7))
			b = append(b, typ)
			u64(s.hostile())
			if typ == byte(raft.LogConfiguration) {
				part(s.configuration())
			} else {
				part(s.entry(id))
			}
			part(s.junk(10))
		}
	case 2: // RequestVote
		u64(s.hostile(), s.hostile(), s.hostile())
		b = append(b, byte(s.dice.IntN(3)))
	case 3: // pre-vote
		u64(s.hostile(), s.hostile(), s.hostile())
	case 4, 11: // TimeoutNow, farewell
	case 6: // heartbeats
		for range s.dice.IntN(50) {
			c := s.conversation()
			b = append(append(b, byte(len(c))), c...)
			u64(s.hostile(), s.hostile())
		}
	case 7, 14, 15: // wake, rejoin, silent
		b = []byte(s.name())
	case 8: // sleep
		b = encoded([]uint64{s.hostile(), s.hostile()})
	case 9: // submission
		b = encoded(s.envelope(id))
	case 10: // invitation
		b = encoded(&xinvite{pick(s, 0, 0, 1, s.hostile()), s.names()})
	case 12: // holdings
		type share struct {
			_          struct{} `cbor:",toarray"`
			ID         wire.ConversationID
			Generation uint64
			End        [2]uint64
		}
		var list []share
		for range s.dice.IntN(30) {
			list = append(list, share{ID: s.conversation(), Generation: s.hostile(), End: [2]uint64{s.hostile(), s.hostile()}})
		}
		b = encoded([]any{list})
	case 17: // complaint
		b = encoded(&struct {
			Leader     wire.NodeID    `cbor:"1,keyasint"`
			Submission *wire.Envelope `cbor:"2,keyasint"`
		}{s.name(), s.envelope(id)})
	case 16: // testimony
		b = encoded(&struct {
			About    wire.NodeID         `cbor:"1,keyasint,omitempty"`
			Claim    uint64              `cbor:"2,keyasint,omitempty"`
			Sequence wire.SequenceNumber `cbor:"3,keyasint,omitempty"`
			Order    wire.Hash           `cbor:"4,keyasint"`
			Index    uint64              `cbor:"5,keyasint,omitempty"`
		}{s.name(), s.hostile(), wire.SequenceNumber(s.hostile()), wire.Hash{byte(s.dice.IntN(3))}, s.hostile()})
	case 13: // gone
		b = []byte(s.name())
	default:
		return s.junk(100)
	}
	if s.dice.IntN(10) == 0 && len(b) > 0 {
		b[s.dice.IntN(len(b))] ^= 1 << s.dice.IntN(8)
	}
	return b
}

// send sends n frames to one node, many in flight at once, and reads the answers. If the other side closes the
// connection, send opens a new one.
func (s *storm) send(ctx context.Context, to wire.NodeID, n int) error {
	for n > 0 && ctx.Err() == nil {
		conn, err := s.f.Dial(ctx, to)
		if err != nil {
			s.count(wire.AsError("dial", err))
			n -= 100 // do not wait for a node that admits nobody
			if !pause(ctx, 20*time.Millisecond) {
				return ctx.Err()
			}
			continue
		}
		sent, err := s.burst(ctx, conn, n)
		n -= max(sent, 1)
		if err != nil {
			s.mu.Lock()
			s.ended++
			s.mu.Unlock()
		}
	}
	return ctx.Err()
}

func (s *storm) burst(ctx context.Context, conn net.Conn, n int) (sent int, err error) {
	var reader sync.WaitGroup
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer reader.Wait()
	defer conn.Close()
	if _, err := conn.Write([]byte("mlsfed consensus 1 F")); err != nil {
		return 0, err
	}
	gone := make(chan struct{})
	reader.Go(func() {
		defer close(gone)
		s.read(conn)
	})
	for ; sent < n; sent++ {
		kind := byte(1 + s.dice.IntN(17))
		if s.dice.IntN(200) == 0 {
			kind = byte(s.dice.Uint32()) // ends the connection, unless the kind is known
		}
		s.number++
		id := s.conversation()
		f := xframe(kind, pick(s, s.number, s.number, s.number, 0, s.hostile()), pick(s, 0, 0, 0, s.hostile()), id, s.payload(kind, id))
		if err := conn.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return sent, err
		}
		if _, err := conn.Write(f); err != nil {
			return sent, err
		}
		select {
		case s.window <- struct{}{}:
		case <-gone:
			return sent, io.EOF
		case <-time.After(20 * time.Millisecond): // frames without an answer fill the window
			for empty := false; !empty; {
				select { // the reader takes from the window too
				case <-s.window:
				default:
					empty = true
				}
			}
		}
		if s.dice.IntN(500) == 0 {
			return sent + 1, nil // a new connection
		}
	}
	return sent, nil
}

// serve reads a stream that the other side has opened, since answers come over it too.
func (s *storm) serve(conn net.Conn) {
	var greeting [20]byte
	if _, err := io.ReadFull(conn, greeting[:]); err == nil && greeting[19] == 'F' {
		s.read(conn)
	}
}

func (s *storm) read(conn net.Conn) {
	in := bufio.NewReader(conn)
	for {
		var head [4]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[:]))
		if _, err := io.ReadFull(in, body); err != nil {
			return
		}
		if body[0] != 5 || len(body) < 18 || len(body) <= 18+int(body[17]) {
			continue
		}
		select {
		case <-s.window:
		default:
		}
		p := body[18+int(body[17]):]
		var e *wire.Error
		if p[0] != 0 {
			e = new(wire.Error)
			if wire.Decode(p[1:], wire.MaxError, e) != nil {
				e = &wire.Error{Code: "unreadable"}
			}
		}
		s.count(e)
	}
}

func (s *storm) count(e *wire.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e == nil {
		s.granted++
		return
	}
	s.answers[e.Code]++
}

// snapshots sends states of existing and other conversations, with each number at an edge.
func (s *storm) snapshots(ctx context.Context, to wire.NodeID, n int) {
	for range n {
		if ctx.Err() != nil {
			return
		}
		id := s.conversation()
		h := xheader{ID: pick(s, id, s.conversation()), Created: s.dice.IntN(5) > 0, Policy: wire.Policy{Handshakes: 1}, Sequence: wire.SequenceNumber(s.hostile()),
			Now: wire.Time(s.hostile() >> 1), Since: wire.SequenceNumber(s.hostile()),
			Spans: []xspan{{Organization: "a.example", Since: wire.SequenceNumber(s.hostile()), Until: wire.SequenceNumber(s.hostile())}}}
		head := xhead{Sequence: wire.SequenceNumber(s.hostile()), Epoch: wire.Epoch(s.hostile()), Key: wire.SubmissionKey{1},
			Delivery: []wire.Address{{Organization: "a.example", Token: wire.Token(random16())}}, Used: wire.Time(s.hostile() >> 1)}
		err := s.plant(to, id, s.hostile(), s.hostile(), s.names(), nil, h, head)
		if err == nil {
			s.count(nil)
		} else {
			s.count(wire.AsError("snapshot", err))
		}
	}
}

// blobs requests contents and offers some.
func (s *storm) blobs(ctx context.Context, to wire.NodeID, n int) {
	type request struct {
		Op           uint8               `cbor:"1,keyasint"`
		Conversation wire.ConversationID `cbor:"2,keyasint"`
		Ref          wire.BlobRef        `cbor:"3,keyasint"`
	}
	for range n {
		if ctx.Err() != nil {
			return
		}
		content := s.junk(64 << 10)
		q, err := wire.Encode(&request{byte(s.dice.IntN(5)), s.conversation(), wire.BlobRef{Hash: sha256.Sum256(content), Size: pick(s, uint64(len(content)), s.hostile())}})
		if err != nil {
			continue
		}
		func() {
			conn, err := s.f.Dial(ctx, to)
			if err != nil {
				return
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			_, _ = conn.Write(append([]byte("mlsfed consensus 1 B"), append(binary.BigEndian.AppendUint32(nil, uint32(len(q))), q...)...))
			var answer [1]byte
			if _, err := io.ReadFull(conn, answer[:]); err != nil || answer[0] != 1 {
				s.count(&wire.Error{Code: "blob"})
				return
			}
			_, _ = conn.Write(content[:s.dice.IntN(len(content)+1)])
		}()
	}
}

// footprint holds the resources that the nodes of a test use.
type footprint struct {
	goroutines int
	heap, disk int64
}

func measure(t *testing.T, dirs []string) footprint {
	t.Helper()
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	f := footprint{goroutines: runtime.NumGoroutine(), heap: int64(m.HeapAlloc)}
	for _, dir := range dirs {
		f.disk += usage(t, dir)
	}
	return f
}

// TestLongHostilePeer checks that an admitted organization's node which sends arbitrary frames cannot stop or fill
// other nodes: no node of another organization stops, its goroutines, memory and disk stay within its quotas, commits
// and messages continue meanwhile, and each refusal is counted.
func TestLongHostilePeer(t *testing.T) {
	frames := map[string]int{"": 600, "short": 9_000, "full": 120_000}[os.Getenv("MLSFED_LONG")]
	const (
		invited  = 50 // conversations that a node accepts by invitation of one organization
		replica  = 64 << 10
		headroom = 8 << 20
	)
	seed := uint64(time.Now().UnixNano())
	if v := os.Getenv("MLSFED_SEED"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	t.Logf("MLSFED_SEED=%d, %d frames", seed, frames)
	dir := t.TempDir()
	c := newClusterIn(t, dir, cluster.Options{Edit: func(cfg *config.Config) {
		cfg.Consensus.PerOrganization, cfg.Consensus.Unowned, cfg.Admin.Listen = invited, config.Duration(2*time.Second), "127.0.0.1:0"
	}},
		"a.example", "b.example", "c.example", "mallory.example")
	honest := []wire.Domain{"a.example", "b.example", "c.example"}
	alice, bob, carol := device(t, c, "a.example", "alice", "phone"), device(t, c, "b.example", "bob", "phone"), device(t, c, "c.example", "carol", "phone")
	dave := device(t, c, "mallory.example", "dave", "phone")
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	found := func(name string, list ...wire.UserID) wire.ConversationID {
		id, err := alice.Create(ctx, client.CreateOptions{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		add(ctx, t, alice, id, list...)
		return id
	}
	shared, private := found("Shared", "mimi://b.example/u/bob", "mimi://c.example/u/carol"), found("Private", "mimi://b.example/u/bob", "mimi://c.example/u/carol")
	for _, id := range []wire.ConversationID{shared, private} {
		await(t, ctx, id, 3, alice, bob, carol)
		awaitReplicas(t, ctx, c, id, honest, 3, 0)
	}
	add(ctx, t, alice, shared, "mimi://mallory.example/u/dave")
	await(t, ctx, shared, 4, alice, bob, carol, dave)
	awaitReplicas(t, ctx, c, shared, honest, 3, 1)
	if err := c.StopDevice(dave); err != nil {
		t.Fatal(err)
	}
	s := &storm{evil: newEvil(t, c, "mallory.example"), dice: rand.New(rand.NewPCG(seed, 1)), ids: []wire.ConversationID{shared, private},
		answers: make(map[wire.Code]int), window: make(chan struct{}, 64)}
	s.evil.mu.Lock()
	s.streams = s.serve
	s.evil.mu.Unlock()
	var dirs []string
	for _, d := range honest {
		dirs = append(dirs, filepath.Join(dir, string(d), "data"))
		s.targets = append(s.targets, wire.NodeID("n1."+string(d)))
	}
	before := measure(t, dirs)

	work, stop := context.WithCancel(ctx)
	var commits, messages atomic.Int64
	var working sync.WaitGroup
	working.Go(func() {
		for n := 0; work.Err() == nil; n++ {
			d, id := []*client.Device{alice, bob, carol}[n%3], []wire.ConversationID{shared, private}[n%2]
			if err := d.UpdateKeys(ctx, id); err != nil {
				t.Errorf("an honest commit during the storm: %v", err)
				return
			}
			commits.Add(1)
			if _, err := d.SendText(ctx, id, fmt.Sprintf("message %d", n)); err != nil {
				t.Errorf("an honest message during the storm: %v", err)
				return
			}
			messages.Add(1)
			pause(work, 50*time.Millisecond)
		}
	})
	// The storm continues until honest devices have committed often enough, also on a slow machine.
	for round := 0; round < 10 || commits.Load() < 10 && ctx.Err() == nil; round++ {
		to := s.targets[round%len(s.targets)]
		if err := s.send(ctx, to, frames/10); err != nil {
			t.Fatal(err)
		}
		s.snapshots(ctx, to, frames/1000)
		s.blobs(ctx, to, frames/1000)
		t.Logf("round %d: %d commits, %d messages of honest devices", round+1, commits.Load(), messages.Load())
	}
	stop()
	working.Wait()
	if n := commits.Load(); n < 10 {
		t.Errorf("%d honest commits during the storm", n)
	}

	// All continue, and agree.
	for _, id := range []wire.ConversationID{shared, private} {
		if err := alice.UpdateKeys(ctx, id); err != nil {
			t.Errorf("a commit after the storm: %v", err)
		}
		last, err := alice.SendText(ctx, id, "after the storm")
		if err != nil {
			t.Error(err)
		}
		for _, d := range []*client.Device{bob, carol} {
			if err := cluster.Await(ctx, d, func() (bool, error) {
				page, err := d.History(ctx, id, client.Query{Limit: 10})
				return slices.ContainsFunc(page.Messages, func(m client.Message) bool { return m.ID == last }), err
			}); err != nil {
				t.Errorf("the last message: %v", err)
			}
		}
		awaitAgreement(t, ctx, c, id, honest)
	}

	limit := footprint{goroutines: before.goroutines + 8, heap: before.heap + int64(len(honest))*invited*replica + headroom,
		disk: before.disk + int64(len(honest))*invited*replica + headroom}
	var after footprint
	if err := eventuallyWithin(ctx, func() bool {
		after = measure(t, dirs)
		return after.goroutines <= limit.goroutines && after.heap <= limit.heap && after.disk <= limit.disk
	}); err != nil {
		t.Errorf("before %+v, after %+v, limit %+v", before, after, limit)
		t.Logf("goroutines: %s", creators())
	}
	counted := 0.0
	for _, d := range honest {
		for _, reason := range []string{"role", "rate", "rewrite", "divergence", "term", "generation", "farewell", "configuration", "snapshot", "claim", "entry", "time", "node"} {
			counted += counter(t, c.Node(d).AdminAddress(), `mlsfed_order_refused_total{reason="`+reason+`"}`)
		}
	}
	if counted == 0 {
		t.Error("no node has counted what it refused")
	}
	var refused []string
	total := 0
	s.mu.Lock() // the nodes still answer
	defer s.mu.Unlock()
	for code, n := range s.answers {
		refused, total = append(refused, fmt.Sprintf("%s %d", code, n)), total+n
	}
	sort.Strings(refused)
	t.Logf("%d frames: %d granted, %d refused (%s), %d connections ended by the nodes, %v counted by the nodes with a reason; %d honest commits, %d messages meanwhile; before %+v, after %+v",
		frames, s.granted, total, strings.Join(refused, ", "), s.ended, counted, commits.Load(), messages.Load(), before, after)
}

// creators counts the present goroutines by the function that started them.
func creators() string {
	buf := make([]byte, 8<<20)
	count := make(map[string]int)
	for _, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		by := ""
		for _, line := range strings.Split(stack, "\n") {
			if strings.HasPrefix(line, "sync.(*WaitGroup).Go.func1(") || strings.Contains(line, "spawn.func1(") || strings.Contains(line, ".serve.func2(") {
				break // is named by its function
			}
			if f, ok := strings.CutPrefix(line, "created by "); ok {
				by, _, _ = strings.Cut(f, " in goroutine")
			} else if !strings.HasPrefix(line, "\t") {
				by, _, _ = strings.Cut(line, "({0x")
				by, _, _ = strings.Cut(by, "(0x")
			}
		}
		count[by]++
	}
	return fmt.Sprint(count)
}

// eventuallyWithin polls until holds returns true, for at most a minute.
func eventuallyWithin(ctx context.Context, holds func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for !holds() {
		if !pause(ctx, 100*time.Millisecond) {
			return ctx.Err()
		}
	}
	return nil
}

// awaitReplicas waits until the first organization's node knows a number of voters and learners.
func awaitReplicas(t *testing.T, ctx context.Context, c *cluster.Cluster, id wire.ConversationID, orgs []wire.Domain, voters, learners int) {
	t.Helper()
	if err := eventuallyWithin(ctx, func() bool {
		for _, v := range c.Node(orgs[0]).Status().Conversations {
			if v.ID == id.String() {
				return len(v.Voters) == voters && len(v.Learners) == learners
			}
		}
		return false
	}); err != nil {
		t.Fatalf("replicas of %v: %v", id, err)
	}
}

// awaitAgreement waits until all organizations' nodes have the same entries in the same order.
func awaitAgreement(t *testing.T, ctx context.Context, c *cluster.Cluster, id wire.ConversationID, orgs []wire.Domain) {
	t.Helper()
	orders := make(map[string]bool)
	if err := eventuallyWithin(ctx, func() bool {
		clear(orders)
		for _, d := range orgs {
			for _, v := range c.Node(d).Status().Conversations {
				if v.ID == id.String() {
					orders[fmt.Sprintf("%d %s %s", v.Entries, v.Order, v.Fault)] = true
				}
			}
		}
		return len(orders) == 1
	}); err != nil {
		t.Errorf("the nodes do not agree about %v: %v", id, orders)
	}
}
