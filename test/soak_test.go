package test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/test/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// soaker is one device of the soak, which goes away and comes back.
type soaker struct {
	org  wire.Domain
	user string

	mu     sync.RWMutex // held for reading by who uses the device, for writing by who replaces it
	device *client.Device
}

func (s *soaker) id() wire.UserID { return wire.UserID("mimi://" + string(s.org) + "/u/" + s.user) }

// room is one conversation of the soak. Only in some do members come and go; in the others nobody may miss
// a message.
type room struct {
	id      wire.ConversationID
	members []int // who founded it, or was added at the beginning
	steady  bool
	sent    []atomic.Int64 // messages, by device
	guests  sync.Mutex     // one change of members at a time, as people do
}

// TestLongSoak: 60 devices of three organizations live for a while in 30 conversations: they talk, rotate
// keys, race, come and go, lose their connection and their process; nodes restart. At the end nothing is
// missing or twice, each sender's order is kept, and all members of a conversation agree.
func TestLongSoak(t *testing.T) {
	var last time.Duration
	devices, rooms := 60, 30
	switch os.Getenv("MLSFED_LONG") {
	case "short":
		last, devices, rooms = 15*time.Second, 12, 6
	case "full":
		last = 10 * time.Minute
	default:
		t.Skip("lives for minutes: set MLSFED_LONG to short or full")
	}
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("MLSFED_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("MLSFED_SEED=%d chooses who does what", seed)
	before := runtime.NumGoroutine()
	c, err := cluster.New(t.TempDir(), cluster.Options{Edit: func(cfg *config.Config) {
		cfg.Directory.ClaimBurst = 1 << 20
		cfg.Gateway.EnrolPerMinute = 1e6
	}}, soakDomains...)
	if err != nil {
		t.Fatal(err)
	}
	s := &soak{t: t, c: c, seed: seed}
	if err := c.StartAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.enrol(devices)
	s.found(rooms)
	ctx, stop := context.WithTimeout(t.Context(), last)
	var all sync.WaitGroup
	for i := range s.devices {
		all.Go(func() { s.live(ctx, i) })
	}
	for i := range 3 {
		all.Go(func() { s.disturbDevices(ctx, i) })
	}
	all.Go(func() { s.disturbNodes(ctx) })
	all.Wait()
	stop()
	s.judge()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for runtime.NumGoroutine() > before+10 && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > before+10 {
		t.Errorf("%d goroutines are left, %d were there at first", n, before)
	}
	t.Logf("%d devices, %d conversations, %v: %d messages, %d changes of keys, %d of members, %d devices and %d nodes restarted",
		devices, rooms, last, s.messages.Load(), s.rotations.Load(), s.changes.Load(), s.restarts.Load(), s.reboots.Load())
}

var soakDomains = []wire.Domain{"a.example", "b.example", "c.example"}

type soak struct {
	t       *testing.T
	c       *cluster.Cluster
	seed    uint64
	devices []*soaker
	rooms   []*room

	messages, rotations, changes, restarts, reboots atomic.Int64
}

func (s *soak) random(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(s.seed, stream)) }

func (s *soak) enrol(n int) {
	for i := range n {
		k := &soaker{org: soakDomains[i%len(soakDomains)], user: fmt.Sprintf("user%d", i)}
		k.device = device(s.t, s.c, k.org, k.user, "phone")
		s.devices = append(s.devices, k)
	}
}

func (s *soak) found(n int) {
	r := s.random(1)
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Minute)
	defer cancel()
	for i := range n {
		m := &room{members: r.Perm(len(s.devices))[:3+r.IntN(5)], steady: i%2 == 0, sent: make([]atomic.Int64, len(s.devices))}
		founder := s.devices[m.members[0]].device
		var err error
		if m.id, err = founder.Create(ctx, client.CreateOptions{Name: fmt.Sprintf("Room %d", i)}); err != nil {
			s.t.Fatal(err)
		}
		var others []wire.UserID
		for _, k := range m.members[1:] {
			others = append(others, s.devices[k].id())
		}
		add(ctx, s.t, founder, m.id, others...)
		s.rooms = append(s.rooms, m)
	}
	for _, m := range s.rooms {
		for _, k := range m.members {
			d := s.devices[k].device
			if err := cluster.Await(ctx, d, func() (bool, error) {
				list, err := d.Members(ctx, m.id)
				return len(list) == len(m.members), ignore(err, wire.UnknownConversation)
			}); err != nil {
				s.t.Fatalf("%s waits for its conversation: %v", s.devices[k].user, err)
			}
		}
	}
}

// live is what one device does.
func (s *soak) live(ctx context.Context, who int) {
	r := s.random(100 + uint64(who))
	k := s.devices[who]
	for pause(ctx, time.Duration(100+r.IntN(400))*time.Millisecond) {
		m := s.rooms[r.IntN(len(s.rooms))]
		k.mu.RLock()
		s.act(ctx, r, k, who, m)
		k.mu.RUnlock()
	}
}

