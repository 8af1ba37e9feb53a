package client

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/content"
	"github.com/mlsfed/mlsfed/content/timeline"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// message waits until a device has a message, and until ok accepts it.
func (p *peer) message(id wire.ConversationID, m MessageID, ok func(*Message) error) *Message {
	p.t.Helper()
	var found *Message
	eventually(p.t, func() error {
		for q := (Query{Limit: MaxPage}); ; {
			page, err := p.History(p.t.Context(), id, q)
			if err != nil {
				return err
			}
			for i := range page.Messages {
				if found = &page.Messages[i]; found.ID != m {
					continue
				}
				if ok == nil {
					return nil
				}
				return ok(found)
			}
			if !page.More {
				break
			}
			q.Before = page.Next
		}
		return fmt.Errorf("%s has no message %v", p.id, m)
	})
	return found
}

// sendRaw sends a body as an application message, as a hostile device can.
func (p *peer) sendRaw(id wire.ConversationID, body []byte) {
	p.t.Helper()
	check(p.t, p.turn(p.t.Context(), func(u *unit) error {
		t, err := p.usableConversation(u, id)
		if err == nil {
			err = t.queue(body, 0)
		}
		if err != nil {
			return err
		}
		return t.save()
	}))
}

// holds reports whether a text is in a record of the device's store.
func (p *peer) holds(text string) (found []string) {
	check(p.t, p.disk.Scan(nil, func(key, value []byte) error {
		if bytes.Contains(value, []byte(text)) {
			found = append(found, string(key[:2]))
		}
		return nil
	}))
	return found
}

func saying(text string) func(*Message) error {
	return func(m *Message) error {
		if m.Content.Text != text {
			return fmt.Errorf("message %v is %q, wanted %q", m.ID, m.Content.Text, text)
		}
		return nil
	}
}

func reactions(want ...string) func(*Message) error {
	return func(m *Message) error {
		var got []string
		for _, r := range m.Reactions {
			got = append(got, r.User.Name()+" "+r.Text)
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("reactions are %q, wanted %q", got, want)
		}
		return nil
	}
}

func goneAs(want Gone, by wire.UserID) func(*Message) error {
	return func(m *Message) error {
		if m.Gone != want || m.GoneBy != by || m.Content.Text != "" {
			return fmt.Errorf("message %v is gone %v by %s, %q", m.ID, m.Gone, m.GoneBy, m.Content.Text)
		}
		return nil
	}
}

// TestActsReachAllMembers checks replies, reactions, edits and deletes among three organizations, their events, and that
// a deleted text is in no store.
func TestActsReachAllMembers(t *testing.T) {
	_, id, a, b, c := trio(t, CreateOptions{})
	all := []*peer{a, b, c}
	ctx := t.Context()
	first, err := a.SendText(ctx, id, "soup at noon?")
	check(t, err)
	m := b.message(id, first, saying("soup at noon?"))
	reply, err := b.Reply(ctx, m, "rather at one")
	check(t, err)
	if _, err := b.React(ctx, m, "+"); err != nil {
		t.Fatal(err)
	}
	again, err := b.React(ctx, m, "+")
	check(t, err)
	if got := b.message(id, first, reactions("bob +")); again.IsZero() || len(got.Reactions) != 1 {
		t.Errorf("after a second time %+v", got.Reactions)
	}
	check(t, errorOf(c.React(ctx, c.message(id, first, nil), "x")))
	for _, p := range all {
		p.message(id, first, reactions("bob +", "carol x"))
		r := p.message(id, reply, saying("rather at one"))
		if r.Reply == nil || !r.Reply.Known || r.Reply.Number != p.message(id, first, nil).Number {
			t.Errorf("%s: the reply answers %+v", p.id, r.Reply)
		}
	}
	check(t, errorOf(a.Edit(ctx, a.message(id, first, nil), "stew at noon?")))
	for _, p := range all {
		if got := p.message(id, first, saying("stew at noon?")); !got.Edited || got.Version == got.Full {
			t.Errorf("%s: %+v", p.id, got.Details)
		}
	}
	check(t, errorOf(c.React(ctx, c.message(id, first, nil), "y"))) // to the edited version
	check(t, errorOf(b.Unreact(ctx, b.message(id, first, nil), "")))
	for _, p := range all {
		p.message(id, first, reactions("carol x", "carol y"))
	}
	if _, err := b.Unreact(ctx, b.message(id, first, nil), ""); wire.CodeOf(err) != wire.NotFound {
		t.Errorf("withdrawn twice: %v", err)
	}
	if _, err := b.Edit(ctx, b.message(id, first, nil), "mine"); wire.CodeOf(err) != wire.Invalid {
		t.Errorf("an edit of another's message: %v", err)
	}
	check(t, errorOf(a.Delete(ctx, a.message(id, first, nil))))
	for _, p := range all {
		p.message(id, first, goneAs(Deleted, a.id.User()))
		eventually(t, func() error {
			for _, text := range []string{"soup at noon", "stew at noon"} {
				if found := p.holds(text); len(found) > 0 {
					return fmt.Errorf("%s has %q in %q", p.id, text, found)
				}
			}
			return nil
		})
		eventually(t, func() error {
			var kinds []string
			for _, e := range p.events(EventChanged) {
				kinds = append(kinds, e.Change.String())
			}
			want := []string{"deleted", "edited", "reaction", "reaction", "reaction", "reaction withdrawn"}
			if slices.Sort(kinds); !slices.Equal(kinds, want) {
				return fmt.Errorf("%s got the changes %q", p.id, kinds)
			}
			return nil
		})
	}
	if _, err := b.React(ctx, m, "+"); wire.CodeOf(err) != wire.NotFound {
		t.Errorf("a reaction to a deleted message: %v", err)
	}
	reported(t, a, EventActed, 2)
}

