package client

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// TestAddWaitsForTheRate checks that a device that adds more users than it may claim at once waits for the rate,
// reports that, and keeps its earlier claims.
func TestAddWaitsForTheRate(t *testing.T) {
	w := newWorld(t, "a.example", "b.example", "c.example")
	a, b, c := w.peer(alicePhone).ready(), w.peer(bobPhone).ready(), w.peer(carolPhone).ready()
	id, err := a.Create(t.Context(), CreateOptions{})
	check(t, err)
	var claims atomic.Int32
	w.mu.Lock()
	w.faults.deny = func(m wire.Method) *wire.Error {
		if m == wire.MethodKeyMaterial {
			if n := claims.Add(1); n > 1 && n < 5 {
				return wire.Errorf(wire.Busy, "claim", "too fast")
			}
		}
		return nil
	}
	w.mu.Unlock()
	check(t, a.Add(t.Context(), id, bob, carol))
	agree(t, id, a, b, c)
	if n := claims.Load(); n != 5 {
		t.Errorf("%d claims, wanted 5: one for each user, and three that were refused", n)
	}
	delayed := a.events(EventDelayed)
	if len(delayed) != 3 || delayed[0].Conversation != id || wire.CodeOf(delayed[0].Err) != wire.Busy || delayed[0].Retry <= 0 {
		t.Errorf("reported: %+v", delayed)
	}
}

// TestOwnDevicesAreClaimedAlone checks that a device adds another device of its user to many conversations with one
// KeyPackage each, and takes no KeyPackages of its other devices. Last resorts are taken only once the device uploads
// no others.
func TestOwnDevicesAreClaimedAlone(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	w.features = wire.NewFeatures(wire.FeatureClaimOwn)
	w.timing = func(q *Timing) { q.Claim = 10 * time.Second }
	a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
	const conversations = 12 // twice the KeyPackages of a device in these tests
	var ids []wire.ConversationID
	for i := range conversations {
		id, err := a.Create(t.Context(), CreateOptions{Name: fmt.Sprint("number ", i)})
		check(t, err)
		ids = append(ids, id)
	}
	check(t, a.Add(t.Context(), ids[0], bob))
	code, _, err := a.InviteDevice(t.Context(), 600)
	check(t, err)
	var lasts atomic.Int32
	laptop := w.enrolled(t, aliceLaptop, code)
	for _, id := range ids {
		eventually(t, func() error {
			_, err := laptop.Conversation(t.Context(), id)
			return err
		})
		inState(t, laptop, id, StateActive)
	}
	agree(t, ids[0], a, b, laptop)
	check(t, laptop.turn(t.Context(), func(u *unit) error {
		return eachRecord(u, func(id wire.ConversationID, rec *conversationRecord) error {
			return u.Scan(recordKey(recordKeyPackage), func(_, value []byte) error {
				k := new(keyPackageRecord)
				if err := wire.Decode(value, maxRecord, k); err != nil {
					return err
				}
				if k.LastResort && k.Token == rec.Token {
					lasts.Add(1)
				}
				return nil
			})
		})
	}))
	if n := lasts.Load(); n > 0 {
		t.Errorf("%d of %d conversations were joined by the last resort of a device that was online", n, conversations)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, claim := range w.orgs["a.example"].devices[a.id].claims {
		if slices.ContainsFunc(claim.Devices, func(m wire.KeyMaterial) bool { return m.Device == a.id }) {
			t.Error("a KeyPackage of the device itself was claimed")
		}
	}
}

// TestAddInSeveralCommits checks that users whose KeyPackages do not fit one commit are added by several. The
// KeyPackages of each commit are claimed just before it is made, and an error says how many users were added.
func TestAddInSeveralCommits(t *testing.T) {
	w := newWorld(t, "a.example", "b.example", "c.example")
	w.limits.AddBytes = 1
	a, b, c := w.peer(alicePhone).ready(), w.peer(bobPhone).ready(), w.peer(carolPhone).ready()
	id, err := a.Create(t.Context(), CreateOptions{})
	check(t, err)
	err = a.Add(t.Context(), id, bob, carol, "mimi://c.example/u/nobody")
	if wire.CodeOf(err) != wire.NotFound || !strings.Contains(fmt.Sprint(err), "2 of 3 users were added") {
		t.Errorf("%v", err)
	}
	agree(t, id, a, b, c)
	if won := a.events(EventWon); len(won) != 2 {
		t.Errorf("%d commits, wanted 2", len(won))
	}
}
