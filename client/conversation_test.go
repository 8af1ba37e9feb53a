package client

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// trio makes a conversation of alice, bob and carol, of three organizations.
func trio(t *testing.T, o CreateOptions) (w *world, id wire.ConversationID, a, b, c *peer) {
	t.Helper()
	w = newWorld(t, "a.example", "b.example", "c.example")
	a, b, c = w.peer(alicePhone).ready(), w.peer(bobPhone).ready(), w.peer(carolPhone).ready()
	id, err := a.Create(t.Context(), o)
	check(t, err)
	check(t, a.Add(t.Context(), id, bob, carol))
	agree(t, id, a, b, c)
	return w, id, a, b, c
}

// hasTexts waits until a device's history is want.
func hasTexts(t testing.TB, p *peer, id wire.ConversationID, want ...string) {
	t.Helper()
	eventually(t, func() error {
		if got := p.texts(id); !slices.Equal(got, want) {
			return fmt.Errorf("%s has %q, wanted %q", p.id, got, want)
		}
		return nil
	})
}

func inState(t testing.TB, p *peer, id wire.ConversationID, want State) {
	t.Helper()
	eventually(t, func() error {
		c, err := p.Conversation(context.Background(), id)
		if err == nil && c.State != want {
			err = fmt.Errorf("%s is %v (%s), wanted %v", p.id, c.State, c.Why, want)
		}
		return err
	})
}

func TestAddingUsersIsOneCommit(t *testing.T) {
	w, id, a, b, _ := trio(t, CreateOptions{})
	w.mu.Lock()
	entries := len(w.convs[id].log)
	w.mu.Unlock()
	if entries != 2 {
		t.Errorf("%d entries, wanted the create and one commit", entries)
	}
	eventually(t, func() error {
		if len(b.events(EventJoined)) != 1 || len(a.events(EventAdded)) != 2 || len(a.events(EventWon)) != 1 {
			return fmt.Errorf("events: %v, %v, %v", b.events(EventJoined), a.events(EventAdded), a.events(EventWon))
		}
		return nil
	})
}

func TestRacingCommitsAllTakeEffect(t *testing.T) {
	_, id, a, b, c := trio(t, CreateOptions{MembersRename: true})
	var wg sync.WaitGroup
	for i, p := range []*peer{a, b, c} {
		for range 3 {
			wg.Go(func() {
				if err := p.UpdateKeys(t.Context(), id); err != nil {
					t.Errorf("%s: %v", p.id, err)
				}
			})
		}
		wg.Go(func() {
			if err := p.Rename(t.Context(), id, fmt.Sprint("name ", i)); err != nil {
				t.Errorf("%s: %v", p.id, err)
			}
		})
	}
	wg.Wait()
	agree(t, id, a, b, c)
	d, err := a.Conversation(t.Context(), id)
	check(t, err)
	if d.Epoch != 13 {
		t.Errorf("epoch %d after 13 commits", d.Epoch)
	}
	if len(a.events(EventDivergence))+len(b.events(EventPoison)) > 0 {
		t.Errorf("alarms: %v %v", a.events(EventDivergence), b.events(EventPoison))
	}
}

func TestRemovedMemberHearsNothingMore(t *testing.T) {
	_, id, a, b, c := trio(t, CreateOptions{})
	check(t, a.Remove(t.Context(), id, bob))
	inState(t, b, id, StateLeft)
	_, err := a.SendText(t.Context(), id, "He is gone")
	check(t, err)
	hasTexts(t, c, id, "alice: He is gone")
	if got := b.texts(id); len(got) > 0 {
		t.Errorf("bob reads %q", got)
	}
	if _, err := b.SendText(t.Context(), id, "Hello?"); wire.CodeOf(err) != wire.Closed {
		t.Errorf("bob sends after his removal: %v", err)
	}
	check(t, a.Add(t.Context(), id, bob))
	agree(t, id, a, b, c)
	_, err = b.SendText(t.Context(), id, "Back")
	check(t, err)
	hasTexts(t, c, id, "alice: He is gone", "bob: Back")
	hasTexts(t, b, id, "bob: Back")
}

