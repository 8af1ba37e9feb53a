package federation

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/federation/internal/federationtest"
	"github.com/mlsfed/mlsfed/wire"
)

// Types and flags of RFC 9113 §6.
const (
	h2Headers      = 1
	h2Reset        = 3
	h2Settings     = 4
	h2Ping         = 6
	h2WindowUpdate = 8
	h2Continuation = 9
	h2Ack          = 1
)

func h2Frame(kind, flags byte, stream uint32, payload []byte) []byte {
	b := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags}
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// pinged reads frames until the answer to a ping, and fails when the connection ends before.
func pinged(c net.Conn, payload []byte) error {
	_ = c.SetReadDeadline(time.Now().Add(federationtest.Patience))
	for {
		var head [h2Header]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return err
		}
		b := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		if head[3] == h2Ping && head[4] == h2Ack && bytes.Equal(b, payload) {
			return nil
		}
	}
}

// TestLimitOfFrames: the frames of HTTP/2 that carry little are bounded for an organization, on all its connections
// together, whatever they are.
func TestLimitOfFrames(t *testing.T) {
	const burst = 30
	few := func(c *Config) { c.Limits.Frames, c.Limits.FrameBurst = 1e-6, burst }
	last := []byte("the last")
	for name, frame := range map[string][]byte{
		"pings":          h2Frame(h2Ping, 0, 0, make([]byte, 8)),
		"settings":       h2Frame(h2Settings, 0, 0, nil),
		"window updates": h2Frame(h2WindowUpdate, 0, 0, []byte{0, 0, 0, 1}),
		"unknown type":   h2Frame(0x20, 0, 0, nil),
	} {
		t.Run(name, func(t *testing.T) {
			a, b := start(t, newOrganization(t, "a.example"), few), start(t, newOrganization(t, "b.example"))
			a.admit(t, b)
			b.admitSeed(t, a)
			var first, second *peerConn
			federationtest.Eventually(t, "b reaches a", func() bool {
				var err error
				if first, err = b.dial(t.Context(), a.id.Node, protoCalls); err != nil {
					return false
				}
				second, err = b.dial(t.Context(), a.id.Node, protoCalls)
				return err == nil
			})
			defer first.Close()
			defer second.Close()
			half := append([]byte(preface), h2Frame(h2Settings, 0, 0, nil)...)
			half = append(half, bytes.Repeat(frame, burst/2-2)...)
			half = append(half, h2Frame(h2Ping, 0, 0, last)...)
			for _, c := range []*peerConn{first, second} { // half of the budget each
				if _, err := c.Write(half); err != nil {
					t.Fatal(err)
				}
				if err := pinged(c, last); err != nil {
					t.Fatalf("cut within the limit: %v", err)
				}
			}
			if _, err := first.Write(append(frame, h2Frame(h2Ping, 0, 0, last)...)); err != nil {
				t.Fatal(err)
			}
			if err := pinged(first, last); err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("over the limit: %v", err)
			}
			federationtest.Eventually(t, "it is counted", func() bool { return a.metric(t, "mlsfed_federation_cut_total", "reason", cutFrames) == 1 })
		})
	}
}

// TestFloodsWithinStreams: empty DATA, resets and continuations are counted like the others.
func TestFloodsWithinStreams(t *testing.T) {
	for name, flood := range map[string]func(n uint32) []byte{
		"empty data": func(uint32) []byte { return h2Frame(h2Data, 0, 1, nil) },
		"resets": func(n uint32) []byte {
			return append(h2Frame(h2Headers, 4, 2*n+3, callHead()), h2Frame(h2Reset, 0, 2*n+3, make([]byte, 4))...)
		},
		"continuations": func(n uint32) []byte { return h2Frame(h2Continuation, 0, 1, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			m := &meter{budget: &budget{}, node: "n1.b.example"}
			m.budget.frames, m.budget.raw = meterLimits(Limits{Frames: 1e-6, FrameBurst: 100, Bytes: 1e9})
			taken := 0
			for n := range uint32(1000) {
				if m.parse(flood(n)) != nil {
					break
				}
				taken++
			}
			if taken > 100 {
				t.Errorf("%d were taken, at most 100", taken)
			}
		})
	}
}

// callHead is a header block of a call: indexed fields of RFC 7541's static table.
func callHead() []byte { return []byte{0x83, 0x87, 0x84} }

// TestAnswersMayBeRead: a large answer is acknowledged with many small frames, which its bytes pay for.
func TestAnswersMayBeRead(t *testing.T) {
	large := func(context.Context, wire.NodeID, []byte) (any, error) { return make([]byte, 2<<20-100), nil }
	a, b := federate(t, func(c *Config) {
		c.Limits.Frames, c.Limits.FrameBurst = 1e-6, 120
		c.Handlers = map[wire.Method]Handler{"large": large}
	})
	for range 10 {
		var answer []byte
		if err := b.Call(t.Context(), a.id.Node, "large", nil, &answer); err != nil || len(answer) < 2<<20-100 {
			t.Fatalf("%d bytes, %v", len(answer), err)
		}
	}
	if cut := a.metric(t, "mlsfed_federation_cut_total", "reason", cutFrames); cut != 0 {
		t.Errorf("%v connections were cut", cut)
	}
}

// TestBytesOfRefusedCallsWait: what is sent on a connection for nothing is read as slowly as calls may be.
func TestBytesOfRefusedCallsWait(t *testing.T) {
	a, b := federate(t, func(c *Config) { c.Limits.Bytes, c.Limits.ByteBurst = 4<<20, 1<<20 })
	s, err := b.dial(t.Context(), a.id.Node, protoCalls)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, _ = s.Write(append([]byte(preface), h2Frame(h2Settings, 0, 0, nil)...))
	junk := h2Frame(0x20, 0, 0, make([]byte, 16<<10)) // a type that a receiver must ignore (RFC 9113 §4.1)
	for range 256 {
		if _, err := s.Write(junk); err != nil {
			t.Fatal(err)
		}
	}
	federationtest.Eventually(t, "it is counted", func() bool { return a.metric(t, "mlsfed_federation_reads_slowed_total") > 0 })
}

// FuzzMeterHTTP2: no bytes end the meter, and no cut changes what it takes.
func FuzzMeterHTTP2(f *testing.F) {
	f.Add(append([]byte(preface), h2Frame(h2Ping, 0, 0, make([]byte, 8))...), 30)
	f.Add(append([]byte(preface), h2Frame(h2Data, 0, 1, make([]byte, 2000))...), 40)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		state := func(parts ...[]byte) [3]int64 {
			m := &meter{skip: h2Preface, budget: &budget{}}
			m.budget.frames, m.budget.raw = meterLimits(Limits{})
			m.credit.Store(1 << 40)
			for _, p := range parts {
				if err := m.parse(p); err != nil {
					t.Fatal(err)
				}
			}
			return [3]int64{m.credit.Load(), int64(m.skip), int64(m.have)}
		}
		cut = min(max(cut, 0), len(b))
		if whole, parts := state(b), state(b[:cut], b[cut:]); whole != parts {
			t.Errorf("%v, cut at %d: %v", whole, cut, parts)
		}
	})
}
