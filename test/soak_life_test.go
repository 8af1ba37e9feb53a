package test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// life is one process of a device, with a store that can fail at a write and a network that can be lost.
type life struct {
	client.Store
	client.Transport
	watched chan struct{} // closed when its events are watched: before that it connects only to enrol
	watch   func()        // closes it
	ended   context.Context
	over    context.CancelFunc

	mu    sync.Mutex // guards what follows
	fate  fate
	died  chan struct{}
	down  bool
	conns map[*cord]struct{}
}

// fate is what happens to a store at its next write.
type fate uint8

const (
	lives      fate = iota
	diesBefore      // at its next write, which is not made
	diesAfter       // at its next write, which is made without an answer
	dead
)

var errKilled = errors.New("the process was killed, as the test wanted")

func newLife() *life {
	l := &life{watched: make(chan struct{}), died: make(chan struct{}), conns: make(map[*cord]struct{})}
	l.watch = sync.OnceFunc(func() { close(l.watched) })
	l.ended, l.over = context.WithCancel(context.Background())
	return l
}

// apply puts the life between a device and its store and network.
func (l *life) apply(o *client.Options) {
	l.Store, l.Transport = o.Store, o.Transport
	o.Store, o.Transport = l, l
	o.Limits.KeyPackages = 10 // KeyPackages are much of the cost of founding
}

// Apply implements client.Store.
func (l *life) Apply(b mlscore.Batch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch l.fate {
	case lives:
		return l.Store.Apply(b)
	case diesAfter:
		if err := l.Store.Apply(b); err != nil {
			return err
		}
	}
	l.die()
	return errKilled
}

// die ends all writing. The caller holds the mutex.
func (l *life) die() {
	if l.fate != dead {
		l.fate = dead
		close(l.died)
	}
}

// kill ends a process at its next write, or soon if there is none.
func (l *life) kill(ctx context.Context, f fate) {
	l.mu.Lock()
	if l.fate != dead { // another goroutine has killed it
		l.fate = f
	}
	l.mu.Unlock()
	select {
	case <-l.died:
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.die()
}

// cord is a connection that can be cut.
type cord struct {
	client.Conn
	l    *life
	once sync.Once
	err  error
}

func (c *cord) Close() error {
	c.once.Do(func() {
		c.l.mu.Lock()
		delete(c.l.conns, c)
		c.l.mu.Unlock()
		c.err = c.Conn.Close()
	})
	return c.err
}

var errNoNetwork = errors.New("no network, as the test wanted")

// Dial implements client.Transport.
func (l *life) Dial(ctx context.Context) (client.Conn, error) {
	select {
	case <-l.watched:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if l.offline() {
		return nil, errNoNetwork
	}
	conn, err := l.Transport.Dial(ctx)
	if err != nil {
		return nil, err
	}
	c := &cord{Conn: conn, l: l}
	l.mu.Lock()
	l.conns[c] = struct{}{}
	down := l.down
	l.mu.Unlock()
	if down {
		return nil, errors.Join(errNoNetwork, c.Close())
	}
	return c, nil
}

func (l *life) offline() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.down
}

// loseNetwork cuts the connection, and refuses new ones until the network is back.
func (l *life) loseNetwork(down bool) {
	l.mu.Lock()
	l.down = down
	var cut []*cord
	for c := range l.conns {
		cut = append(cut, c)
	}
	l.mu.Unlock()
	if !down {
		return
	}
	for _, c := range cut {
		_ = c.Close() // the connection must end
	}
}

// disturbDevices ends devices as a lost process does, restarts them, and takes their network away.
func (s *soak) disturbDevices(ctx context.Context, stream uint64) {
	r := s.random(10 + stream)
	for pause(ctx, time.Duration(500+r.IntN(1500))*time.Millisecond) {
		k := s.devices[r.IntN(len(s.devices))]
		k.mu.RLock()
		l := k.life
		k.mu.RUnlock()
		switch n := r.IntN(10); {
		case n < 4:
			l.kill(ctx, []fate{diesBefore, diesAfter}[r.IntN(2)])
			s.restart(ctx, r, k)
			s.count.kills.Add(1)
		case n < 6:
			s.restart(ctx, r, k)
			s.count.restarts.Add(1)
		default:
			l.loseNetwork(true)
			pause(ctx, time.Duration(r.IntN(5000))*time.Millisecond)
			l.loseNetwork(false)
			s.count.offline.Add(1)
		}
	}
}

// restart ends a device's process, drops its memory, and opens the device again from its folder.
func (s *soak) restart(ctx context.Context, r *rand.Rand, k *soaker) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := s.c.StopDevice(k.device); err != nil {
		s.t.Errorf("%v: %v", k, err)
	}
	k.life.over()
	pause(ctx, time.Duration(r.IntN(2000))*time.Millisecond)
	next := newLife()
	d, err := s.c.Resume(k.org, k.user, k.name, next.apply)
	if err != nil {
		s.t.Errorf("%v does not come back: %v", k, err)
		next.over()
		return
	}
	k.device, k.life = d, next
	s.watch(k)
	if m := k.doubt; m != nil {
		k.doubt = nil
		s.settleDoubt(k, m)
	}
}