func TestOnlyAdminsRemove(t *testing.T) {
	_, id, a, b, c := trio(t, CreateOptions{})
	if err := b.Remove(t.Context(), id, carol); err == nil || !strings.Contains(err.Error(), "only admins") {
		t.Fatalf("bob removes carol: %v", err)
	}
	if err := b.Rename(t.Context(), id, "x"); err == nil {
		t.Fatal("bob renames")
	}
	ghost := wire.UserID("mimi://a.example/u/ghost")
	for _, bad := range []RulesChange{{Promote: []wire.UserID{ghost}}, {Demote: []wire.UserID{alice}}, {Promote: []wire.UserID{ghost}, Demote: []wire.UserID{alice}}} {
		if err := a.ChangeRules(t.Context(), id, bad); wire.CodeOf(err) != wire.Invalid {
			t.Errorf("%v: %v", bad, err)
		}
	}
	check(t, a.ChangeRules(t.Context(), id, RulesChange{Promote: []wire.UserID{bob}}))
	agree(t, id, a, b, c)
	check(t, b.Remove(t.Context(), id, carol))
	inState(t, c, id, StateLeft)
	agree(t, id, a, b)
	members, err := b.Members(t.Context(), id)
	check(t, err)
	if len(members) != 2 || !members[1].Self || !members[1].Admin || members[0].SafetyNumber == "" || members[0].Expired {
		t.Errorf("members: %+v", members)
	}
	other, err := a.Members(t.Context(), id)
	check(t, err)
	if other[1].SafetyNumber != members[0].SafetyNumber {
		t.Errorf("safety numbers %q and %q", other[1].SafetyNumber, members[0].SafetyNumber)
	}
	one, err := a.ConversationNumber(t.Context(), id)
	check(t, err)
	two, err := b.ConversationNumber(t.Context(), id)
	check(t, err)
	if one != two || one == "" {
		t.Errorf("conversation numbers %q and %q", one, two)
	}
}

func TestLeavingIsCommittedByOthers(t *testing.T) {
	_, id, a, b, c := trio(t, CreateOptions{})
	check(t, c.Leave(t.Context(), id))
	inState(t, c, id, StateLeft)
	agree(t, id, a, b)
	check(t, b.Leave(t.Context(), id))
	inState(t, b, id, StateLeft)
	eventually(t, func() error {
		members, err := a.Members(t.Context(), id)
		if err == nil && len(members) > 1 {
			err = fmt.Errorf("alice sees %d members", len(members))
		}
		return err
	})
	check(t, a.Leave(t.Context(), id)) // the only member: leaving closes the conversation
	inState(t, a, id, StateLeft)
}

func TestCloseEndsItForAll(t *testing.T) {
	_, id, a, b, c := trio(t, CreateOptions{})
	if err := b.Close(t.Context(), id); wire.CodeOf(err) != wire.Denied {
		t.Fatalf("bob closes: %v", err)
	}
	check(t, a.Close(t.Context(), id))
	for _, p := range []*peer{a, b, c} {
		inState(t, p, id, StateLeft)
	}
}

func TestMessagesAheadOfTheirCommitAreHeld(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{})
	w.mu.Lock()
	w.faults.lag["b.example"] = true
	w.faults.refuse = func(m wire.Method) *wire.Error {
		if m == wire.MethodEntries {
			return wire.Errorf(wire.Unavailable, "entries", "not now")
		}
		return nil
	}
	w.mu.Unlock()
	check(t, a.UpdateKeys(t.Context(), id))
	for i := range 5 {
		_, err := a.SendText(t.Context(), id, fmt.Sprint(i))
		check(t, err)
	}
	want := []string{"alice: 0", "alice: 1", "alice: 2", "alice: 3", "alice: 4"}
	hasTexts(t, c, id, want...)
	eventually(t, func() error {
		n := 0
		err := b.turn(context.Background(), func(u *unit) error {
			return u.Scan(recordKey(recordHeld, idPart(id)), func(_, _ []byte) error { n++; return nil })
		})
		if n < 5 { // with receipts, more
			err = fmt.Errorf("%d held", n)
		}
		return err
	})
	if got := b.texts(id); len(got) > 0 {
		t.Errorf("bob reads %q before the commit", got)
	}
	b.restart()
	w.catchUp("b.example")
	hasTexts(t, b, id, want...)
}

func TestMissingEntriesAreFetched(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{})
	w.mu.Lock()
	w.faults.lag["b.example"] = true // and the lag stays
	w.mu.Unlock()
	check(t, a.UpdateKeys(t.Context(), id))
	_, err := a.SendText(t.Context(), id, "Hello")
	check(t, err)
	hasTexts(t, b, id, "alice: Hello")
	agree(t, id, a, b, c)
}