func errorOf[T any](_ T, err error) error { return err }

// TestOnlyTheAuthorChangesAMessage checks that an edit and a delete by a device that breaks the rules are shown as
// refused, before and after the message, and also after a restart.
func TestOnlyTheAuthorChangesAMessage(t *testing.T) {
	_, id, a, b, c := trio(t, CreateOptions{})
	ctx := t.Context()
	first, err := a.SendText(ctx, id, "mine")
	check(t, err)
	m := b.message(id, first, saying("mine"))
	for _, forged := range []*content.Content{content.Edit(nil, m.Full, 7, plainPart("forged")), content.Delete(nil, m.Full)} {
		check(t, b.random(forged.Salt[:]))
		body, err := forged.Encode(content.Limits{})
		check(t, err)
		b.sendRaw(id, body)
	}
	for _, p := range []*peer{a, c} {
		refused := func(m *Message) error {
			if len(m.Refused) != 2 || m.Refused[0].User != b.id.User() || m.Content.Text != "mine" || m.Edited {
				return fmt.Errorf("%q, refused are %+v", m.Content.Text, m.Refused)
			}
			return nil
		}
		p.message(id, first, refused)
		p.restart()
		p.message(id, first, refused)
		if found := p.holds("forged"); len(found) > 0 {
			t.Errorf("%s keeps the refused text in %q", p.id, found)
		}
	}
}

// withoutContents are the extensions of the build before this format.
var withoutContents = []mlscore.ExtensionType{
	extensionRules, extensionAddress, extensionSuccession, extensionAccount, extensionReaders, extensionRest,
}

// TestDeviceOfThePreviousBuild checks that a conversation keeps to the earlier format while a member's device knows no
// other, that it changes the format when that device is gone, and that messages from before can be changed then.
func TestDeviceOfThePreviousBuild(t *testing.T) {
	w := newWorld(t, "a.example", "b.example", "c.example")
	w.extensions = map[wire.DeviceID][]mlscore.ExtensionType{carolPhone: withoutContents}
	a, b, c := w.peer(alicePhone).ready(), w.peer(bobPhone).ready(), w.peer(carolPhone).ready()
	ctx := t.Context()
	id, err := a.Create(ctx, CreateOptions{})
	check(t, err)
	check(t, a.Add(ctx, id, bob, carol))
	agree(t, id, a, b, c)
	var olds []MessageID
	for n := range indexBatch + 5 {
		old, err := a.SendText(ctx, id, fmt.Sprint("old ", n))
		check(t, err)
		olds = append(olds, old)
	}
	last := len(olds) - 1
	m := b.message(id, olds[last], saying(fmt.Sprint("old ", last)))
	check(t, errorOf(b.Reply(ctx, m, "an answer")))
	for _, f := range []func() error{
		func() error { return errorOf(b.React(ctx, m, "+")) },
		func() error { return errorOf(a.Edit(ctx, a.message(id, olds[0], nil), "x")) },
		func() error { return errorOf(b.Write(ctx, id, "x", ExpireAfter(time.Minute))) },
		func() error { return b.SetExpiry(ctx, id, time.Minute) },
	} {
		if err := f(); wire.CodeOf(err) != wire.Invalid || !strings.Contains(err.Error(), "release") {
			t.Errorf("with a device of the previous build: %v", err)
		}
	}
	check(t, eachMessage(t, a, id, func(rec *messageRecord) error {
		if isMIMI(rec.Content) {
			return errors.New("a message has the format that carol's device does not know")
		}
		return nil
	}))
	eventually(t, func() error {
		if got := c.texts(id); len(got) != len(olds)+1 {
			return fmt.Errorf("carol has %d messages", len(got))
		}
		return nil
	})
	if n := len(c.events(EventUnreadable)); n > 0 {
		t.Errorf("carol cannot read %d messages", n)
	}
	check(t, a.Remove(ctx, id, carol))
	agree(t, id, a, b)
	check(t, errorOf(b.React(ctx, b.message(id, olds[0], nil), "+")))
	check(t, errorOf(a.Edit(ctx, a.message(id, olds[last], nil), "new")))
	for _, p := range []*peer{a, b} {
		p.message(id, olds[0], reactions("bob +"))
		p.message(id, olds[last], saying("new"))
		p.restart()
		p.message(id, olds[0], reactions("bob +"))
		p.message(id, olds[last], saying("new"))
	}
	mixed, err := b.SendText(ctx, id, "both formats")
	check(t, err)
	got := a.message(id, mixed, saying("both formats"))
	check(t, a.turn(ctx, func(u *unit) error {
		th, err := a.usableConversation(u, id)
		check(t, err)
		rec, _, err := th.messageAt(got.Number)
		if !isMIMI(rec.Content) {
			t.Error("the message is in the earlier format")
		}
		return err
	}))
}

