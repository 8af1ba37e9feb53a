package client

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// confirm makes each of a user's devices confirm the other, like a user who compares the numbers.
func confirm(t testing.TB, one, two *peer) {
	t.Helper()
	number := func(at, of *peer) (n string) {
		eventually(t, func() error {
			list, err := at.OtherDevices(t.Context())
			for _, w := range list {
				if w.Device == of.id && w.Waits {
					n = w.Number
				}
			}
			if err == nil && n == "" {
				err = fmt.Errorf("%s does not wait at %s", of.id, at.id)
			}
			return err
		})
		return n
	}
	a, b := number(one, two), number(two, one)
	if a != b {
		t.Fatalf("%s shows %s, %s shows %s", one.id, a, two.id, b)
	}
	check(t, one.ConfirmDevice(t.Context(), two.id, b))
	check(t, two.ConfirmDevice(t.Context(), one.id, strings.ReplaceAll(a, " ", "")))
}

// waits waits until a device has asked its user about another one.
func waits(t testing.TB, p *peer, about wire.DeviceID) Event {
	t.Helper()
	var found Event
	eventually(t, func() error {
		for _, e := range p.events(EventDeviceWaiting) {
			if e.Device == about {
				found = e
				return nil
			}
		}
		return fmt.Errorf("%s has not asked about %s", p.id, about)
	})
	return found
}

// upkeeps waits until a user's devices have checked each other this number of times from now on.
func (w *world) upkeeps(t *testing.T, n int) {
	t.Helper()
	w.mu.Lock()
	w.costs = make(map[wire.Method]cost)
	w.mu.Unlock()
	w.counted(t, map[wire.Method]int{wire.MethodDevices: n})
}

func members(t testing.TB, p *peer, id wire.ConversationID, want int) {
	t.Helper()
	if v, err := p.Conversation(t.Context(), id); err != nil || v.Members != want {
		t.Errorf("%s sees %d members, wanted %d (%v)", p.id, v.Members, want, err)
	}
}

// TestGhostDeviceWaits checks that a device that the operator enrols for a user reads nothing until the user confirms
// it.
func TestGhostDeviceWaits(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	w.timing = func(q *Timing) { q.Upkeep = 10 * time.Millisecond }
	a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
	id, err := a.Create(t.Context(), CreateOptions{})
	check(t, err)
	check(t, a.Add(t.Context(), id, bob))
	agree(t, id, a, b)
	ghost := w.peer(aliceLaptop).ready() // with a code of the operator
	e := waits(t, a, ghost.id)
	if e.Number == "" || e.Conversation != "" {
		t.Errorf("the event is %+v", e)
	}
	w.upkeeps(t, 10)
	members(t, b, id, 2)
	// The user's own devices do not add it in another way either.
	if err := a.Add(t.Context(), id, a.id.User()); err != nil {
		t.Errorf("adds its user, of whom no device is missing but the ghost: %v", err)
	}
	members(t, b, id, 2)
	second, err := ghost.Create(t.Context(), CreateOptions{})
	check(t, err)
	w.upkeeps(t, 10)
	members(t, ghost, second, 1) // the ghost does not add a device that it does not know, like any other device

	for _, number := range []string{"", "12345", strings.Replace(e.Number, e.Number[:1], "x", 1)} {
		if err := a.ConfirmDevice(t.Context(), ghost.id, number); wire.CodeOf(err) != wire.Invalid {
			t.Errorf("confirmed by the number %q: %v", number, err)
		}
	}
	if err := a.ConfirmDevice(t.Context(), "mimi://a.example/d/alice/none", e.Number); wire.CodeOf(err) != wire.NotFound {
		t.Errorf("confirmed a device that there is not: %v", err)
	}
	if err := a.ConfirmDevice(t.Context(), a.id, e.Number); wire.CodeOf(err) != wire.NotFound {
		t.Errorf("confirmed itself: %v", err)
	}
	w.upkeeps(t, 10)
	members(t, b, id, 2)
	confirm(t, a, ghost)
	agree(t, id, a, b, ghost)
	agree(t, second, ghost, a)
	if list, err := a.OtherDevices(t.Context()); len(list) != 1 || list[0].Waits || list[0].Number != e.Number || err != nil {
		t.Errorf("%v, %v", list, err)
	}
	a.restart()
	w.upkeeps(t, 10)
	if n := len(a.events(EventDeviceWaiting)); n != 1 {
		t.Errorf("the user was asked %d times, want once", n)
	}
}

