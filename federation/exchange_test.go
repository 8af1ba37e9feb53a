package federation

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/federation/internal/federationtest"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/wire"
)

// peerOf connects to a as a further node of b's organization, by the given protocol of gossip, and says
// hello.
func peerOf(t *testing.T, a, b *node, protocol string) (*tls.Certificate, *tls.Conn, *bufio.Reader) {
	t.Helper()
	c := credential(t, b.id.Authority, "n9.b.example", time.Now(), nil)
	conn, err := dialAs(t, a, c, func(cfg *tls.Config) { cfg.NextProtos = []string{protocol} })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	sayHello(t, conn, forge(t, c, "127.0.0.1:9", time.Now(), nil, nil))
	return c, conn, bufio.NewReader(conn)
}

// frameOf reads frames until one of the kind comes.
func frameOf(t *testing.T, conn *tls.Conn, in *bufio.Reader, want byte) []byte {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(federationtest.Patience)); err != nil {
		t.Fatal(err)
	}
	for {
		kind, payload, err := readFrame(in, 64<<10, nil, func(bool) error { return nil })
		if err != nil {
			t.Fatalf("before a frame of type %q: %v", want, err)
		}
		if kind == want {
			return payload
		}
	}
}

func send(t *testing.T, conn *tls.Conn, kind byte, payload []byte) {
	t.Helper()
	if _, err := conn.Write(appendFrame(nil, kind, payload)); err != nil {
		t.Fatal(err)
	}
}