// TestDeviceOfThePreviousBuildJoins checks that messages which wait when a device of the previous build joins are sent in
// the format that it knows, once.
func TestDeviceOfThePreviousBuildJoins(t *testing.T) {
	w := newWorld(t, "a.example", "b.example", "c.example")
	w.extensions = map[wire.DeviceID][]mlscore.ExtensionType{carolPhone: withoutContents}
	a, b, c := w.peer(alicePhone).ready(), w.peer(bobPhone).ready(), w.peer(carolPhone).ready()
	ctx := t.Context()
	id, err := a.Create(ctx, CreateOptions{})
	check(t, err)
	check(t, a.Add(ctx, id, bob))
	agree(t, id, a, b)
	b.stop()
	var sent []MessageID
	for n := range 3 {
		m, err := b.SendText(ctx, id, fmt.Sprint("waits ", n))
		check(t, err)
		sent = append(sent, m)
	}
	check(t, a.Add(ctx, id, carol))
	agree(t, id, a, c)
	for range 3 { // the epoch of the messages is not the last ended one
		check(t, a.UpdateKeys(ctx, id))
	}
	b.start()
	agree(t, id, a, b, c)
	hasTexts(t, c, id, "bob: waits 0", "bob: waits 1", "bob: waits 2")
	hasTexts(t, a, id, "bob: waits 0", "bob: waits 1", "bob: waits 2")
	if n := len(c.events(EventUnreadable)); n > 0 {
		t.Errorf("carol cannot read %d messages", n)
	}
	if one, other := a.message(id, sent[1], nil), b.message(id, sent[1], nil); one.Full != other.Full {
		t.Errorf("the message is %v for alice, %v for bob", one.Full, other.Full)
	}
}