// TestCodeOfADeviceNeedsNoQuestion checks that a device that enrols with a code of another device proves it, and
// knows that device.
func TestCodeOfADeviceNeedsNoQuestion(t *testing.T) {
	w := newWorld(t, "a.example")
	w.timing = func(q *Timing) { q.Upkeep = 10 * time.Millisecond }
	a := w.peer(alicePhone).ready()
	id, err := a.Create(t.Context(), CreateOptions{})
	check(t, err)
	code, _, err := a.InviteDevice(t.Context(), 0)
	check(t, err)
	ghost := w.peer("mimi://a.example/d/alice/ghost").ready() // while the code is open
	laptop := w.enrolled(t, aliceLaptop, code)
	agree(t, id, a, laptop)
	waits(t, a, ghost.id)
	second, err := laptop.Create(t.Context(), CreateOptions{}) // the device knows its inviter
	check(t, err)
	agree(t, second, laptop, a)
	waits(t, laptop, ghost.id)
	w.upkeeps(t, 10)
	members(t, a, id, 2)
	members(t, a, second, 2)
	for _, p := range []*peer{a, laptop} {
		for _, e := range p.events(EventDeviceWaiting) {
			if e.Device != ghost.id {
				t.Errorf("%s asks about %s", p.id, e.Device)
			}
		}
	}
	// A code whose secret was used makes no second key known.
	check(t, a.turn(t.Context(), func(u *unit) error {
		open, err := a.offers(u)
		if len(open) != 0 {
			t.Errorf("%d secrets are still open", len(open))
		}
		return err
	}))
}

// enrolled starts a device that enrols with a code.
func (w *world) enrolled(t testing.TB, id wire.DeviceID, code string) *peer {
	t.Helper()
	p := &peer{t: t, w: w, id: id, disk: &disk{MemoryStore: newMemory(), left: -1}}
	p.open()
	check(t, p.Enrol(t.Context(), Enrolment{Device: id, Code: code}))
	p.run()
	t.Cleanup(p.stop)
	return p
}

// TestNodeDoesNotGetTheSecret checks that the secret in a device's code goes only from device to device.
func TestNodeDoesNotGetTheSecret(t *testing.T) {
	w := newWorld(t, "a.example")
	a := w.peer(alicePhone).ready()
	code, _, err := a.InviteDevice(t.Context(), 0)
	check(t, err)
	node, carried, err := splitCode(code)
	check(t, err)
	if len(carried) != offerSize+32 || strings.Contains(node, "~") {
		t.Fatalf("%q was divided into %q and %x", code, node, carried)
	}
	w.mu.Lock()
	_, known := w.orgs["a.example"].codes[node]
	w.mu.Unlock()
	if !known {
		t.Fatalf("the node does not know %q", node)
	}
	p := &peer{t: t, w: w, id: aliceLaptop, disk: &disk{MemoryStore: newMemory(), left: -1}}
	p.open()
	for _, bad := range []string{code[:len(code)-1], code + "A", node + "~", node + "~!", code + "~"} {
		if err := p.Enrol(t.Context(), Enrolment{Device: p.id, Code: bad}); wire.CodeOf(err) != wire.Malformed {
			t.Errorf("a damaged code %q: %v", bad, err)
		}
	}
	check(t, p.Enrol(t.Context(), Enrolment{Device: p.id, Code: code}))
	if i, err := ParseInvitation(Invitation{Host: "n1.a.example:8443", Code: code, Domain: "a.example", User: "alice"}.String()); err != nil || i.Code != code {
		t.Errorf("a link brings %q, %v", i.Code, err)
	}
}

// TestProofBelongsToOneKey checks that a MAC that somebody has seen is valid for no other key and no other name.
func TestProofBelongsToOneKey(t *testing.T) {
	w := newWorld(t, "a.example")
	a := w.peer(alicePhone).ready()
	code, _, err := a.InviteDevice(t.Context(), 0)
	check(t, err)
	_, carried, err := splitCode(code)
	check(t, err)
	secret := carried[:offerSize]
	ghost := w.peer(aliceLaptop).ready()
	w.mu.Lock()
	account := w.orgs["a.example"].devices[ghost.id]
	w.mu.Unlock()
	try := func(mac []byte) bool {
		var ok bool
		check(t, ghost.turn(t.Context(), func(u *unit) error {
			return u.putRecord(recordKey(recordProof), &offerRecord{Version: recordVersion, Secret: mac, Ends: ghost.now() + 1e9})
		}))
		var message []byte
		check(t, ghost.turn(t.Context(), func(u *unit) error {
			before := make(map[string]bool)
			check(t, u.Scan(recordKey(recordKeyPackage), func(key, _ []byte) error { before[string(key)] = true; return nil }))
			check(t, ghost.newKeyPackage(u, mlscore.CipherSuite(ghost.self.Suite), false))
			return u.Scan(recordKey(recordKeyPackage), func(key, value []byte) error {
				r := new(keyPackageRecord)
				err := wire.Decode(value, maxRecord, r)
				if !before[string(key)] {
					message = r.Message
				}
				return err
			})
		}))
		check(t, a.turn(t.Context(), func(u *unit) (err error) {
			ok, err = a.proves(u, addition{Device: ghost.id, KeyPackage: message})
			return err
		}))
		return ok
	}
	for what, mac := range map[string][]byte{
		"of another key":    proofOf(secret, ghost.id, []byte("another key")),
		"of another name":   proofOf(secret, "mimi://a.example/d/alice/tablet", account.key),
		"of another secret": proofOf(make([]byte, offerSize), ghost.id, account.key),
		"cut off":           proofOf(secret, ghost.id, account.key)[:31],
		"empty":             {},
	} {
		if try(mac) {
			t.Errorf("a MAC %s was taken", what)
		}
	}
	if !try(proofOf(secret, ghost.id, account.key)) {
		t.Error("the right MAC was not taken")
	}
}