func encoded(t *testing.T, v any) []byte {
	t.Helper()
	b, err := wire.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// entryOf is the entry of an ask about what a node knows of an organization.
func entryOf(n *node, d wire.Domain) []byte {
	org, digest := shortOf(d), digestOf(n.records.ofOrganization(d))
	return append(org[:], digest[:]...)
}

// sorted is an ask with these entries.
func sorted(entries ...[]byte) *recordAsk {
	slices.SortFunc(entries, bytes.Compare)
	return &recordAsk{bytes.Join(entries, nil)}
}

// TestAskCheck holds which asks are well-formed.
func TestAskCheck(t *testing.T) {
	one, two := bytes.Repeat([]byte{1}, askEntry), bytes.Repeat([]byte{2}, askEntry)
	for name, c := range map[string]struct {
		entries []byte
		ok      bool
	}{
		"one": {one, true}, "two": {append(bytes.Clone(one), two...), true}, "none": {nil, false},
		"cut off": {one[:askEntry-1], false}, "out of order": {append(bytes.Clone(two), one...), false},
		"repeated": {append(bytes.Clone(one), one...), false},
	} {
		b := encoded(t, &recordAsk{c.entries})
		if err := wire.Decode(b, 1024, new(recordAsk)); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzAsk(f *testing.F) {
	for _, n := range []int{1, 2, 7} {
		var a recordAsk
		for i := range n {
			a.Entries = append(a.Entries, bytes.Repeat([]byte{byte(i)}, askEntry)...)
		}
		b, err := wire.Encode(&a)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var a recordAsk
		if wire.Decode(b, 16<<10, &a) != nil {
			return
		}
		if again, err := wire.Encode(&a); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x is made again as %x", b, again)
		}
		for n := range b {
			if wire.Decode(b[:n], 16<<10, new(recordAsk)) == nil {
				t.Fatalf("the first %d bytes of %x are an ask too", n, b)
			}
		}
	})
}

// TestAnswerHasWhatDiffers holds that an answer has the records of those organizations about which the two
// sides differ, and no others.
func TestAnswerHasWhatDiffers(t *testing.T) {
	a, b := federate(t)
	c := start(t, newOrganization(t, "c.example"))
	a.admitSeed(t, c)
	c.admit(t, a)
	connected(t, a, c)
	_, conn, in := peerOf(t, a, b, protoGossip2)
	federationtest.Eventually(t, "n9 is known", func() bool { return a.records.get("n9.b.example") != nil })
	other, nobody := make([]byte, askEntry), shortOf("x.example")
	copy(other, entryOf(a, c.id.Domain)[:askEntry/2])
	for name, k := range map[string]struct {
		ask  *recordAsk
		want []wire.NodeID
	}{
		"one differs": {sorted(entryOf(a, a.id.Domain), entryOf(a, b.id.Domain), other, append(nobody[:], make([]byte, askEntry/2)...)), []wire.NodeID{c.id.Node}},
		"own":         {sorted(entryOf(c, a.id.Domain), append(entryOf(a, b.id.Domain)[:askEntry/2:askEntry/2], make([]byte, askEntry/2)...)), []wire.NodeID{b.id.Node, "n9.b.example"}},
	} {
		send(t, conn, frameAsk, encoded(t, k.ask))
		var list recordList
		if err := wire.Decode(frameOf(t, conn, in, frameState), 64<<10, &list); err != nil {
			t.Fatal(err)
		}
		var got []wire.NodeID
		for _, raw := range list.Records {
			got = append(got, peekNode(raw))
		}
		if slices.Sort(got); !slices.Equal(got, k.want) {
			t.Errorf("%s: records of %v, wanted %v", name, got, k.want)
		}
	}
	// Records that both sides have are not sent: the next answer belongs to the next request.
	send(t, conn, frameAsk, encoded(t, sorted(entryOf(a, c.id.Domain))))
	send(t, conn, frameAsk, encoded(t, sorted(other)))
	var list recordList
	if err := wire.Decode(frameOf(t, conn, in, frameState), 64<<10, &list); err != nil || len(list.Records) != 1 {
		t.Errorf("%d records, %v", len(list.Records), err)
	}
}

// TestAnswersAreBounded holds Limits.Answers at its edge: an ask or an answer beyond it is dropped, and the
// link goes on.
func TestAnswersAreBounded(t *testing.T) {
	a, b := federate(t, func(c *Config) { c.Limits.Answers, c.Limits.AnswersBurst = 1e-6, 4096 })
	_, conn, in := peerOf(t, a, b, protoGossip2)
	differs := append(entryOf(a, a.id.Domain)[:askEntry/2:askEntry/2], make([]byte, askEntry/2)...)
	a.budgets.of(b.id.Domain).answers.AllowN(time.Now(), 1)
	cost := askEntry + len(a.ownRecord()) + 8
	most := 4096 / cost
	for range most + 20 {
		send(t, conn, frameAsk, encoded(t, sorted(differs)))
	}
	federationtest.Eventually(t, "it is counted", func() bool {
		return a.metric(t, "mlsfed_federation_gossip_dropped_total", "reason", dropRate) > 0
	})
	k := forge(t, credential(t, b.id.Authority, "n8.b.example", time.Now(), nil), "127.0.0.1:9", time.Now(), nil, nil)
	send(t, conn, frameRecord, k)
	federationtest.Eventually(t, "the link goes on", func() bool { return a.records.get("n8.b.example") != nil })
	conn.SetReadDeadline(time.Now().Add(time.Millisecond)) // what came is here
	answers := 0
	for {
		kind, _, err := readFrame(in, 64<<10, nil, func(bool) error { return nil })
		if err != nil {
			break
		}
		if kind == frameState {
			answers++
		}
	}
	if answers > most {
		t.Errorf("%d answers, at most %d", answers, most)
	}
}

// TestStateCountsAsPackets holds that the records of an answer which have to be verified are within the
// budget of packets, whatever the size of the frame.
func TestStateCountsAsPackets(t *testing.T) {
	a, b := federate(t, func(c *Config) {
		c.Limits.GossipPackets, c.Limits.GossipBurst = 1e-6, 10
		c.Limits.Nodes = 100
	})
	_, conn, _ := peerOf(t, a, b, protoGossip2)
	var list recordList
	list.Version = recordsVersion
	for i := range 20 {
		c := credential(t, b.id.Authority, wire.NodeID(fmt.Sprintf("m%d.b.example", i)), time.Now(), nil)
		list.Records = append(list.Records, forge(t, c, "127.0.0.1:9", time.Now(), nil, nil))
	}
	send(t, conn, frameState, encoded(t, &list))
	federationtest.Eventually(t, "it is counted", func() bool {
		return a.metric(t, "mlsfed_federation_gossip_dropped_total", "reason", dropRate) > 0
	})
	if n := len(a.records.ofOrganization(b.id.Domain)); n > 12 {
		t.Errorf("%d records were taken in", n)
	}
}

// TestOlderRecordIsAnswered holds that who sends a record which is older than the known one gets that.
func TestOlderRecordIsAnswered(t *testing.T) {
	a, b := federate(t)
	c, conn, in := peerOf(t, a, b, protoGossip2)
	now := time.Now()
	newer := forge(t, c, "127.0.0.1:10", now.Add(time.Minute), nil, nil)
	send(t, conn, frameRecord, newer)
	send(t, conn, frameRecord, forge(t, c, "127.0.0.1:11", now, nil, nil))
	if got := frameOf(t, conn, in, frameRecord); !bytes.Equal(got, newer) {
		t.Errorf("another record came: %x", got)
	}
}

// TestFirstReleaseLink holds that a node which knows only the first release's gossip gets none of the newer
// frames, gets news by memberlist's state, and is cut if it sends such a frame.
func TestFirstReleaseLink(t *testing.T) {
	a, b := federate(t)
	_, conn, in := peerOf(t, a, b, protoGossip)
	federationtest.Eventually(t, "the link is up", func() bool { return a.links.has("n9.b.example") })
	if !a.links.plain() || a.exchanges("n9.b.example") || !a.exchanges(b.id.Node) {
		t.Error("the link counts as another kind")
	}
	a.askSome()
	if err := a.announce(); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(federationtest.Patience))
	for {
		kind, payload, err := readFrame(in, 64<<10, nil, func(bool) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		if kind == frameAsk || kind == frameState {
			t.Fatalf("a frame of type %q", kind)
		}
		if kind == frameRecord && bytes.Equal(payload, a.ownRecord()) {
			break
		}
	}
	send(t, conn, frameAsk, encoded(t, sorted(entryOf(a, b.id.Domain))))
	for {
		if _, _, err := readFrame(in, 64<<10, nil, func(bool) error { return nil }); err != nil {
			var n net.Error
			if errors.As(err, &n) || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal("the link was not cut")
			}
			break
		}
	}
	if !a.log.Has("link down", "n9.b.example", "reason=malformed") {
		t.Error("no log line")
	}
}

