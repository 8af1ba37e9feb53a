package test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// TestLongSoak runs 60 devices of three organizations in 30 conversations for a while: they talk, rotate keys, race,
// come and go, leave and are restored, lose their connection and their process; nodes are killed and restarted. It
// checks that at the end no message is missing or duplicated, each sender's order is kept, all members of a
// conversation agree, and no goroutine or file is left.
func TestLongSoak(t *testing.T) {
	var last time.Duration
	switch os.Getenv("MLSFED_LONG") {
	case "short":
		last = time.Minute
	case "full":
		last = 10 * time.Minute
	default:
		t.Skip("lives for minutes: set MLSFED_LONG to short or full")
	}
	const devices, rooms = 60, 30
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("MLSFED_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("MLSFED_SEED=%d chooses who does what", seed)
	files := openFiles(t)
	before := goleak.IgnoreCurrent()
	c, err := cluster.New(t.TempDir(), cluster.Options{Edit: func(cfg *config.Config) {
		for _, burst := range []*int{&cfg.Directory.ClaimBurst, &cfg.Directory.PairBurst, &cfg.Directory.UserBurst, &cfg.Directory.LastResortBurst} {
			*burst = 1 << 20
		}
		cfg.Gateway.EnrolPerMinute, cfg.Gateway.ConnectPerSec = 1e6, 1e4 // all come from one address
	}}, soakDomains...)
	if err != nil {
		t.Fatal(err)
	}
	s := &soak{t: t, c: c, seed: seed, nodes: make(map[wire.Domain]*process), outcomes: make(map[string]int)}
	defer s.end(before, files)
	if err := c.StartAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	s.enrol(devices)
	s.found(rooms)
	s.count.commits.Store(0) // commits of the founding do not count
	s.count.joins.Store(0)
	founded := time.Now()
	s.run(last)
	ran := time.Now()
	s.judge()
	t.Logf("%d devices of %d users, %d conversations, %v: %v", devices, len(s.users), rooms, last, &s.count)
	t.Logf("changes: %v", s.outcomes)
	t.Logf("founded in %v, quiet after %v", founded.Sub(start).Round(time.Second), time.Since(ran).Round(time.Second))
	s.count.enough(t, last > time.Minute)
}

var soakDomains = []wire.Domain{"a.example", "b.example", "c.example"}

type soak struct {
	t       *testing.T
	c       *cluster.Cluster
	seed    uint64
	users   []wire.UserID
	devices []*soaker
	rooms   []*room
	watches sync.WaitGroup
	nodes   map[wire.Domain]*process // the nodes that have a process of their own now
	count   soakCount

	mu       sync.Mutex // guards what follows
	outcomes map[string]int
}

// soakCount counts what has happened.
type soakCount struct {
	messages, commits, races, lost            atomic.Int64
	joins, leaves, removals, restores         atomic.Int64
	kills, restarts, offline                  atomic.Int64 // of devices
	nodeKills, nodeRestarts                   atomic.Int64
	refused, givenUp, inDoubt, inDoubtAndKept atomic.Int64
}

func (n *soakCount) String() string {
	return fmt.Sprintf("%d messages (%d refused), %d commits, %d races (%d commits overtaken), %d joins, %d leaves, %d removals, %d restores; "+
		"devices: %d kills (%d while sending, %d of them after the write), %d restarts, %d offline spells; nodes: %d kills, %d restarts; %d changes given up",
		n.messages.Load(), n.refused.Load(), n.commits.Load(), n.races.Load(), n.lost.Load(), n.joins.Load(), n.leaves.Load(), n.removals.Load(), n.restores.Load(),
		n.kills.Load(), n.inDoubt.Load(), n.inDoubtAndKept.Load(), n.restarts.Load(), n.offline.Load(), n.nodeKills.Load(), n.nodeRestarts.Load(), n.givenUp.Load())
}

// enough checks that all kinds of events of the test have happened. In the short form some may be missing on a slow
// machine.
func (n *soakCount) enough(t *testing.T, full bool) {
	list := map[string]*atomic.Int64{
		"messages": &n.messages, "commits": &n.commits, "races": &n.races, "joins": &n.joins, "kills": &n.kills, "offline spells": &n.offline,
		"kills of nodes": &n.nodeKills,
	}
	if full {
		maps.Copy(list, map[string]*atomic.Int64{
			"overtaken commits": &n.lost, "leaves": &n.leaves, "removals": &n.removals, "restores": &n.restores, "restarts": &n.restarts,
		})
	}
	for what, times := range list {
		if times.Load() == 0 {
			t.Errorf("no %s: the soak shows less than it says", what)
		}
	}
}

// soaker is one device of the soak, which goes away and comes back.
type soaker struct {
	index      int
	org        wire.Domain
	user, name string

	mu     sync.RWMutex // held for reading to use the device, for writing to replace it
	device *client.Device
	life   *life
	doubt  *room // in which it was sending when it was killed
}

func (k *soaker) id() wire.UserID { return wire.UserID("mimi://" + string(k.org) + "/u/" + k.user) }

func (k *soaker) deviceID() wire.DeviceID {
	return wire.DeviceID("mimi://" + string(k.org) + "/d/" + k.user + "/" + k.name)
}

func (k *soaker) String() string { return k.user + "/" + k.name }

// room is one conversation of the soak. Core devices are members all the time, and none of them may miss a message.
// Guests come and go.
type room struct {
	id      wire.ConversationID
	core    []int
	guests  []int          // of users with one device
	sent    []atomic.Int64 // messages, by device
	invited []atomic.Int64 // how often an add of a device was begun

	concluded wire.Epoch // in which the last messages were sent; used by the judge only
}

// all returns the devices that are in a room, or may be.
func (m *room) all() []int { return slices.Concat(m.core, m.guests) }

func (s *soak) random(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(s.seed, stream)) }

