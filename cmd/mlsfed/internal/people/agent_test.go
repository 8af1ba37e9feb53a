package people

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/people/peopletest"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/traffic"
	"github.com/mlsfed/mlsfed/wire"
)

// held returns bob's device, held by this process, and a function that connects to the holder.
func held(t *testing.T) (p *Person, id wire.ConversationID, dial func() *agentConn) {
	t.Helper()
	var meter *traffic.Meter
	ctx, _, bob, id := peopletest.Pair(t, func(o *client.Options) {
		meter = traffic.New(o.Transport)
		o.Transport = meter
	})
	if err := meter.Settle(ctx, time.Minute); err != nil { // the device has begun
		t.Fatal(err)
	}
	ctx = cli.WithRoot(ctx, testRoot)
	prof := &profile{dir: t.TempDir(), profileSettings: profileSettings{Device: "mimi://a.example/d/bob/phone"}}
	p = &Person{Device: bob, DeviceID: prof.Device, profile: prof, Options: &Options{Long: true, Timeout: time.Minute}, traffic: meter, out: io.Discard, notes: &notes{to: io.Discard}}
	ctx, cancel := context.WithCancelCause(ctx)
	h, err := p.hold(ctx, cancel)
	if err != nil {
		t.Fatal(err)
	}
	p.holder = h
	t.Cleanup(func() {
		if p.holder != nil {
			h.end()
		}
		cancel(nil)
	})
	return p, id, func() *agentConn {
		conn, err := dialHolder(ctx, prof)
		if err != nil || conn == nil {
			t.Fatalf("%v, %v", conn, err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
}

// asked sends a first frame and returns the answer.
func asked(t *testing.T, conn *agentConn, f *agentFrame) *agentFrame {
	t.Helper()
	if err := conn.write(f); err != nil {
		t.Fatal(err)
	}
	f, err := conn.readWithin(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func command(args ...string) *agentFrame {
	r := &agentRequest{Version: agentVersion, Folder: []byte("/")}
	for _, a := range args {
		r.Arguments = append(r.Arguments, []byte(a))
	}
	return &agentFrame{Kind: agentRun, Request: r}
}

// TestHolderRefuses checks that a holder refuses a request that is not a command of this version for this device, and continues.
func TestHolderRefuses(t *testing.T) {
	_, id, dial := held(t)
	for _, args := range [][]string{{"serve"}, {"login", "mlsfed://x/"}, {"logout", "--yes"}, {"agent"}, {"demo"}, {"nothing"}, {}, {"--version"}, {"help", "serve"}} {
		if f := asked(t, dial(), command(args...)); f.Kind != agentRefused || f.Again || !strings.Contains(f.Text, "another process cannot run") {
			t.Errorf("%q: %+v", args, f)
		}
	}
	newer := command("list", "--offline")
	newer.Request.Version++
	if f := asked(t, dial(), newer); f.Kind != agentRefused || f.Text != errVersions.Error() {
		t.Errorf("another version: %+v", f)
	}
	conn := dial()
	if _, err := conn.Conn.Write([]byte("GET / HTTP/1.1\r\n")); err != nil {
		t.Fatal(err)
	}
	if f, err := conn.readWithin(time.Minute); err != nil || f.Kind != agentRefused {
		t.Errorf("no frame: %+v, %v", f, err)
	}
	for _, first := range []*agentFrame{{Kind: agentInput}, {Kind: agentEnded}} {
		conn := dial()
		if err := conn.write(first); err != nil {
			t.Fatal(err)
		}
		if f, err := conn.readWithin(time.Minute); !errors.Is(err, io.EOF) {
			t.Errorf("a first frame of kind %d: %+v, %v", first.Kind, f, err)
		}
	}
	if f := asked(t, dial(), command("list", "--offline")); f.Kind != agentTaken {
		t.Errorf("afterwards: %+v of %v", f, id)
	}
}

// TestHolderServesSoMany checks that a holder serves a bounded number of commands at a time, and that a place is free
// when a caller has gone.
func TestHolderServesSoMany(t *testing.T) {
	p, id, dial := held(t)
	var conns []*agentConn
	for range maxGuests {
		conn := dial()
		if f := asked(t, conn, command("read", id.String(), "--follow")); f.Kind != agentTaken {
			t.Fatalf("guest %d: %+v", len(conns), f)
		}
		conns = append(conns, conn)
	}
	if f := asked(t, dial(), command("list")); f.Kind != agentRefused || !strings.Contains(f.Text, "64 commands use this device") {
		t.Errorf("one more: %+v", f)
	}
	if err := conns[0].Close(); err != nil {
		t.Fatal(err)
	}
	// A caller that sends a frame that was not asked for is cut off.
	for range 2 {
		if err := conns[1].write(&agentFrame{Kind: agentInput, Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	for {
		p.holder.mu.Lock()
		n := len(p.holder.guests)
		p.holder.mu.Unlock()
		if n == maxGuests-2 {
			break
		}
		<-p.holder.changed
	}
	// Long commands continue in their own processes when the holder ends, and get the position to continue from.
	shown, at := "", Position{}
	until := func(over func(f *agentFrame) bool) {
		for {
			f, err := conns[2].readWithin(time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			shown += string(f.Data)
			switch f.Kind {
			case agentPosition:
				at = *f.Position
			case agentFlush:
				if err := conns[2].write(&agentFrame{Kind: agentFlushed}); err != nil {
					t.Fatal(err)
				}
			}
			if over(f) {
				return
			}
		}
	}
	until(func(f *agentFrame) bool { return f.Kind == agentPosition })
	if _, err := p.SendText(t.Context(), id, "hello"); err != nil {
		t.Fatal(err)
	}
	until(func(*agentFrame) bool { return strings.Contains(shown, "hello") && at.Next == 1 })
	for _, other := range conns[3:] { // these answer nothing
		if err := other.Close(); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan struct{})
	go func(h *holder) {
		h.end()
		close(ended)
	}(p.holder)
	until(func(f *agentFrame) bool { return f.Kind == agentEnded && f.Again })
	<-ended
	if at != (Position{Conversation: id.String(), Next: 1}) || strings.Count(shown, "hello") != 1 {
		t.Errorf("it goes on at %+v, and has shown %q", at, shown)
	}
	p.holder = nil
}

func FuzzAgentFrame(f *testing.F) {
	for _, frame := range []*agentFrame{
		command("send", "Lunch", "text"), {Kind: agentInput, Data: []byte("x")}, {Kind: agentEnded, Code: 1}, {Kind: agentSize, Width: 80, Height: 24},
		{Kind: agentExecute, Execute: &agentProgram{Command: []byte("cat"), Environment: [][]byte{[]byte("A=b")}, Capture: true}},
		{Kind: agentPosition, Position: &Position{Conversation: "5f", Next: 3, Draft: "x"}}, {Kind: agentRefused, Text: "no", Again: true}, {Kind: agentFlushed},
	} {
		b, err := wire.Encode(frame)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := readAgentFrame(bytes.NewReader(b))
		if err != nil {
			return
		}
		again, err := wire.Encode(frame)
		if err != nil || !bytes.Equal(again, b[4:4+len(again)]) || int(binary.BigEndian.Uint32(b)) != len(again) {
			t.Fatalf("%x is encoded as %x, %v", b, again, err)
		}
		for n := range 4 + len(again) {
			if _, err := readAgentFrame(bytes.NewReader(b[:n])); err == nil {
				t.Fatalf("%d bytes of %x are a frame", n, b)
			}
		}
	})
}

// TestFrameHasAnEnd checks that the largest frame passes, and that a frame with one byte more does not.
func TestFrameHasAnEnd(t *testing.T) {
	over := len(mustEncode(t, &agentFrame{Kind: agentOut, Data: make([]byte, maxAgentFrame)})) - maxAgentFrame
	for extra, ok := range map[int]bool{0: true, 1: false} {
		b := mustEncode(t, &agentFrame{Kind: agentOut, Data: make([]byte, maxAgentFrame-over+extra)})
		f, err := readAgentFrame(bytes.NewReader(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)))
		if (err == nil) != ok || ok && len(f.Data) != maxAgentFrame-over {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
}

func mustEncode(t *testing.T, v any) []byte {
	t.Helper()
	b, err := wire.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestEachSeesOwnMessages checks that Each sees own messages that another consumer of the device sends.
func TestEachSeesOwnMessages(t *testing.T) {
	ctx, alice, _, id := peopletest.Pair(t)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	begun, seen := make(chan struct{}), make(chan string, 4)
	go func() {
		_ = alice.Each(ctx, id, "bot", func(_ context.Context, m *client.Message) error { // ends with ctx
			if m.Number == 0 {
				close(begun)
			}
			seen <- m.Content.Text
			return nil
		})
	}()
	if _, err := alice.SendText(ctx, id, "first"); err != nil {
		t.Fatal(err)
	}
	<-begun
	if _, err := alice.SendText(ctx, id, "second"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"first", "second"} {
		if got := <-seen; got != want {
			t.Errorf("%q, wanted %q", got, want)
		}
	}
}
