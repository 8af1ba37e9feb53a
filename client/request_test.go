package client

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// policy returns the decision of a test, and records the requests.
type policy struct {
	mu    sync.Mutex
	say   Decision
	asked []JoinRequest
}

func (p *policy) admit(r JoinRequest) Decision {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, r)
	return p.say
}

func (p *policy) requests() []JoinRequest {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

// asking is a world in which bob's phone and alice's ask for a decision.
func asking(t *testing.T, say Decision) (w *world, a, b *peer, p *policy) {
	t.Helper()
	w = newWorld(t, "a.example", "b.example")
	w.timing = func(q *Timing) { q.Upkeep = 10 * time.Millisecond }
	p = &policy{say: say}
	w.admit = map[wire.DeviceID]func(JoinRequest) Decision{bobPhone: p.admit}
	return w, w.peer(alicePhone).ready(), w.peer(bobPhone).ready(), p
}

// held waits until a device has this number of requests.
func held(t testing.TB, p *peer, want int) (list []JoinRequest) {
	t.Helper()
	eventually(t, func() (err error) {
		if list, err = p.Held(t.Context()); err == nil && len(list) != want {
			err = fmt.Errorf("%d requests wait, want %d", len(list), want)
		}
		return err
	})
	return list
}

// reported waits until this number of events of a type were emitted.
func reported(t testing.TB, p *peer, what EventType, want int) {
	t.Helper()
	eventually(t, func() error {
		if n := len(p.events(what)); n != want {
			return fmt.Errorf("%d events %v, want %d", n, what, want)
		}
		return nil
	})
}

// gone waits until the node serves no stream to a device at the addresses under which it was added.
func (w *world) gone(t testing.TB, p *peer, id wire.ConversationID) {
	t.Helper()
	eventually(t, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		o := w.orgs[p.id.Organization()]
		for _, h := range w.convs[id].heads {
			for _, a := range h.delivery {
				if a.Organization == o.domain && o.tokens[a.Token] == p.id {
					return errors.New("the node still has the address")
				}
			}
		}
		return nil
	})
}