// TestDigestsFind holds that a record is found by comparison where no news of it came: b admits c when all
// links are up, and has no seed.
func TestDigestsFind(t *testing.T) {
	a, b := federate(t)
	c := start(t, newOrganization(t, "c.example"))
	c.admitSeed(t, a)
	c.admit(t, b)
	a.admit(t, c)
	connected(t, a, c)
	b.admit(t, c)
	connected(t, a, b, c)
}

// TestRumours holds that news of a node goes out at once, that what follows waits, and that only the newest
// of it goes out.
func TestRumours(t *testing.T) {
	var s rumours
	now := time.Now()
	of := func(number int) rumour {
		return rumour{k: &known{VerifiedRecord: &organization.VerifiedRecord{Record: &organization.Record{Node: "n1.b.example", Number: wire.Time(number)}}}}
	}
	if send, later := s.pass(of(1), now, time.Second); !send || !later {
		t.Fatal("the first waits, or nobody looks after it")
	}
	for i := range 5 {
		if send, later := s.pass(of(2+i), now, time.Second); send || later {
			t.Fatal("a later one is sent at once, or two look after it")
		}
	}
	now = now.Add(time.Second)
	list, more := s.take(now, time.Second)
	if len(list) != 1 || list[0].k.Number != 6 || !more {
		t.Fatalf("%d wait, more %v", len(list), more)
	}
	now = now.Add(time.Second)
	if list, more = s.take(now, time.Second); len(list) != 0 || more || len(s.sent) != 0 {
		t.Fatalf("%d wait, more %v, %d remembered", len(list), more, len(s.sent))
	}
	if send, _ := s.pass(of(7), now, time.Second); !send {
		t.Error("news waits though nothing was sent of late")
	}
}