// enrol creates the users' devices: a third of the users have two.
func (s *soak) enrol(n int) {
	for u := 0; len(s.devices) < n; u++ {
		k := &soaker{org: soakDomains[u%len(soakDomains)], user: fmt.Sprintf("user%d", u), name: "phone"}
		s.users = append(s.users, k.id())
		for _, name := range []string{"phone", "laptop"}[:1+u%3/2] {
			if len(s.devices) < n {
				s.devices = append(s.devices, &soaker{index: len(s.devices), org: k.org, user: k.user, name: name})
			}
		}
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()
	var all sync.WaitGroup
	turn := make(chan struct{}, 2*runtime.NumCPU())
	for _, k := range s.devices {
		all.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			link, err := s.c.Invite(ctx, k.org, k.user)
			if err == nil {
				k.life = newLife()
				k.life.watch()
				k.device, err = s.c.Enrol(ctx, link, k.name, k.life.apply)
			}
			if err != nil {
				s.t.Errorf("%v: %v", k, err)
				return
			}
			s.watch(k)
		})
	}
	all.Wait()
	if s.t.Failed() {
		s.t.FailNow()
	}
	byUser := make(map[wire.UserID][]*client.Device)
	for _, k := range s.devices {
		byUser[k.id()] = append(byUser[k.id()], k.device)
	}
	for user, list := range byUser {
		if err := cluster.Confirm(ctx, list...); err != nil {
			s.t.Fatalf("%s: %v", user, err)
		}
	}
}

// found creates the conversations: every other one has guests.
func (s *soak) found(n int) {
	byUser := make(map[wire.UserID][]int)
	for i, k := range s.devices {
		byUser[k.id()] = append(byUser[k.id()], i)
	}
	r := s.random(1)
	for i := range n {
		m := &room{sent: make([]atomic.Int64, len(s.devices)), invited: make([]atomic.Int64, len(s.devices))}
		core := 3 + r.IntN(4)
		for at, u := range r.Perm(len(s.users)) {
			mine := byUser[s.users[u]]
			switch {
			case at < core:
				m.core = append(m.core, mine...)
			case i%2 == 1 && len(mine) == 1 && len(m.guests) < 4:
				m.guests = append(m.guests, mine[0])
			}
		}
		s.rooms = append(s.rooms, m)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 3*time.Minute)
	defer cancel()
	var all sync.WaitGroup
	turn := make(chan struct{}, 2*runtime.NumCPU())
	for i, m := range s.rooms {
		all.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			if err := s.foundOne(ctx, i, m); err != nil {
				s.t.Errorf("room %d: %v", i, err)
			}
		})
	}
	all.Wait()
	if s.t.Failed() {
		s.t.FailNow()
	}
}

func (s *soak) foundOne(ctx context.Context, n int, m *room) error {
	founder := s.devices[m.core[0]]
	var err error
	if m.id, err = founder.device.Create(ctx, client.CreateOptions{Name: fmt.Sprintf("Room %d", n), MembersRemove: true}); err != nil {
		return err
	}
	var others []wire.UserID
	for _, k := range m.core[1:] {
		if id := s.devices[k].id(); len(others) == 0 || others[len(others)-1] != id {
			others = append(others, id) // the founder's own second device too
		}
	}
	for {
		if err = founder.device.Add(ctx, m.id, others...); wire.CodeOf(err) != wire.NoneLeft || !pause(ctx, 50*time.Millisecond) {
			break
		}
	}
	if err != nil {
		return err
	}
	for _, k := range m.core {
		d := s.devices[k].device
		if err := cluster.Await(ctx, d, func() (bool, error) {
			list, err := d.Members(ctx, m.id)
			return len(list) == len(m.core), ignore(err, wire.UnknownConversation)
		}); err != nil {
			return fmt.Errorf("%v: %w", s.devices[k], err)
		}
	}
	return nil
}

// run runs all activity for a time.
func (s *soak) run(last time.Duration) {
	ctx, stop := context.WithTimeout(s.t.Context(), last)
	defer stop()
	var all sync.WaitGroup
	for _, k := range s.devices {
		all.Go(func() { s.live(ctx, k) })
	}
	for i := range uint64(3) {
		all.Go(func() { s.race(ctx, i) })
		all.Go(func() { s.disturbDevices(ctx, i) })
	}
	all.Go(func() { s.disturbNodes(ctx) })
	all.Wait()
}

// end stops everything and checks that no goroutine and no file is left.
func (s *soak) end(before goleak.Option, files map[string]int) {
	for d, p := range s.nodes {
		p.stop(s.t)
		delete(s.nodes, d)
	}
	if err := s.c.Close(); err != nil {
		s.t.Error(err)
	}
	for _, k := range s.devices {
		if k.life != nil {
			k.life.over()
		}
	}
	s.watches.Wait()
	deadline := time.Now().Add(20 * time.Second)
	var left error
	for left = goleak.Find(before); left != nil && time.Now().Before(deadline); left = goleak.Find(before) {
	}
	if left != nil {
		s.t.Errorf("goroutines are left: %v", left)
	}
	for name, n := range openFiles(s.t) {
		if n > files[name] {
			s.t.Errorf("%d times open that were open %d times before: %s", n, files[name], name)
		}
	}
}