// TestHeldRequest checks that the user decides, and that messages sent meanwhile are there afterwards.
func TestHeldRequest(t *testing.T) {
	_, a, b, p := asking(t, Hold)
	id, err := a.Create(t.Context(), CreateOptions{Name: "Lunch"})
	check(t, err)
	check(t, a.Add(t.Context(), id, bob))
	list := held(t, b, 1)
	if r := list[0]; r.Conversation != id || r.Name != "Lunch" || r.Members != 2 || !slices.Equal(r.Users, []wire.UserID{"mimi://a.example/u/alice"}) {
		t.Errorf("the request is %+v", r)
	}
	reported(t, b, EventRequest, 1)
	if n := len(b.events(EventJoined)); n != 0 {
		t.Error("it was joined")
	}
	all, err := b.Conversations(t.Context())
	if err != nil || len(all) != 0 {
		t.Errorf("%d conversations, %v", len(all), err)
	}
	if err := b.CatchUp(t.Context()); err != nil {
		t.Errorf("a request that waits keeps the device from being up to date: %v", err)
	}
	_, err = a.SendText(t.Context(), id, "early")
	check(t, err)
	check(t, a.Rename(t.Context(), id, "Dinner"))
	_, err = a.SendText(t.Context(), id, "later")
	check(t, err)
	b.restart()
	held(t, b, 1)
	if _, err := b.SendText(t.Context(), id, "x"); err == nil {
		t.Error("sends to what it has not entered")
	}
	if err := b.Accept(t.Context(), "nothing"); wire.CodeOf(err) != wire.NotFound {
		t.Errorf("accepts what there is not: %v", err)
	}
	check(t, b.Accept(t.Context(), id))
	agree(t, id, a, b)
	hasTexts(t, b, id, "alice: early", "alice: later")
	held(t, b, 0)
	if err := b.RefuseRequest(t.Context(), id); wire.CodeOf(err) != wire.NotFound {
		t.Errorf("refuses what it has accepted: %v", err)
	}
	if n := len(p.requests()); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// TestRefusedRequest checks refusals by the policy, by the user, and because too many requests wait: no data stays,
// here or at the node.
func TestRefusedRequest(t *testing.T) {
	w, a, b, p := asking(t, Hold)
	b.stop()
	w.limits.Strangers = 1
	b.start()
	add := func() wire.ConversationID {
		t.Helper()
		id, err := a.Create(t.Context(), CreateOptions{})
		check(t, err)
		check(t, a.Add(t.Context(), id, bob))
		return id
	}
	first := add()
	held(t, b, 1)
	second := add() // at the bound
	w.gone(t, b, second)
	held(t, b, 1)
	reported(t, b, EventRefused, 1)
	check(t, b.RefuseRequest(t.Context(), first))
	w.gone(t, b, first)
	held(t, b, 0)
	p.mu.Lock()
	p.say = Refuse
	p.mu.Unlock()
	third := add()
	w.gone(t, b, third)
	check(t, b.turn(t.Context(), func(u *unit) error {
		ids, err := listConversations(u)
		if len(ids) != 0 {
			t.Errorf("%d conversations are kept", len(ids))
		}
		return errors.Join(err, u.Scan(recordKey(recordRequest), func(key, _ []byte) error {
			t.Errorf("%x is kept", key)
			return nil
		}))
	}))
	p.mu.Lock()
	p.say = Join
	p.mu.Unlock()
	fourth := add()
	agree(t, fourth, a, b)
}

// TestRequestThatIsWithdrawn checks that a user who is removed while the request waits has nothing to decide.
func TestRequestThatIsWithdrawn(t *testing.T) {
	_, a, b, _ := asking(t, Hold)
	id, err := a.Create(t.Context(), CreateOptions{})
	check(t, err)
	check(t, a.Add(t.Context(), id, bob))
	held(t, b, 1)
	check(t, a.Remove(t.Context(), id, bob))
	held(t, b, 0)
}

// TestOwnDeviceIsNotAskedAbout checks that no decision is needed if a known device of the same user is a member: the
// user is in the conversation already.
func TestOwnDeviceIsNotAskedAbout(t *testing.T) {
	w, a, b, p := asking(t, Join)
	id, err := a.Create(t.Context(), CreateOptions{})
	check(t, err)
	check(t, a.Add(t.Context(), id, bob))
	agree(t, id, a, b)
	w.mu.Lock()
	second := &policy{say: Refuse}
	w.admit["mimi://b.example/d/bob/laptop"] = second.admit
	w.mu.Unlock()
	code, _, err := b.InviteDevice(t.Context(), 0)
	check(t, err)
	laptop := w.enrolled(t, "mimi://b.example/d/bob/laptop", code)
	agree(t, id, a, b, laptop)
	if n := len(second.requests()); n != 0 {
		t.Errorf("asked %d times", n)
	}
	if n := len(p.requests()); n != 1 {
		t.Errorf("the telephone asked %d times", n)
	}
}

// TestStreamOfNoConversationIsGivenUp checks that items that add this device to no conversation are dropped, and
// their address too.
func TestStreamOfNoConversationIsGivenUp(t *testing.T) {
	w := newWorld(t, "a.example")
	a := w.peer(alicePhone).ready()
	var token wire.Token
	check(t, a.turn(t.Context(), func(u *unit) error {
		return u.Scan(recordKey(recordKeyPackage), func(_, value []byte) error {
			r := new(keyPackageRecord)
			err := wire.Decode(value, maxRecord, r)
			token = r.Token
			return err
		})
	}))
	id := wire.ConversationID("0123456789abcdef")
	push := &wire.Push{Conversation: &id, Token: token, Sequence: 1, Kind: wire.ItemMessage, Payload: []byte{1}}
	check(t, a.turn(t.Context(), func(u *unit) error { return a.takePush(u, push, false) }))
	eventually(t, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if _, ok := w.orgs["a.example"].tokens[token]; ok {
			return errors.New("the node still has the address")
		}
		return nil
	})
	check(t, a.turn(t.Context(), func(u *unit) error {
		if a.asked[string(recordKey(recordRefusal, token[:], []byte(id)))] != true {
			t.Error("the refusal is not remembered")
		}
		push.Sequence = 2
		return a.takePush(u, push, false) // an old node keeps pushing: no further action
	}))
}