func TestWhoWasAwayCatchesUp(t *testing.T) {
	_, id, a, b, c := trio(t, CreateOptions{})
	b.stop()
	var want []string
	for i := range 6 {
		check(t, a.UpdateKeys(t.Context(), id))
		_, err := a.SendText(t.Context(), id, fmt.Sprint(i))
		check(t, err)
		want = append(want, fmt.Sprint("alice: ", i))
	}
	hasTexts(t, c, id, want...)
	b.restart()
	hasTexts(t, b, id, want...)
	agree(t, id, a, b, c)
}

func TestMessagesOfAnEndedEpochAreProtectedAgain(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{})
	a.stop()
	a.open()
	for i := range 3 { // while there is no connection
		_, err := a.SendText(t.Context(), id, fmt.Sprint(i))
		check(t, err)
	}
	for range 4 {
		check(t, b.UpdateKeys(t.Context(), id))
	}
	w.disconnect(b.id)
	a.run()
	want := []string{"alice: 0", "alice: 1", "alice: 2"}
	hasTexts(t, b, id, want...)
	hasTexts(t, c, id, want...)
	eventually(t, func() error {
		if n := len(a.events(EventAccepted)); n != 3 {
			return fmt.Errorf("%d accepted", n)
		}
		return nil
	})
}

func TestReceiptsReportDelivery(t *testing.T) {
	_, id, a, b, c := trio(t, CreateOptions{})
	m, err := a.SendText(t.Context(), id, "Hello")
	check(t, err)
	eventually(t, func() error {
		page, err := a.History(t.Context(), id, Query{})
		if err == nil && (page.Messages[0].Delivered != 2 || page.Messages[0].Status != StatusAccepted || page.Messages[0].ID != m) {
			err = fmt.Errorf("%+v", page.Messages[0])
		}
		return err
	})
	hasTexts(t, b, id, "alice: Hello")
	hasTexts(t, c, id, "alice: Hello")
}

func TestHistoryInPages(t *testing.T) {
	w := newWorld(t, "a.example")
	a := w.peer(alicePhone).ready()
	id, err := a.Create(t.Context(), CreateOptions{})
	check(t, err)
	for i := range 25 {
		_, err := a.SendText(t.Context(), id, fmt.Sprintf("Number %d", i))
		check(t, err)
	}
	page, err := a.History(t.Context(), id, Query{Limit: 10})
	check(t, err)
	if len(page.Messages) != 10 || page.Messages[9].Content.Text != "Number 24" || !page.More || page.Next != 15 {
		t.Errorf("newest page: %d, next %d", len(page.Messages), page.Next)
	}
	page, err = a.History(t.Context(), id, Query{Search: "NUMBER 2", Limit: MaxPage})
	check(t, err)
	if len(page.Messages) != 6 || page.More {
		t.Errorf("found %d, more %v", len(page.Messages), page.More)
	}
	page, err = a.History(t.Context(), id, Query{Forward: true, After: 20})
	check(t, err)
	if len(page.Messages) != 5 || page.More || page.Messages[0].Number != 20 {
		t.Errorf("forward: %d, more %v", len(page.Messages), page.More)
	}
	if _, err = a.History(t.Context(), id, Query{Limit: MaxPage + 1}); wire.CodeOf(err) != wire.TooLarge {
		t.Errorf("page over the limit: %v", err)
	}
}

func TestFilesOfAllSizes(t *testing.T) {
	_, id, a, b, _ := trio(t, CreateOptions{})
	for _, size := range []int{0, 1, chunkSize - 1, chunkSize, chunkSize + 1, 5*chunkSize + 7} {
		content := bytes.Repeat([]byte{byte(size), 7, 9}, size/3+1)[:size]
		m, err := a.SendFile(t.Context(), id, "a.bin", bytes.NewReader(content), int64(size), "see this")
		check(t, err)
		var f *File
		eventually(t, func() error {
			for _, e := range b.events(EventMessage) {
				if e.Message.ID == m {
					f = e.Message.Content.File
					return nil
				}
			}
			return fmt.Errorf("no message with the file")
		})
		for _, from := range []int{0, size / 2, size} {
			var got bytes.Buffer
			check(t, b.SaveFile(t.Context(), id, f, &got, uint64(from)))
			if !bytes.Equal(got.Bytes(), content[from:]) {
				t.Errorf("%d bytes from %d: got %d others", size, from, got.Len())
			}
		}
	}
}

