package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

var hybrid = mlscore.MLS128MLKEM768X25519AES128Ed25519.Earlier()

// movable waits until a device has KeyPackages of the hybrid suite too.
func (p *peer) movable() *peer {
	p.t.Helper()
	eventually(p.t, func() error {
		p.w.mu.Lock()
		defer p.w.mu.Unlock()
		if p.w.orgs[p.id.Organization()].devices[p.id].last[uint16(hybrid)] == nil {
			return fmt.Errorf("%s has no KeyPackage of the hybrid suite", p.id)
		}
		return nil
	})
	return p
}

// inSuite waits until devices are in one epoch of a conversation with a suite, each under the old id.
func inSuite(t testing.TB, id wire.ConversationID, suite mlscore.CipherSuite, list ...*peer) {
	t.Helper()
	agree(t, id, list[0], list[1:]...)
	for _, p := range list {
		eventually(t, func() error {
			all, err := p.Conversations(context.Background())
			if err == nil && (len(all) != 1 || all[0].Suite != suite) {
				err = fmt.Errorf("%s has %d conversations: %+v", p.id, len(all), all)
			}
			return err
		})
	}
}

// TestMigrate checks that a conversation moves to a hybrid suite with its members, name, rules and history, and
// continues under its old name. Messages that are sent meanwhile arrive once. The old conversation is closed in the
// end.
func TestMigrate(t *testing.T) {
	for _, public := range []bool{false, true} {
		t.Run(fmt.Sprintf("public %v", public), func(t *testing.T) {
			w, id, a, b, c := trio(t, CreateOptions{Name: "old friends", PublicHandshakes: public, AdminsAdd: true})
			for _, p := range []*peer{a, b, c} {
				p.movable()
			}
			ctx := t.Context()
			send := func(p *peer, text string) {
				_, err := p.SendText(ctx, id, text)
				check(t, err)
			}
			send(a, "before")
			for _, p := range []*peer{a, b, c} {
				hasTexts(t, p, id, "alice: before")
			}
			done := make(chan error, 1)
			var next wire.ConversationID
			go func() {
				var err error
				next, err = a.Migrate(ctx, id, MigrateOptions{Suite: hybrid})
				done <- err
			}()
			var want []string
			for n := range 20 {
				text := fmt.Sprint("meanwhile ", n)
				send(b, text)
				want = append(want, "bob: "+text)
				time.Sleep(2 * time.Millisecond)
			}
			check(t, <-done)
			if next == id {
				t.Fatal("the successor has the old id")
			}
			inSuite(t, id, hybrid, a, b, c)
			send(c, "after")
			want = append(append([]string{"alice: before"}, want...), "carol: after")
			for _, p := range []*peer{a, b, c} {
				eventually(t, func() error {
					got := p.texts(id)
					slices.Sort(got)
					sorted := slices.Sorted(slices.Values(want))
					if !slices.Equal(got, sorted) {
						return fmt.Errorf("%s has %q, wanted %q", p.id, got, sorted)
					}
					return nil
				})
				v, err := p.Conversation(ctx, id)
				check(t, err)
				if v.ID != next || v.From != id || v.Rules.Name != "old friends" || v.Rules.MembersAdd || v.Members != 3 {
					t.Errorf("%s sees %+v", p.id, v)
				}
				if len(p.events(EventMoved)) != 1 || len(p.events(EventDivergence)) > 0 || len(p.events(EventPoison)) > 0 {
					t.Errorf("%s got the events %v", p.id, p.seen)
				}
			}
			eventually(t, func() error {
				w.mu.Lock()
				defer w.mu.Unlock()
				if !w.convs[id].closed || w.convs[next].closed {
					return errors.New("the old conversation is open, or the new one closed")
				}
				return nil
			})
			dave := w.peer("mimi://a.example/d/dave/phone").ready().movable()
			check(t, a.Add(ctx, id, dave.id.User()))
			agree(t, next, a, b, c, dave)
			check(t, b.UpdateKeys(ctx, id))
			check(t, a.Remove(ctx, id, carol))
			agree(t, next, a, b, dave)
			for _, p := range []*peer{a, b} {
				p.restart()
			}
			send(b, "still here")
			eventually(t, func() error {
				if got := a.texts(id); got[len(got)-1] != "bob: still here" || len(got) != len(want)+1 {
					return fmt.Errorf("alice has %q", got)
				}
				return nil
			})
			if _, err := a.Migrate(ctx, id, MigrateOptions{Suite: 1}); err != nil {
				t.Fatalf("and back: %v", err)
			}
			inSuite(t, id, 1, a, b)
			if got := a.texts(id); len(got) != len(want)+1 {
				t.Errorf("the history is %q", got)
			}
		})
	}
}