// settleDoubt finds out whether a message was written before its sender was killed. It checks that a written message
// is sent, and that a message which SendText had accepted earlier is not forgotten.
func (s *soak) settleDoubt(k *soaker, m *room) {
	have, err := heard(s.t.Context(), k.device, m.id)
	if err != nil {
		s.t.Errorf("%v: %v", k, err)
		return
	}
	s.count.inDoubt.Add(1)
	sent := m.sent[k.index].Load()
	switch int64(len(have[k.index])) {
	case sent:
	case sent + 1:
		m.sent[k.index].Add(1)
		s.count.inDoubtAndKept.Add(1)
	default:
		s.t.Errorf("%v has sent %d messages and knows of %d after it was killed", k, sent, len(have[k.index]))
	}
}

// disturbNodes restarts nodes in order, and gives them a process of their own, in which they are killed.
func (s *soak) disturbNodes(ctx context.Context) {
	r := s.random(2)
	n := 0
	for pause(ctx, time.Duration(4000+r.IntN(6000))*time.Millisecond) {
		d := soakDomains[r.IntN(len(soakDomains))]
		if n++; n%2 == 0 {
			for d = range s.nodes { // a node that can be killed
				break
			}
		}
		if err := s.disturbNode(ctx, r, d); err != nil {
			s.t.Errorf("%s: %v", d, err)
			return
		}
	}
}

func (s *soak) disturbNode(ctx context.Context, r *rand.Rand, d wire.Domain) error {
	p := s.nodes[d]
	delete(s.nodes, d)
	killed := p != nil && r.IntN(8) > 0
	switch {
	case killed:
		p.kill()
		s.count.nodeKills.Add(1)
	case p != nil:
		p.stop(s.t)
		s.count.nodeRestarts.Add(1)
	default:
		if err := s.c.Stop(d); err != nil {
			return err
		}
		s.count.nodeRestarts.Add(1)
	}
	pause(ctx, time.Duration(r.IntN(3000))*time.Millisecond)
	if p != nil && !killed {
		return s.c.Start(s.t.Context(), d)
	}
	p, err := launch(s.c.File(d))
	if err == nil {
		s.nodes[d] = p
	}
	return err
}

// openFiles counts the open file descriptors of this process by their kind; it returns nothing if the system does not
// report them.
func openFiles(t *testing.T) map[string]int {
	t.Helper()
	if runtime.GOOS != "linux" {
		return nil
	}
	const folder = "/proc/self/fd"
	list, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	number := regexp.MustCompile(`\d+`)
	files := make(map[string]int)
	for _, f := range list {
		name, err := os.Readlink(filepath.Join(folder, f.Name()))
		if err != nil {
			continue // the one of this folder
		}
		if regexp.MustCompile(`^(socket|pipe|anon_inode):`).MatchString(name) {
			name = number.ReplaceAllString(name, "") // files of the same kind count as equal
		}
		files[name]++
	}
	return files
}