// TestConfirmedNameWithAnotherKey checks an organization that enrols another key under the name that was confirmed.
func TestConfirmedNameWithAnotherKey(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	w.timing = func(q *Timing) { q.Upkeep = 10 * time.Millisecond }
	a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
	laptop := w.peer(aliceLaptop).ready()
	confirm(t, a, laptop)
	id, err := a.Create(t.Context(), CreateOptions{MembersRemove: true, Admins: []wire.UserID{bob}})
	check(t, err)
	check(t, a.Add(t.Context(), id, bob))
	agree(t, id, a, b, laptop)
	laptop.stop()
	w.mu.Lock()
	delete(w.orgs["a.example"].devices, laptop.id) // not revoked, so no device hears of it
	w.mu.Unlock()
	ghost := w.peer(aliceLaptop).ready()
	waits(t, a, ghost.id)
	for _, p := range []*peer{a, b} {
		if err := p.Restore(t.Context(), id, ghost.id); wire.CodeOf(err) != wire.Invalid {
			t.Errorf("%s restores the ghost: %v", p.id, err)
		}
	}
	if _, err := a.Migrate(t.Context(), id, MigrateOptions{Suite: hybrid}); wire.CodeOf(err) != wire.Invalid {
		t.Errorf("the ghost migrates: %v", err)
	}
	check(t, b.RemoveDevices(t.Context(), id, laptop.id))
	w.upkeeps(t, 10)
	members(t, b, id, 2)
	if _, err := ghost.Conversation(t.Context(), id); wire.CodeOf(err) != wire.UnknownConversation {
		t.Errorf("the ghost is in: %v", err)
	}
	// Another member that adds the user cannot notice: the user's device reports it.
	check(t, b.Remove(t.Context(), id, a.id.User()))
	inState(t, a, id, StateLeft)
	check(t, b.Add(t.Context(), id, a.id.User()))
	agree(t, id, a, b, ghost)
	eventually(t, func() error {
		for _, e := range a.events(EventDeviceWaiting) {
			if e.Conversation == id && e.Device == ghost.id {
				return nil
			}
		}
		return errors.New("the ghost in the conversation is not mentioned")
	})
}

// TestOldSiblingsAreKnown checks that a device of a build without confirmations knows, when it is upgraded, the
// devices that share a conversation with it, and no later one.
func TestOldSiblingsAreKnown(t *testing.T) {
	w := newWorld(t, "a.example")
	w.timing = func(q *Timing) { q.Upkeep = 10 * time.Millisecond }
	a, laptop := w.peer(alicePhone).ready(), w.peer(aliceLaptop).ready()
	confirm(t, a, laptop)
	id, err := a.Create(t.Context(), CreateOptions{})
	check(t, err)
	agree(t, id, a, laptop)
	a.stop()
	a.start()
	check(t, a.turn(t.Context(), func(u *unit) error { // as the old build left the store
		u.deleteAll(recordKey(recordSibling))
		u.delete(recordKey(recordSiblings))
		return nil
	}))
	second, err := a.Create(t.Context(), CreateOptions{})
	check(t, err)
	agree(t, second, a, laptop)
	ghost := w.peer("mimi://a.example/d/alice/ghost").ready()
	waits(t, a, ghost.id)
	w.upkeeps(t, 10)
	members(t, a, id, 2)
}

// TestOffersAreBounded checks that unused codes do not accumulate.
func TestOffersAreBounded(t *testing.T) {
	w := newWorld(t, "a.example")
	a := w.peer(alicePhone).ready()
	for range maxOffers + 3 {
		_, _, err := a.InviteDevice(t.Context(), 0)
		check(t, err)
	}
	check(t, a.turn(t.Context(), func(u *unit) error {
		open, err := a.offers(u)
		if len(open) != maxOffers {
			t.Errorf("%d secrets are kept, want %d", len(open), maxOffers)
		}
		return err
	}))
}

func FuzzSplitCode(f *testing.F) {
	f.Add("ABCD-EFGH")
	f.Add("ABCD~" + strings.Repeat("A", 64))
	f.Fuzz(func(t *testing.T, code string) {
		node, carried, err := splitCode(code)
		if err == nil && (strings.Contains(node, "~") || carried != nil && len(carried) != offerSize+32) {
			t.Errorf("%q was divided into %q and %x", code, node, carried)
		}
	})
}
