package federation

import (
	"maps"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// faultProxy forwards TCP to a target that may move, and does to it what networks do: it delays, cuts,
// swallows what was sent, and damages it.
type faultProxy struct {
	listener net.Listener
	faults   float64 // of the chunks forwarded
	tasks    sync.WaitGroup

	mu     sync.Mutex // guards what follows
	target string
	conns  map[net.Conn]struct{} // nil when it is closed
	counts map[string]int
}

// faulted counts the faults so far, by their kind.
func (p *faultProxy) faulted() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.counts)
}

func newProxy(t testing.TB, faults float64) *faultProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &faultProxy{listener: l, faults: faults, conns: make(map[net.Conn]struct{}), counts: make(map[string]int)}
	p.tasks.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *faultProxy) address() string { return p.listener.Addr().String() }

func (p *faultProxy) aim(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

func (p *faultProxy) close() {
	p.listener.Close()
	p.mu.Lock()
	conns := p.conns
	p.conns = nil
	p.mu.Unlock()
	for c := range conns {
		c.Close()
	}
	p.tasks.Wait()
}

func (p *faultProxy) accept() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.tasks.Go(func() { p.join(in) })
	}
}

// join forwards in both directions until either ends.
func (p *faultProxy) join(in net.Conn) {
	defer in.Close()
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	out, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer out.Close()
	if !p.keep(in) || !p.keep(out) {
		return
	}
	defer p.drop(in, out)
	done := make(chan struct{}, 2)
	p.tasks.Go(func() { p.pump(in, out); in.Close(); out.Close(); done <- struct{}{} })
	p.tasks.Go(func() { p.pump(out, in); in.Close(); out.Close(); done <- struct{}{} })
	<-done
	<-done
}

func (p *faultProxy) pump(from, to net.Conn) {
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		if err != nil || !p.forward(to, buf[:n]) {
			return
		}
	}
}

// forward writes a chunk on, or does not.
func (p *faultProxy) forward(to net.Conn, b []byte) bool {
	if rand.Float64() < p.faults {
		fault := []string{"delay", "delay", "cut", "cut in the middle", "swallow", "damage"}[rand.IntN(6)]
		p.mu.Lock()
		p.counts[fault]++
		p.mu.Unlock()
		switch fault {
		case "delay":
			time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
		case "cut":
			return false
		case "cut in the middle":
			_, _ = to.Write(b[:rand.IntN(len(b))])
			return false
		case "swallow":
			return true
		case "damage":
			b[rand.IntN(len(b))] ^= 1 << rand.IntN(8)
		}
	}
	_, err := to.Write(b)
	return err == nil
}

func (p *faultProxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns == nil {
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *faultProxy) drop(list ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range list {
		delete(p.conns, c)
	}
}
