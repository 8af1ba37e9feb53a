package admission

import (
	"bytes"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/internal/tokenbucket"
)

// house is a Controller with a clock and a log in a test's hands.
type house struct {
	*Controller
	at  time.Time
	log bytes.Buffer
}

func newHouse(l Limits) *house {
	h := &house{at: time.Unix(1_000_000, 0)}
	h.Controller = New(l, func() time.Time { return h.at }, slog.New(slog.NewTextHandler(&h.log, nil)))
	return h
}

func address(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }

// fail has a connection of an address fail, and reports whether it was let in.
func (h *house) fail(a netip.Addr) bool {
	v, why := h.Open(a)
	if why != "" {
		return false
	}
	v.Failed()
	return true
}

func (h *house) open(t *testing.T, a netip.Addr) *Connection {
	t.Helper()
	v, why := h.Open(a)
	if why != "" {
		t.Fatalf("%v is not let in: %s", a, why)
	}
	return v
}

var failing = Limits{Failures: tokenbucket.Rate{Burst: 3, Every: time.Hour}, ShutFirst: time.Second, ShutLast: 4 * time.Second}

// TestLimitOfFailures: three failures are free, the fourth shuts the address out, for a time that doubles up to the
// longest, and begins again after a calm.
func TestLimitOfFailures(t *testing.T) {
	h := newHouse(failing)
	for i := range 4 {
		if !h.fail(address(1)) {
			t.Fatalf("failure %d was not even tried", i+1)
		}
	}
	for _, shut := range []time.Duration{1, 2, 4, 4} {
		h.at = h.at.Add(shut*time.Second - 1)
		if _, why := h.Open(address(1)); why != Shut {
			t.Fatalf("let in a moment before %d s are over: %q", shut, why)
		}
		h.open(t, address(2)).Through() // another one is not concerned
		h.at = h.at.Add(1)
		if !h.fail(address(1)) {
			t.Fatalf("shut out after %d s", shut)
		}
	}
	h.at = h.at.Add(4*time.Second + 4*time.Second + 1)
	h.fail(address(1))
	h.at = h.at.Add(time.Second)
	h.open(t, address(1))
}

// TestFailuresAreForgotten: with time, and when Forgive is called.
func TestFailuresAreForgotten(t *testing.T) {
	h := newHouse(failing)
	for range 4 {
		h.fail(address(1))
	}
	h.Forgive()
	for i := range 4 {
		if !h.fail(address(1)) {
			t.Fatalf("failure %d after the pardon was not even tried", i+1)
		}
	}
	h.at = h.at.Add(3 * time.Hour)
	for i := range 4 {
		if !h.fail(address(1)) {
			t.Fatalf("failure %d, hours later, was not even tried", i+1)
		}
	}
}

// TestOneFailureOfAConnection: what is said twice of one connection, or after it has proved itself, counts
// once.
func TestOneFailureOfAConnection(t *testing.T) {
	h := newHouse(failing)
	v := h.open(t, address(1))
	for range 10 {
		v.Failed()
	}
	w := h.open(t, address(2))
	w.Proved()
	for range 10 {
		w.Failed()
	}
	for _, a := range []int{1, 2} {
		for i := range 2 {
			if !h.fail(address(a)) {
				t.Fatalf("address %d: failure %d was not even tried", a, i)
			}
		}
	}
	if h.unproved != 0 {
		t.Errorf("%d are counted that have ended", h.unproved)
	}
}

// TestLimitOfSlowed: an address with somebody known is slowed and not shut out, until it is not known any more.
func TestLimitOfSlowed(t *testing.T) {
	l := failing
	l.Slowed, l.Known = tokenbucket.Rate{Burst: 2, Every: time.Second}, time.Minute
	h := newHouse(l)
	h.open(t, address(1)).Proved()
	for range 3 {
		h.fail(address(1))
	}
	for _, want := range []bool{true, true, false} {
		if got := h.fail(address(1)); got != want {
			t.Fatalf("let in: %v, wanted %v", got, want)
		}
	}
	h.at = h.at.Add(time.Second)
	for _, want := range []bool{true, false} {
		if got := h.fail(address(1)); got != want {
			t.Fatalf("a second later, let in: %v, wanted %v", got, want)
		}
	}
	h.at = h.at.Add(time.Minute)
	h.fail(address(1)) // which is not known any more
	if h.fail(address(1)) {
		t.Fatal("it is not shut out")
	}
	h.at = h.at.Add(time.Second)
	h.open(t, address(1)).Proved()
	h.open(t, address(1))
}

// TestLimitOfUnproved: three quarters of the room are for anybody, the last only for known addresses.
func TestLimitOfUnproved(t *testing.T) {
	h := newHouse(Limits{Unproved: 8})
	h.open(t, address(0)).Proved()
	var in []*Connection
	for i := range 6 {
		in = append(in, h.open(t, address(i+1)))
	}
	if _, why := h.Open(address(7)); why != Overloaded {
		t.Fatalf("the seventh stranger: %q", why)
	}
	h.open(t, address(0))
	v := h.open(t, address(0))
	if _, why := h.Open(address(0)); why != Overloaded {
		t.Fatalf("the ninth: %q", why)
	}
	v.Through()
	v.Through()
	in[0].Failed()
	in[1].Proved()
	h.open(t, address(7))
	if _, why := h.Open(address(8)); why != Overloaded {
		t.Fatalf("more were let in than have left: %q", why)
	}
}

// TestLimitOfRemembered: memory is bounded, and strangers do not push out who is known.
func TestLimitOfRemembered(t *testing.T) {
	h := newHouse(Limits{Addresses: 64, Failures: tokenbucket.Rate{Burst: 1, Every: time.Hour}})
	h.open(t, address(0)).Proved()
	for i := range 10_000 {
		h.fail(address(1 + i))
		if len(h.by) > 64 {
			t.Fatalf("%d are remembered", len(h.by))
		}
	}
	if h.by[address(0)] == nil {
		t.Error("the known address is forgotten")
	}
}

// TestOneLineAMinute holds what the log has of an address.
func TestOneLineAMinute(t *testing.T) {
	l := failing
	l.ShutFirst, l.ShutLast = time.Hour, time.Hour
	h := newHouse(l)
	for range 1000 {
		h.fail(address(1))
	}
	h.at = h.at.Add(time.Minute)
	for range 1000 {
		h.fail(address(1))
	}
	if n := strings.Count(h.log.String(), "\n"); n != 2 || !strings.Contains(h.log.String(), "10.0.0.1") || !strings.Contains(h.log.String(), "refused=996") {
		t.Errorf("%d lines:\n%s", n, h.log.String())
	}
}

// TestAbort: the other side sees a reset, and so nothing waits for it here.
func TestAbort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	far, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	near, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if a := AddressOf(near); a != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("it comes from %v", a)
	}
	Abort(near)
	if _, err := far.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("read: %v, wanted a reset", err)
	}
}