func TestSecondDeviceIsAddedByTheFirst(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{AdminsAdd: true})
	code, _, err := b.InviteDevice(t.Context(), 0)
	check(t, err)
	laptop := w.enrolled(t, "mimi://b.example/d/bob/laptop", code)
	eventually(t, func() error { // the first device checks from time to time
		_, err := laptop.Conversation(t.Context(), id)
		return err
	})
	agree(t, id, a, b, c, laptop)
	_, err = laptop.SendText(t.Context(), id, "From the laptop")
	check(t, err)
	for _, p := range []*peer{a, b, c, laptop} {
		hasTexts(t, p, id, "bob: From the laptop")
	}
	check(t, b.Revoke(t.Context(), laptop.id))
	for _, p := range []*peer{a, b, c} {
		eventually(t, func() error {
			members, err := p.Members(t.Context(), id)
			if err == nil && len(members) != 3 {
				err = fmt.Errorf("%s sees %d members", p.id, len(members))
			}
			return err
		})
	}
	<-laptop.ended
	if laptop.err == nil {
		t.Error("a revoked device runs on")
	}
}

func TestRevokedDeviceIsRemovedByMembersWhoAreNoAdmins(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{})
	a.stop() // the admin
	w.mu.Lock()
	check(t, w.revoke(w.orgs["c.example"], c.id))
	w.mu.Unlock()
	eventually(t, func() error {
		b.queues.kick(queueUpkeep)
		members, err := b.Members(t.Context(), id)
		if err == nil && len(members) != 2 {
			err = fmt.Errorf("%d members", len(members))
		}
		return err
	})
	a.restart()
	agree(t, id, a, b)
	if len(a.events(EventPoison)) > 0 {
		t.Errorf("alice does not take the proof: %v", a.events(EventPoison)[0].Err)
	}
}

// TestRenewedCertificateReachesTheMembers checks that a renewed certificate goes into the leaves of all
// conversations, and into the next KeyPackages.
func TestRenewedCertificateReachesTheMembers(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{})
	w.mu.Lock()
	o := w.orgs["b.example"]
	account := o.devices[b.id]
	o.life = 950 * time.Hour
	chain, err := o.certify(b.id, account.key)
	check(t, err)
	account.chain = chain
	w.mu.Unlock()
	cert, err := x509.ParseCertificate(chain[0])
	check(t, err)
	b.queues.kick(queueUpkeep)
	for _, p := range []*peer{a, b, c} {
		eventually(t, func() error {
			members, err := p.Members(t.Context(), id)
			if err == nil && !members[1].Ends.Equal(cert.NotAfter) {
				err = fmt.Errorf("%s sees a certificate that ends on %v", p.id, members[1].Ends)
			}
			return err
		})
	}
	agree(t, id, a, b, c)
}

// TestDeviceThatLeftStaysOut checks that the user's other device does not add a device again that left, or that
// somebody removed; people can add it.
func TestDeviceThatLeftStaysOut(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	w.timing = func(q *Timing) { q.Upkeep = 10 * time.Millisecond }
	a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
	laptop := w.peer("mimi://b.example/d/bob/laptop").ready()
	confirm(t, b, laptop)
	id, err := a.Create(t.Context(), CreateOptions{})
	check(t, err)
	check(t, a.Add(t.Context(), id, bob))
	agree(t, id, a, b, laptop)
	// stays waits until bob's phone has checked its devices several times, and then expects this number of members.
	stays := func(members int) {
		t.Helper()
		w.mu.Lock()
		w.costs = make(map[wire.Method]cost)
		w.mu.Unlock()
		b.restart()
		w.counted(t, map[wire.Method]int{wire.MethodDevices: 10})
		if v, err := a.Conversation(t.Context(), id); err != nil || v.Members != members {
			t.Errorf("%d members, wanted %d (%v)", v.Members, members, err)
		}
	}
	check(t, laptop.Leave(t.Context(), id))
	inState(t, laptop, id, StateLeft)
	stays(2)
	check(t, a.Add(t.Context(), id, bob))
	agree(t, id, a, b, laptop)
	stays(3)
	check(t, a.RemoveDevices(t.Context(), id, laptop.id))
	inState(t, laptop, id, StateLeft)
	stays(2)
}