// TestMigrateFilesAndReceipts checks that earlier files are available afterwards, and that receipts find their
// messages.
func TestMigrateFilesAndReceipts(t *testing.T) {
	_, id, a, b, c := trio(t, CreateOptions{})
	for _, p := range []*peer{a, b, c} {
		p.movable()
	}
	ctx := t.Context()
	c.stop() // it reads, and sends receipts, after the migration
	content := bytes.Repeat([]byte("file "), 50000)
	_, err := a.SendFile(ctx, id, "f", bytes.NewReader(content), int64(len(content)), "see")
	check(t, err)
	hasTexts(t, b, id, "alice: see")
	if _, err := a.Migrate(ctx, id, MigrateOptions{Suite: hybrid}); err != nil {
		t.Fatal(err)
	}
	c.start()
	inSuite(t, id, hybrid, a, b, c)
	page, err := b.History(ctx, id, Query{})
	check(t, err)
	var got bytes.Buffer
	check(t, b.SaveFile(ctx, id, page.Messages[0].Content.File, &got, 0))
	if !bytes.Equal(got.Bytes(), content) {
		t.Error("the file has changed")
	}
	eventually(t, func() error {
		page, err := a.History(ctx, id, Query{})
		if err == nil && page.Messages[0].Delivered != 2 {
			err = fmt.Errorf("delivered to %d", page.Messages[0].Delivered)
		}
		return err
	})
}

// TestMigrateRefusals checks that nothing is closed if a device cannot follow, or if a user may not migrate.
func TestMigrateRefusals(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{})
	for _, p := range []*peer{a, b, c} {
		p.movable()
	}
	ctx := t.Context()
	refused := func(p *peer, o MigrateOptions, code wire.Code, words string) {
		t.Helper()
		_, err := p.Migrate(ctx, id, o)
		if wire.CodeOf(err) != code || !strings.Contains(err.Error(), words) {
			t.Errorf("%s to %v: %v, wanted %v with %q", p.id, o.Suite, err, code, words)
		}
	}
	refused(b, MigrateOptions{Suite: hybrid}, wire.Invalid, "only admins")
	refused(a, MigrateOptions{Suite: 1}, wire.Invalid, "already")
	refused(a, MigrateOptions{Suite: 2}, wire.Invalid, "signs otherwise")
	w.mu.Lock()
	delete(w.orgs["c.example"].devices[c.id].last, uint16(hybrid))
	delete(w.orgs["c.example"].devices[c.id].packages, uint16(hybrid))
	before := len(w.convs)
	w.mu.Unlock()
	refused(a, MigrateOptions{Suite: hybrid}, wire.NoneLeft, string(c.id))
	w.mu.Lock()
	if len(w.convs) != before {
		t.Error("a successor was created")
	}
	w.mu.Unlock()
	inSuite(t, id, 1, a, b, c)
	check(t, b.UpdateKeys(ctx, id))
}

// TestMigrateWithoutItsFounder checks that the other members found the successor, once, if the founder disappears for
// good after the ReInit has been ordered.
func TestMigrateWithoutItsFounder(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{})
	for _, p := range []*peer{a, b, c} {
		p.movable()
	}
	ctx := t.Context()
	entries := make(map[wire.ConversationID]int)
	w.mu.Lock()
	w.faults.refuse = func(wire.Method) *wire.Error { // alice's process dies with the answer to her ReInit
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.convs[id].log) == 3 {
			a.disk.mu.Lock()
			a.disk.dead = true
			a.disk.mu.Unlock()
		}
		return nil
	}
	w.mu.Unlock()
	brief, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	if _, err := a.Migrate(brief, id, MigrateOptions{Suite: hybrid}); err == nil {
		t.Fatal("alice was to die")
	}
	inSuite(t, id, hybrid, b, c)
	_, err := b.SendText(ctx, id, "without you")
	check(t, err)
	hasTexts(t, c, id, "bob: without you")
	w.mu.Lock()
	w.faults.refuse = nil
	w.mu.Unlock()
	a.restart()
	inSuite(t, id, hybrid, a, b, c)
	hasTexts(t, a, id, "bob: without you")
	w.mu.Lock()
	defer w.mu.Unlock()
	for conv, v := range w.convs {
		entries[conv] = len(v.log)
	}
	if len(entries) != 2 {
		t.Errorf("conversations and their entries: %v, wanted the old one and one successor", entries)
	}
}

// FuzzFounding decodes the founding that an admin sends with a ReInit: it has one encoding, and it contains all blobs
// that it names.
func FuzzFounding(f *testing.F) {
	blob := []byte("welcome")
	e := &wire.Envelope{Version: wire.EnvelopeVersion, Conversation: "conversation-one", Submission: wire.SubmissionID{1}, Kind: wire.KindCommit, Parent: 1,
		Commit: &wire.CommitBundle{Commit: []byte{1}, Key: wire.SubmissionKey{1}, Welcome: &wire.Payload{Blob: &wire.BlobRef{Hash: hashOf(blob), Size: uint64(len(blob))}}}}
	raw, err := wire.Encode(e)
	if err != nil {
		f.Fatal(err)
	}
	for _, blobs := range [][][]byte{{blob}, {[]byte("another")}, nil} {
		v := &founding{Envelope: raw, Blobs: blobs}
		if _, err := v.open(); (err == nil) != (len(blobs) > 0 && bytes.Equal(blobs[0], blob)) {
			f.Errorf("with %q: %v", blobs, err)
		}
		b, err := wire.Encode(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v := new(founding)
		if wire.Decode(b, maxRecord, v) != nil {
			return
		}
		again, err := wire.Encode(v)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("decoded from %x, encodes to %x (%v)", b, again, err)
		}
		e, err := v.open()
		if err != nil {
			return
		}
		for _, ref := range e.Blobs() {
			if !slices.ContainsFunc(v.Blobs, func(b []byte) bool { return hashOf(b) == ref.Hash }) {
				t.Fatalf("%v is not there", ref)
			}
		}
	})
}
