package federation

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/federation/internal/federationtest"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/wire"
)

// TestRecordsSurvive holds that a restarted node finds others without any seed.
func TestRecordsSurvive(t *testing.T) {
	a, b := federate(t)
	b = b.again(t) // b never had a seed, and a's list still names b's old address
	connected(t, a, b)
	a.end()
	if err := os.Remove(filepath.Join(a.peersFolder(), "b.example.json")); err != nil {
		t.Fatal(err)
	}
	p, err := organization.OpenPeers(a.peersFolder())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Add(b.bundle(t, false)); err != nil {
		t.Fatal(err)
	}
	a = start(t, a.dir, a.edit...)
	connected(t, a, b)
}

// TestRecordsDamagedFile holds that a node starts without what it knew.
func TestRecordsDamagedFile(t *testing.T) {
	a, b := federate(t)
	a.end()
	if err := os.WriteFile(filepath.Join(a.dir, recordsFile), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	a = start(t, a.dir, a.edit...)
	if !a.log.Has("starting without known node records") {
		t.Error("no log line")
	}
	connected(t, a, b)
}

// TestOwnRecordLost holds that a node is found although it lost its data and its clock is behind its own latest
// record.
func TestOwnRecordLost(t *testing.T) {
	clock := federationtest.NewClock()
	now := clock.Now()
	init := func(o *organization.InitOptions) { o.Now = now.Add(-24 * time.Hour) }
	a := start(t, newOrganization(t, "a.example", init), func(c *Config) { c.Clock = clock })
	b := start(t, newOrganization(t, "b.example", init), func(c *Config) { c.Clock = clock })
	a.admitSeed(t, b)
	b.admitSeed(t, a)
	connected(t, a, b)
	b.end()
	if err := os.Remove(filepath.Join(b.dir, recordsFile)); err != nil {
		t.Fatal(err)
	}
	before := federationtest.NewClock()
	before.Advance(-time.Hour)
	b = start(t, b.dir, func(c *Config) { c.Clock = before })
	connected(t, a, b)
	if !b.log.Has("others hold a newer record of this node") {
		t.Error("no log line")
	}
}

// TestRecordsLimits holds the bounds on records at their edges.
func TestRecordsLimits(t *testing.T) {
	b := start(t, newOrganization(t, "b.example"))
	c := credential(t, b.id.Authority, "n9.b.example", time.Now(), nil)
	record := forge(t, c, "127.0.0.1:9", time.Now(), nil, nil)
	limited := func(l Limits) Config {
		cfg := b.cfg
		cfg.Limits = l
		return cfg
	}
	for size, want := range map[int]string{len(record): "", len(record) - 1: "oversized"} {
		s := newRecords(limited(Limits{Record: size, Nodes: 1}), b.verifier)
		if _, err := s.add(record); reasonOf(err) != want {
			t.Errorf("limit %d: %v", size, err)
		}
	}
	s := newRecords(limited(Limits{Record: 2 << 10, Nodes: 2}), b.verifier)
	for i, want := range []string{"", "", recordTooMany} {
		n := wire.NodeID(fmt.Sprintf("n%d.b.example", i))
		if _, err := s.add(forge(t, credential(t, b.id.Authority, n, time.Now(), nil), "127.0.0.1:9", time.Now(), nil, nil)); reasonOf(err) != want {
			t.Errorf("node %d: %v", i, err)
		}
	}
	if len(record) > 512 {
		t.Logf("a record has %d bytes", len(record))
	}
}

func reasonOf(err error) string {
	var r *organization.Refusal
	if errors.As(err, &r) {
		return r.Reason
	}
	return ""
}

// TestAdopt holds that both sides keep the same of two connections that they opened at once, and that a
// node which was started again gets its new one.
func TestAdopt(t *testing.T) {
	fresh := func(n wire.NodeID, dialed bool, instance uint64) *link {
		return &link{peerConn: &peerConn{below: &conn{Conn: nowhere{}, home: newConns(1)}, node: n}, dialed: dialed, instance: instance, gone: make(chan struct{})}
	}
	for _, first := range []bool{true, false} { // which of the two came first
		a, b := &links{self: "n1.a.example", by: map[wire.NodeID]*link{}}, &links{self: "n1.b.example", by: map[wire.NodeID]*link{}}
		for _, byA := range []bool{first, !first} {
			a.adopt(fresh("n1.b.example", byA, 1))
			b.adopt(fresh("n1.a.example", !byA, 2))
		}
		if !a.by["n1.b.example"].dialed || b.by["n1.a.example"].dialed {
			t.Errorf("the connection of the smaller name did not stay: first by it %v", first)
		}
		if !a.adopt(fresh("n1.b.example", false, 3)) {
			t.Error("the link of the new run was not taken")
		}
	}
}

// nowhere is a connection of which nothing but Close is called.
type nowhere struct{ net.Conn }

func (nowhere) Close() error { return nil }

// TestFrames holds the edges of a frame.
func TestFrames(t *testing.T) {
	no := func(bool) error { return nil }
	read := func(b []byte) (byte, []byte, error) {
		return readFrame(bufio.NewReader(bytes.NewReader(b)), 8, nil, no)
	}
	kind, payload, err := read(appendFrame(nil, framePacket, make([]byte, 8)))
	if err != nil || kind != framePacket || len(payload) != 8 {
		t.Errorf("largest: %q, %d bytes, %v", kind, len(payload), err)
	}
	if _, _, err := read(appendFrame(nil, framePacket, make([]byte, 9))); !errors.Is(err, wire.TooLarge) {
		t.Errorf("too large: %v", err)
	}
	if _, _, err := read([]byte{0, 0, 0, 0, framePacket}); !errors.Is(err, wire.TooLarge) {
		t.Errorf("without a type: %v", err)
	}
	whole := appendFrame(nil, framePacket, []byte("1234"))
	for n := range whole {
		if _, _, err := read(whole[:n]); err == nil {
			t.Errorf("%d bytes of a frame were read as one", n)
		}
	}
}

func FuzzFrame(f *testing.F) {
	f.Add(appendFrame(nil, framePacket, []byte("payload")))
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, payload, err := readFrame(bufio.NewReader(bytes.NewReader(b)), 1024, nil, func(bool) error { return nil })
		if err != nil {
			return
		}
		if again := appendFrame(nil, kind, payload); !bytes.HasPrefix(b, again) {
			t.Fatalf("%x is made again as %x", b, again)
		}
	})
}

// FuzzRecordList decodes the hello of a link and lists of records.
func FuzzRecordList(f *testing.F) {
	id, err := organization.LoadIdentity(newOrganization(f, "a.example"))
	if err != nil {
		f.Fatal(err)
	}
	raw, err := id.SignRecord("127.0.0.1:9", wire.TimeOf(time.Now()), false)
	if err != nil {
		f.Fatal(err)
	}
	for _, v := range []any{&hello{Version: helloVersion, Instance: 5, Record: raw}, &recordList{Version: recordsVersion, Records: [][]byte{raw}}} {
		b, err := wire.Encode(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, v := range []any{new(hello), new(recordList)} {
			if wire.Decode(b, 64<<10, v) != nil {
				continue
			}
			if again, err := wire.Encode(v); err != nil || !bytes.Equal(again, b) {
				t.Fatalf("%x is made again as %x", b, again)
			}
		}
	})
}