func (s *soak) act(ctx context.Context, r *rand.Rand, k *soaker, who int, m *room) {
	state, err := k.device.Conversation(ctx, m.id)
	if err != nil || state.State != client.StateActive {
		return
	}
	short, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	switch n := r.IntN(100); {
	case n < 85:
		text := numbered(who, int(m.sent[who].Load()))
		if _, err := k.device.SendText(context.WithoutCancel(ctx), m.id, text); err == nil {
			m.sent[who].Add(1)
			s.messages.Add(1)
		}
	case n < 93:
		if k.device.UpdateKeys(short, m.id) == nil {
			s.rotations.Add(1)
		}
	case !m.steady && m.guests.TryLock():
		defer m.guests.Unlock()
		guest := s.devices[r.IntN(len(s.devices))]
		if guest == k {
			return
		}
		change := k.device.Add
		if r.IntN(2) == 0 {
			change = k.device.Remove
		}
		if change(short, m.id, guest.id()) == nil {
			s.changes.Add(1)
		}
	}
}

// disturbDevices ends devices as a lost process does, and starts them again from their stores.
func (s *soak) disturbDevices(ctx context.Context, stream int) {
	r := s.random(10 + uint64(stream))
	for pause(ctx, time.Duration(500+r.IntN(2500))*time.Millisecond) {
		k := s.devices[r.IntN(len(s.devices))]
		k.mu.Lock()
		if err := s.c.StopDevice(k.device); err != nil {
			s.t.Error(err)
		}
		pause(ctx, time.Duration(r.IntN(2000))*time.Millisecond)
		d, err := s.c.Resume(k.org, k.user, "phone")
		if err != nil {
			s.t.Errorf("%s does not come back: %v", k.user, err)
		} else {
			k.device = d
			s.restarts.Add(1)
		}
		k.mu.Unlock()
	}
}

func (s *soak) disturbNodes(ctx context.Context) {
	r := s.random(2)
	for pause(ctx, time.Duration(5000+r.IntN(8000))*time.Millisecond) {
		d := soakDomains[r.IntN(len(soakDomains))]
		if err := s.c.Stop(d); err != nil {
			s.t.Error(err)
		}
		pause(ctx, time.Duration(r.IntN(3000))*time.Millisecond)
		if err := s.c.Start(s.t.Context(), d); err != nil {
			s.t.Error(err)
			return
		}
		s.reboots.Add(1)
	}
}

// judge waits until all is quiet, and looks at what everybody has.
func (s *soak) judge() {
	ctx, cancel := context.WithTimeout(s.t.Context(), 4*time.Minute)
	defer cancel()
	for i, m := range s.rooms {
		if m.steady {
			s.complete(ctx, i, m)
		}
		s.agreed(ctx, i, m)
		s.ordered(ctx, i, m)
	}
}

// complete holds that every member of a steady conversation has every message.
func (s *soak) complete(ctx context.Context, n int, m *room) {
	for _, k := range m.members {
		d := s.devices[k].device
		var have map[int][]int
		err := cluster.Await(ctx, d, func() (bool, error) {
			now, err := heard(ctx, d, m.id)
			if err != nil {
				return false, err
			}
			have = now
			for _, from := range m.members {
				if int64(len(have[from])) < m.sent[from].Load() {
					return false, nil
				}
			}
			return true, nil
		})
		if err != nil {
			for _, from := range m.members {
				if got, want := len(have[from]), m.sent[from].Load(); int64(got) != want {
					s.t.Errorf("room %d: %s has %d of %d messages of %s", n, s.devices[k].user, got, want, s.devices[from].user)
				}
			}
		}
	}
}

// agreed holds that all members of a conversation come to share its epoch and its order.
func (s *soak) agreed(ctx context.Context, n int, m *room) {
	var last string
	for ; ctx.Err() == nil; pause(ctx, 100*time.Millisecond) {
		var first *client.Conversation
		same, members := true, 0
		for _, k := range s.devices {
			v, err := k.device.Conversation(ctx, m.id)
			if err != nil || v.State == client.StateLeft {
				continue
			}
			members++
			if v.State != client.StateActive || v.Outgoing > 0 {
				same, last = false, fmt.Sprintf("%s: %v %s, %d waiting", k.user, v.State, v.Why, v.Outgoing)
			}
			if first == nil {
				first = v
			} else if v.Sequence != first.Sequence || v.Order != first.Order || string(v.Authenticator) != string(first.Authenticator) {
				same, last = false, fmt.Sprintf("%s is at entry %d of epoch %d, another at %d of %d", k.user, v.Sequence, v.Epoch, first.Sequence, first.Epoch)
			}
		}
		if same && members > 0 {
			return
		}
	}
	s.t.Errorf("room %d: its members do not agree: %s", n, last)
}

// ordered holds that nobody has a message twice, or one of a sender before an earlier one.
func (s *soak) ordered(ctx context.Context, n int, m *room) {
	for _, k := range s.devices {
		have, err := heard(context.WithoutCancel(ctx), k.device, m.id)
		if err != nil {
			continue // was never in it
		}
		for from, list := range have {
			for i := 1; i < len(list); i++ {
				if list[i] <= list[i-1] {
					s.t.Errorf("room %d: %s has message %d of %s after %d", n, k.user, list[i], s.devices[from].user, list[i-1])
					break
				}
			}
		}
	}
}