// eachMessage looks at the records of all messages of a device's conversation.
func eachMessage(t *testing.T, p *peer, id wire.ConversationID, look func(*messageRecord) error) error {
	t.Helper()
	return p.turn(t.Context(), func(u *unit) error {
		th, err := p.usableConversation(u, id)
		if err != nil {
			return err
		}
		for n := range th.rec.Counters.Message {
			rec, _, err := th.messageAt(n)
			if err == nil && rec != nil {
				err = look(rec)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// TestContentsSurviveAMove checks that messages keep their ids when the conversation moves to another cipher suite,
// also for a device that joins after that.
func TestContentsSurviveAMove(t *testing.T) {
	w, id, a, b, c := trio(t, CreateOptions{})
	ctx := t.Context()
	for _, p := range []*peer{a, b, c} {
		p.movable()
	}
	first, err := a.SendText(ctx, id, "before")
	check(t, err)
	check(t, errorOf(b.React(ctx, b.message(id, first, nil), "+")))
	for _, p := range []*peer{a, b, c} {
		p.message(id, first, reactions("bob +"))
	}
	_, err = a.Migrate(ctx, id, MigrateOptions{Suite: hybrid})
	check(t, err)
	inSuite(t, id, hybrid, a, b, c)
	check(t, errorOf(c.React(ctx, c.message(id, first, nil), "x")))
	check(t, errorOf(a.Edit(ctx, a.message(id, first, nil), "after")))
	for _, p := range []*peer{a, b, c} {
		p.message(id, first, reactions("bob +", "carol x"))
		p.message(id, first, saying("after"))
	}
	d := w.peer("mimi://b.example/d/dan/phone").ready().movable()
	check(t, a.Add(ctx, id, d.id.User()))
	v, err := a.Conversation(ctx, id)
	check(t, err)
	agree(t, v.ID, a, b, c, d)
	later, err := d.SendText(ctx, v.ID, "hello")
	check(t, err)
	m := a.message(id, later, saying("hello"))
	if own := d.message(v.ID, later, nil); own.Full != m.Full {
		t.Errorf("the message is %v for dan, %v for alice", own.Full, m.Full)
	}
	check(t, errorOf(a.React(ctx, m, "+")))
	d.message(v.ID, later, reactions("alice +"))
	check(t, errorOf(b.React(ctx, b.message(id, first, nil), "z"))) // to a message that dan does not have
	check(t, errorOf(b.SendText(ctx, id, "end")))
	hasTexts(t, d, v.ID, "dan: hello", "bob: end")
}

// TestMessagesEnd checks that messages end some time after reading, at a time, and at the next start of a device that
// was off, and that nothing of them is left in the store.
func TestMessagesEnd(t *testing.T) {
	_, id, a, b, c := trio(t, CreateOptions{})
	ctx := t.Context()
	check(t, a.SetExpiry(ctx, id, 1*time.Second))
	if after, err := a.Expiry(ctx, id); err != nil || after != time.Second {
		t.Errorf("set is %v, %v", after, err)
	}
	relative, err := a.SendText(ctx, id, "ends after reading")
	check(t, err)
	check(t, a.SetExpiry(ctx, id, 0))
	b.message(id, relative, saying("ends after reading"))
	c.message(id, relative, saying("ends after reading"))
	check(t, b.MarkRead(ctx, id))
	for _, p := range []*peer{a, b} {
		p.message(id, relative, goneAs(Expired, ""))
		reported(t, p, EventChanged, 1)
	}
	c.message(id, relative, saying("ends after reading")) // carol has not read it
	at := time.Now().Add(2 * time.Second)
	absolute, err := a.Write(ctx, id, "ends at a time", ExpireAt(at))
	check(t, err)
	c.message(id, absolute, saying("ends at a time"))
	b.message(id, absolute, nil)
	c.stop()
	for _, p := range []*peer{a, b} {
		p.message(id, absolute, goneAs(Expired, ""))
	}
	c.start()
	c.message(id, absolute, goneAs(Expired, ""))
	check(t, c.MarkRead(ctx, id))
	c.message(id, relative, goneAs(Expired, ""))
	for _, p := range []*peer{a, b, c} {
		eventually(t, func() error {
			if found := p.holds("ends "); len(found) > 0 {
				return fmt.Errorf("%s has a text in %q", p.id, found)
			}
			return nil
		})
	}
	for _, w := range []WriteOption{ExpireAfter(400 * 24 * time.Hour), ExpireAfter(-1)} {
		if _, err := a.Write(ctx, id, "x", w); wire.CodeOf(err) != wire.TooLarge {
			t.Errorf("an implausible end: %v", err)
		}
	}
}

// TestFilesInContents checks that a file with a caption comes through the format of package content, and that its
// caption can be edited.
func TestFilesInContents(t *testing.T) {
	_, id, a, b, _ := trio(t, CreateOptions{})
	ctx := t.Context()
	data := bytes.Repeat([]byte("menu "), 30000)
	sent, err := a.SendFile(ctx, id, "menu.pdf", bytes.NewReader(data), int64(len(data)), "page 2")
	check(t, err)
	fetch := func(m *Message) {
		var got bytes.Buffer
		if m.Content.Type != ContentFile || m.Content.File == nil || m.Content.File.Name != "menu.pdf" {
			t.Fatalf("came as %+v", m.Content)
		}
		check(t, b.SaveFile(ctx, id, m.Content.File, &got, 0))
		if !bytes.Equal(got.Bytes(), data) {
			t.Error("the file has another content")
		}
	}
	fetch(b.message(id, sent, saying("page 2")))
	check(t, errorOf(a.Edit(ctx, a.message(id, sent, nil), "page 3")))
	fetch(b.message(id, sent, saying("page 3")))
	raw, err := a.SendBytes(ctx, id, []byte{0, 1, 2})
	check(t, err)
	if m := b.message(id, raw, nil); m.Content.Type != ContentBytes || !bytes.Equal(m.Content.Body, []byte{0, 1, 2}) {
		t.Errorf("bytes came as %+v", m.Content)
	}
}

// TestMention checks the event of a mention, and that nobody else gets it.
func TestMention(t *testing.T) {
	_, id, a, b, c := trio(t, CreateOptions{})
	sent, err := a.Write(t.Context(), id, "soup *now*?", MentionUsers(bob))
	check(t, err)
	m := b.message(id, sent, saying("@bob (mimi://b.example/u/bob) soup *now*?"))
	if len(m.Mentions) != 1 || m.Mentions[0] != bob {
		t.Errorf("mentioned are %v", m.Mentions)
	}
	c.message(id, sent, nil)
	reported(t, b, EventMention, 1)
	if len(c.events(EventMention))+len(a.events(EventMention)) > 0 {
		t.Error("others are mentioned too")
	}
}

// TestWaitingContentsAreBounded checks the bounds of contents for messages that do not come, at their edges: the oldest
// content of the user gives way.
func TestWaitingContentsAreBounded(t *testing.T) {
	_, id, a, _, _ := trio(t, CreateOptions{})
	missing := func(n int) ContentID { return ContentID{1, 30: byte(n >> 8), 31: byte(n)} }
	waits := func(n int) bool {
		known := false
		check(t, a.turn(t.Context(), func(u *unit) error {
			th, err := a.usableConversation(u, id)
			check(t, err)
			s, err := th.states()
			check(t, err)
			have, err := s.Load(missing(n))
			known = len(have.Acts) > 0
			return err
		}))
		return known
	}
	take := func(sender string, n, size int) {
		check(t, a.turn(t.Context(), func(u *unit) error {
			th, err := a.usableConversation(u, id)
			check(t, err)
			s, err := th.states()
			check(t, err)
			check(t, s.activate())
			c := content.Edit(nil, missing(n), 1, plainPart(strings.Repeat("x", size)))
			check(t, a.random(c.Salt[:]))
			body, err := c.Encode(content.Limits{})
			check(t, err)
			it, err := th.itemOf(wire.UserID(sender), c, body)
			check(t, err)
			_, err = s.take(it)
			return err
		}))
	}
	for n := range maxWaits {
		take(string(bob), n, 10)
	}
	if !waits(0) {
		t.Error("the bound is exceeded too early")
	}
	take(string(carol), 1000, 10)
	take(string(bob), maxWaits, 10)
	if waits(0) || !waits(1) || !waits(1000) || !waits(maxWaits) {
		t.Error("another one than the oldest content of the user gave way")
	}
	for n := range 8 {
		take(string(bob), 2000+n, 200<<10)
	}
	if waits(2000) || !waits(2007) {
		t.Error("the bytes are not bounded")
	}
}

// TestContentForms checks that contents keep their text, bytes or file in the other format, and which ones do not fit.
func TestContentForms(t *testing.T) {
	for name, c := range map[string]*Content{
		"text":    {Type: ContentText, Text: "a <b>\n*c*"},
		"empty":   {Type: ContentText},
		"bytes":   {Type: ContentBytes, Body: []byte{1, 2}},
		"file":    {Type: ContentFile, File: goodFile()},
		"caption": {Type: ContentFile, File: goodFile(), Text: "see"},
	} {
		c.ID, c.Time = MessageID{7}, 1796099400000
		if !fitsMIMI(c) {
			t.Errorf("%s does not fit", name)
		}
		body, err := mimiOf(c, plainPart).Encode(content.Limits{})
		check(t, err)
		p, err := parseContent(body)
		check(t, err)
		if fmt.Sprintf("%+v", p.shown) != fmt.Sprintf("%+v", c) && c.File == nil {
			t.Errorf("%s: %+v becomes %+v", name, c, p.shown)
		}
		if c.File != nil && (fmt.Sprintf("%+v", p.shown.File) != fmt.Sprintf("%+v", c.File) || p.shown.Text != c.Text) {
			t.Errorf("%s: %+v becomes %+v", name, c.File, p.shown.File)
		}
	}
	for name, c := range map[string]*Content{
		"receipt": {Type: ContentReceipt}, "text with bytes": {Type: ContentText, Text: "x", Body: []byte{1}},
		"answer": {Type: ContentText, Refs: []MessageID{{1}}}, "later type": {Type: 77},
	} {
		if fitsMIMI(c) {
			t.Errorf("%s fits", name)
		}
	}
}

var _ timeline.Store = (*states)(nil)
