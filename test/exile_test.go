package test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// circle is a conversation of alice, bob, carol and dave. Carol and dave are of one organization, which therefore
// still takes part when carol is removed.
type circle struct {
	*cluster.Cluster
	t                       *testing.T
	ctx                     context.Context
	dir                     string
	id                      wire.ConversationID
	alice, bob, carol, dave *client.Device
	tap                     *wiretap // of alice
}

func newCircle(t *testing.T) *circle {
	t.Helper()
	return newCircleWith(t, client.CreateOptions{Name: "Circle"})
}

func newCircleWith(t *testing.T, o client.CreateOptions) *circle {
	t.Helper()
	return newCircleOf(t, 2*time.Minute, cluster.Options{}, o)
}

// newCircleOf is newCircle with nodes of another build, or with more organizations than those of the members.
func newCircleOf(t *testing.T, patience time.Duration, nodes cluster.Options, o client.CreateOptions, more ...wire.Domain) *circle {
	t.Helper()
	dir := t.TempDir()
	c := newClusterIn(t, dir, nodes, append([]wire.Domain{"a.example", "b.example", "c.example"}, more...)...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	k := &circle{Cluster: c, t: t, ctx: ctx, dir: dir, tap: &wiretap{}}
	link, err := c.Invite(ctx, "a.example", "alice")
	if err != nil {
		t.Fatal(err)
	}
	if k.alice, err = c.Enrol(ctx, link, "phone", k.tap.apply); err != nil {
		t.Fatal(err)
	}
	k.bob, k.carol, k.dave = device(t, c, "b.example", "bob", "phone"), device(t, c, "c.example", "carol", "phone"), device(t, c, "c.example", "dave", "phone")
	if k.id, err = k.alice.Create(ctx, o); err != nil {
		t.Fatal(err)
	}
	add(ctx, t, k.alice, k.id, "mimi://b.example/u/bob", "mimi://c.example/u/carol", "mimi://c.example/u/dave")
	k.share(k.alice, k.bob, k.carol, k.dave)
	return k
}

// share waits until devices are members and share epoch, order and members with the first one.
func (k *circle) share(first *client.Device, others ...*client.Device) *client.Conversation {
	k.t.Helper()
	var at *client.Conversation
	for _, d := range others {
		err := cluster.Await(k.ctx, d, func() (bool, error) {
			var err error
			if at, err = first.Conversation(k.ctx, k.id); err != nil {
				return false, err
			}
			v, err := d.Conversation(k.ctx, k.id)
			if err != nil {
				return false, ignore(err, wire.UnknownConversation)
			}
			return v.State == client.StateActive && v.Order == at.Order && bytes.Equal(v.Authenticator, at.Authenticator) && at.Members == len(others)+1, nil
		})
		if err != nil {
			k.t.Fatal(err)
		}
	}
	return at
}

// say sends a text and waits until others have it.
func (k *circle) say(from *client.Device, text string, others ...*client.Device) {
	k.t.Helper()
	if _, err := from.SendText(k.ctx, k.id, text); err != nil {
		k.t.Fatal(err)
	}
	for _, d := range others {
		if err := cluster.Await(k.ctx, d, func() (bool, error) {
			list, err := k.texts(d)
			return slices.Contains(list, text), err
		}); err != nil {
			k.t.Fatalf("%q: %v", text, err)
		}
	}
}

func (k *circle) texts(d *client.Device) ([]string, error) {
	page, err := d.History(k.ctx, k.id, client.Query{Limit: client.MaxPage})
	if err != nil {
		return nil, err
	}
	var list []string
	for _, m := range page.Messages {
		list = append(list, m.Content.Text)
	}
	return list, nil
}

// takeOver ends carol's device and starts a modified client with the present content of her folder.
func (k *circle) takeOver(at *client.Conversation) *rogue {
	k.t.Helper()
	if err := k.StopDevice(k.carol); err != nil {
		k.t.Fatal(err)
	}
	return newRogue(k.ctx, k.t, k.Cluster, copyFolder(k.t, folderOf(k.dir, "c.example", "carol", "phone")), at)
}

// TestRemovedMemberIsOut checks that a removed member, with all that its device knew and a client that follows no
// rule, can read nothing later, can submit nothing, and gets no delivery.
func TestRemovedMemberIsOut(t *testing.T) {
	k := newCircle(t)
	rest := []*client.Device{k.bob, k.dave}
	carol := k.takeOver(k.share(k.alice, k.bob, k.carol, k.dave))
	k.say(k.alice, "while carol is here", rest...)
	if text, ok := carol.reads(k.tap.last(t)); !ok || text != "while carol is here" {
		t.Fatalf("the copy of carol's folder is not worth what the test takes it for: %q, %v", text, ok)
	}
	early := carol.message(t, "carol, early")

	if err := k.alice.Remove(k.ctx, k.id, "mimi://c.example/u/carol"); err != nil {
		t.Fatal(err)
	}
	k.share(k.alice, rest...)
	removal := k.removal()
	k.say(k.alice, "without carol", rest...)
	if text, ok := carol.reads(k.tap.last(t)); ok {
		t.Errorf("carol reads %q", text)
	}
	if _, err := k.alice.SendFile(k.ctx, k.id, "plan", bytes.NewReader([]byte("the plan")), 8, ""); err != nil {
		t.Fatal(err)
	}
	k.say(k.alice, "and the plan", rest...)
	plan := k.file(k.dave)

	k.refusedAll(carol, "after the removal", removal, plan, early)
	if err := k.bob.UpdateKeys(k.ctx, k.id); err != nil {
		t.Fatal(err)
	}
	k.share(k.alice, rest...)
	k.say(k.bob, "one epoch later", k.alice, k.dave)
	k.refusedAll(carol, "an epoch later", removal, plan, early)

	// Carol's messages reach no device, and the others continue to talk.
	k.say(k.dave, "all is well", k.alice, k.bob)
	for _, d := range []*client.Device{k.alice, k.bob, k.dave} {
		list, err := k.texts(d)
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(list, func(s string) bool { return bytes.HasPrefix([]byte(s), []byte("carol")) }) {
			t.Errorf("a member shows %q", list)
		}
	}
	// Carol's own, honest device learns of the removal and can do nothing more either.
	honest, err := k.Resume("c.example", "carol", "phone")
	if err != nil {
		t.Fatal(err)
	}
	if err := cluster.Await(k.ctx, honest, func() (bool, error) {
		v, err := honest.Conversation(k.ctx, k.id)
		return err == nil && v.State == client.StateLeft, err
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := honest.SendText(k.ctx, k.id, "x"); wire.CodeOf(err) != wire.Closed {
		t.Errorf("carol sends: %v", err)
	}
}

// file returns the newest file in a device's history.
func (k *circle) file(d *client.Device) *client.File {
	k.t.Helper()
	page, err := d.History(k.ctx, k.id, client.Query{Limit: client.MaxPage})
	if err != nil {
		k.t.Fatal(err)
	}
	for _, m := range page.Messages {
		if m.Content.File != nil {
			return m.Content.File
		}
	}
	k.t.Fatal("no file")
	return nil
}

// refusedAll tries every request that a session offers for the conversation. early is a message that carol created
// while she was a member, and did not send.
func (k *circle) refusedAll(carol *rogue, when string, removal wire.SequenceNumber, plan *client.File, early *wire.Message) {
	k.t.Helper()
	k.delivered(carol, when, removal)
	now, err := k.alice.Conversation(k.ctx, k.id)
	if err != nil {
		k.t.Fatal(err)
	}
	refuse := func(what string, err error, want ...wire.Code) {
		k.t.Helper()
		if !slices.Contains(want, wire.CodeOf(err)) || err == nil {
			k.t.Errorf("%s, %s: %v, wanted %q", when, what, err, want)
		}
	}
	// Submitting: in her own epoch, and in the present epoch with her key.
	refuse("a message of old", carol.ask(k.ctx, wire.MethodSubmit, early, nil), wire.StaleEpoch)
	late := carol.message(k.t, "carol, late")
	refuse("a message", carol.ask(k.ctx, wire.MethodSubmit, late, nil), wire.StaleEpoch)
	late.Epoch = now.Epoch
	carol.signMessage(k.t, late)
	refuse("a message as of the present epoch", carol.ask(k.ctx, wire.MethodSubmit, late, nil), wire.Forged)
	e, _ := carol.commit(k.t)
	if err := carol.group.Abandon(); err != nil {
		k.t.Fatal(err)
	}
	for what, kind := range map[string]wire.Kind{"a commit": wire.KindCommit, "a close": wire.KindClose} {
		for parent := wire.SequenceNumber(1); parent <= now.Sequence; parent++ {
			for _, epoch := range []wire.Epoch{wire.Epoch(carol.group.Epoch()), now.Epoch} {
				try := carol.envelope(kind)
				try.Epoch, try.Parent = epoch, parent
				if kind == wire.KindCommit {
					try.Commit = e.Commit
				}
				_, err := carol.update(k.ctx, k.t, try)
				refuse(fmt.Sprintf("%s for epoch %d after entry %d", what, epoch, parent), err, wire.StaleEpoch, wire.Forged, wire.Invalid)
			}
		}
	}
	// Reading.
	var entries wire.EntriesAnswer
	if err := carol.ask(k.ctx, wire.MethodEntries, &wire.EntriesRequest{Conversation: k.id}, &entries); wire.CodeOf(err) != wire.UnknownConversation && err != nil {
		k.t.Errorf("%s, entries: %v", when, err)
	}
	for _, c := range entries.Entries {
		if c.Sequence > removal {
			k.t.Errorf("%s: entry %d is handed out, carol was removed with %d", when, c.Sequence, removal)
		}
	}
	entries = wire.EntriesAnswer{}
	err = carol.ask(k.ctx, wire.MethodEntries, &wire.EntriesRequest{Conversation: k.id, Since: removal}, &entries)
	if len(entries.Entries) > 0 {
		k.t.Errorf("%s: %d entries after the removal are handed out (%v)", when, len(entries.Entries), err)
	}
	refuse("GroupInfo", carol.ask(k.ctx, wire.MethodGroupInfo, &wire.GroupInfoRequest{Conversation: k.id}, nil), wire.UnknownConversation)
	for _, org := range []wire.Domain{"a.example", "c.example"} {
		refuse(fmt.Sprintf("a file of %q", org), carol.ask(k.ctx, wire.MethodDownload, &wire.DownloadRequest{Conversation: k.id, Organization: org, Blob: plan.Blob}, nil), wire.UnknownConversation)
	}
	// A request for an address, an own old one or a new one, makes no reader.
	for _, token := range []wire.Token{carol.got()[0].Token, wire.Token(random16())} {
		_ = carol.ask(k.ctx, wire.MethodAddress, &wire.AddressRequest{Token: token}, nil) // the answer does not matter
	}
	k.delivered(carol, when, removal)
}

// delivered checks that the last item that carol gets is the entry that removes her.
func (k *circle) delivered(carol *rogue, when string, removal wire.SequenceNumber) {
	k.t.Helper()
	end := func() (end uint64) {
		var list wire.ConversationsAnswer
		if err := carol.ask(k.ctx, wire.MethodConversations, nil, &list); err != nil {
			k.t.Fatal(err)
		}
		for _, s := range list.Conversations {
			if s.Conversation == k.id {
				end = max(end, s.End)
			}
		}
		return end
	}
	if end() == 0 {
		k.t.Fatalf("%s: the node has forgotten carol before she has read the entry that removes her", when)
	}
	isRemoval := func(p *wire.Push) bool {
		c := new(wire.Committed)
		return p.Kind == wire.ItemEntry && wire.Decode(p.Payload, wire.MaxSessionFrame, c) == nil && c.Sequence >= removal
	}
	// The entry comes to the removed organization's node after the others', and pushes come independently of answers.
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); pause(k.ctx, 20*time.Millisecond) {
		got := carol.got()
		if n := len(got); n > 0 && isRemoval(got[n-1]) && got[n-1].Sequence >= end() {
			break
		}
	}
	got := carol.got()
	if len(got) == 0 {
		k.t.Fatalf("%s: carol has been given nothing at all", when)
	}
	last := got[len(got)-1]
	c := new(wire.Committed)
	if last.Kind != wire.ItemEntry || wire.Decode(last.Payload, wire.MaxSessionFrame, c) != nil || c.Sequence != removal {
		k.t.Errorf("%s: the last that carol is given is item %d, of kind %d, entry %d; she was removed with %d", when, last.Sequence, last.Kind, c.Sequence, removal)
	}
}

// TestRemovedMemberContestsItsRemoval checks that a removed member can open a branch with the old epoch's key, in
// which it is alone. The others are not disturbed and see nothing of the branch, and the removed member reads nothing
// of theirs.
func TestRemovedMemberContestsItsRemoval(t *testing.T) {
	k := newCircle(t)
	rest := []*client.Device{k.bob, k.dave}
	carol := k.takeOver(k.share(k.alice, k.bob, k.carol, k.dave))
	if err := k.alice.Remove(k.ctx, k.id, "mimi://c.example/u/carol"); err != nil {
		t.Fatal(err)
	}
	before := k.share(k.alice, rest...)
	e, staged := carol.commit(t)
	e.Commit.Contest = true
	receipt, err := carol.update(k.ctx, t, e)
	if err != nil {
		t.Fatalf("the contest is refused, and shows nothing: %v", err)
	}
	if err := carol.group.Merge(staged); err != nil {
		t.Fatal(err)
	}
	carol.parent = receipt.Sequence
	if receipt.Epoch != before.Epoch {
		t.Errorf("her branch is in epoch %d, the others in %d", receipt.Epoch, before.Epoch)
	}
	switch err := carol.ask(k.ctx, wire.MethodSubmit, carol.message(t, "carol, in her branch"), nil); {
	case wire.CodeOf(err) == wire.Forged: // her branch has ended: another organization's commit has confirmed the others' epoch
		if err := cluster.Await(k.ctx, k.alice, func() (bool, error) {
			v, err := k.alice.Conversation(k.ctx, k.id)
			return err == nil && v.Epoch > before.Epoch, err
		}); err != nil {
			t.Fatalf("carol's branch is none, and the others have not gone on: %v", err)
		}
	case err != nil:
		t.Fatalf("carol's branch is none: %v", err)
	}
	k.say(k.alice, "in the epoch of the removal", rest...)
	if text, ok := carol.reads(k.tap.last(t)); ok {
		t.Errorf("carol reads %q", text)
	}
	if err := k.dave.UpdateKeys(k.ctx, k.id); err != nil {
		t.Fatalf("the others cannot go on: %v", err)
	}
	if err := k.alice.Rename(k.ctx, k.id, "Without carol"); err != nil {
		t.Fatalf("the others cannot go on: %v", err)
	}
	after := k.share(k.alice, rest...)
	// After a contest, a member of another organization must show by a commit of its own that it follows
	// (docs/spec/consensus.md, Contests). If dave's commit does not come before that commit is due, there are more than
	// two.
	if after.Epoch < before.Epoch+2 || after.Rules.Name != "Without carol" {
		t.Errorf("epoch %d and name %q after two commits in epoch %d", after.Epoch, after.Rules.Name, before.Epoch)
	}
	k.say(k.alice, "later", rest...)
	if text, ok := carol.reads(k.tap.last(t)); ok {
		t.Errorf("carol reads %q", text)
	}
	// A commit for the others' branch needs its key.
	forged, _ := carol.commit(t)
	for parent := before.Sequence; parent <= after.Sequence; parent++ {
		if parent == carol.parent {
			continue // her own branch
		}
		forged.Epoch, forged.Parent, forged.Submission = after.Epoch, parent, wire.SubmissionID(random16())
		if _, err := carol.update(k.ctx, t, forged); err == nil || !slices.Contains([]wire.Code{wire.Forged, wire.Invalid, wire.StaleEpoch}, wire.CodeOf(err)) {
			t.Errorf("carol commits to the others' epoch after entry %d: %v", parent, err)
		}
	}
	for _, d := range []*client.Device{k.alice, k.bob, k.dave} {
		list, err := k.texts(d)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(list, []string{"in the epoch of the removal", "later"}) {
			t.Errorf("a member shows %q", list)
		}
		members, err := d.Members(k.ctx, k.id)
		if err != nil || len(members) != 3 {
			t.Errorf("%d members (%v)", len(members), err)
		}
	}
	k.delivered(carol, "after the contest", k.removal())
}

// TestPoisonCommitOverNodes checks an epoch that a member wins with a commit that no member can process. The nodes
// cannot detect it. The others continue, both with a pending change and without one, and so does the member's own
// device.
func TestPoisonCommitOverNodes(t *testing.T) {
	for name, tamper := range map[string]func(*wire.Envelope){
		"broken ciphertext": func(e *wire.Envelope) { e.Commit.Commit[len(e.Commit.Commit)-1]++ },
		"another key":       func(e *wire.Envelope) { e.Commit.Key = wire.SubmissionKey(submitter().Public().(ed25519.PublicKey)) },
		"another delivery": func(e *wire.Envelope) {
			e.Commit.Delivery.Add = []wire.Address{{Organization: "b.example", Token: wire.Token{1}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := newCircle(t)
			notices := make(chan string, 64)
			for who, d := range map[string]*client.Device{"alice": k.alice, "bob": k.bob, "dave": k.dave} {
				events := d.Subscribe(k.ctx)
				go func() {
					for e := range events {
						if e.Type == client.EventPoison {
							notices <- who
						}
					}
				}()
			}
			k.say(k.alice, "before", k.bob, k.carol, k.dave)
			carol := k.takeOver(k.share(k.alice, k.bob, k.carol, k.dave))
			e, _ := carol.commit(t)
			tamper(e)
			receipt, err := carol.update(k.ctx, t, e)
			if err != nil {
				t.Fatalf("the nodes refuse it, and it shows nothing: %v", err)
			}
			for waiting := map[string]bool{"alice": true, "bob": true, "dave": true}; len(waiting) > 0; {
				select {
				case who := <-notices:
					delete(waiting, who)
				case <-k.ctx.Done():
					t.Fatalf("no notice: %v", waiting)
				}
			}
			// Without a pending change, a member contests within about two seconds.
			if err := cluster.Await(k.ctx, k.bob, func() (bool, error) {
				v, err := k.bob.Conversation(k.ctx, k.id)
				return err == nil && v.Epoch >= receipt.Epoch && v.Sequence > receipt.Sequence, err
			}); err != nil {
				t.Fatal(err)
			}
			honest, err := k.Resume("c.example", "carol", "phone") // with what she knew before
			if err != nil {
				t.Fatal(err)
			}
			if err := k.bob.UpdateKeys(k.ctx, k.id); err != nil {
				t.Fatal(err)
			}
			k.share(k.alice, k.bob, k.dave, honest)
			k.say(k.dave, "on we go", k.alice, k.bob, honest)
			for _, d := range []*client.Device{k.alice, k.bob, k.dave, honest} {
				if list, err := k.texts(d); err != nil || !slices.Equal(list, []string{"before", "on we go"}) {
					t.Errorf("a member has %q (%v)", list, err)
				}
			}
		})
	}
}
