package timeline

import (
	"fmt"
	"slices"
	"testing"

	"github.com/mlsfed/mlsfed/content"
)

func id(n byte) content.MessageID { return content.MessageID{1, 31: n} }

func item(n byte, sender string, c *content.Content) *Item {
	return &Item{ID: id(n), Sender: sender, Content: c, Raw: []byte{n}}
}

// TestWhoMayEditAndDelete checks the rights of authors, moderators and others.
func TestWhoMayEditAndDelete(t *testing.T) {
	alice, bob, carol := users[0], users[2], users[3]
	body := content.SinglePart(content.PlainText, []byte("x"))
	m := newMemory()
	m.take(t, item(1, alice, content.Plain("x")), 0)
	if r := m.take(t, item(2, bob, content.Edit(nil, id(1), 9, body)), 0); r.Effect != RefusedEdit || r.Message != id(1) {
		t.Errorf("an edit by somebody else: %+v", r)
	}
	if r := m.take(t, item(3, bob, content.Delete(nil, id(1))), 0); r.Effect != RefusedDelete {
		t.Errorf("a delete by somebody else: %+v", r)
	}
	if r := m.take(t, item(4, alice, content.Edit(nil, id(1), 2, body)), 0); r.Effect != Edited {
		t.Errorf("an edit: %+v", r)
	}
	if r := m.take(t, item(5, alice, content.Edit(nil, id(1), 1, body)), 0); r.Effect != NoEffect {
		t.Errorf("a lesser edit: %+v", r)
	}
	s, _ := m.Load(id(1))
	if latest := s.Latest(); latest == nil || latest.ID != id(4) || s.Highest() != 2 {
		t.Errorf("shown is %+v", latest)
	}
	if refused := s.Refused(); len(refused) != 2 || !refused[0].Delete || refused[1].Delete || refused[0].Sender != bob {
		t.Errorf("refused are %+v", refused)
	}
	by := item(6, carol, content.Delete(nil, id(1)))
	by.Moderator = true
	if r := m.take(t, by, 0); r.Effect != Removed {
		t.Errorf("a delete by a moderator: %+v", r)
	}
	s, _ = m.Load(id(1))
	if gone, by := s.Gone(0); gone != Deleted || by != carol || s.Latest() != nil {
		t.Errorf("gone %d by %s, %+v", gone, by, s)
	}
	m.take(t, item(7, alice, content.Delete(nil, id(1))), 0)
	s, _ = m.Load(id(1))
	if _, by := s.Gone(0); by != alice {
		t.Errorf("deleted by %s", by)
	}
	if r := m.take(t, item(8, alice, content.Edit(nil, id(1), 10, body)), 0); r.Effect != NoEffect {
		t.Errorf("an edit of a deleted message: %+v", r)
	}
}

// TestHeldUntilTheMessageComes checks an edit, a reaction and a delete that come before their message.
func TestHeldUntilTheMessageComes(t *testing.T) {
	alice, bob := users[0], users[2]
	body := content.SinglePart(content.PlainText, []byte("x"))
	m := newMemory()
	for _, it := range []*Item{
		item(2, alice, content.Edit(nil, id(1), 1, body)),
		item(3, bob, content.Reaction(id(1), "+")),
		item(4, bob, content.Reaction(id(2), "-")), // to the edited version
	} {
		if r := m.take(t, it, 0); r.Effect != NoEffect || r.Held != id(1) {
			t.Errorf("%v: %+v", it.ID, r)
		}
	}
	m.take(t, item(1, alice, content.Plain("x")), 0)
	s, _ := m.Load(id(1))
	reactions, _ := Reactions(m, id(1), 0)
	if s.Latest() == nil || len(reactions) != 2 {
		t.Errorf("%+v, %+v", s, reactions)
	}
	if r := m.take(t, item(5, bob, content.Unlike(id(3), id(1))), 0); r.Effect != Withdrawn || r.Message != id(1) {
		t.Errorf("a withdrawal: %+v", r)
	}
	if reactions, _ = Reactions(m, id(1), 0); len(reactions) != 1 || reactions[0].Text != "-" {
		t.Errorf("left are %+v", reactions)
	}
}

// TestContentsOfHostileMembers checks a reaction to itself, edits that edit each other, and more reactions and acts
// than are kept. Ids are hashes, so that nobody can make the first two; the store must not depend on that.
func TestContentsOfHostileMembers(t *testing.T) {
	body := content.SinglePart(content.PlainText, []byte("x"))
	m := newMemory()
	m.take(t, item(1, users[0], content.Reaction(id(1), "+")), 0)
	m.take(t, item(2, users[0], content.Edit(nil, id(3), 1, body)), 0)
	m.take(t, item(3, users[0], content.Edit(nil, id(2), 1, body)), 0)
	m.take(t, item(4, users[0], content.Edit(nil, id(4), 1, body)), 0)
	m.take(t, item(5, users[0], content.Delete(nil, id(5))), 0)
	for n := range byte(6) {
		if reactions, err := Reactions(m, id(n), 0); err != nil || len(reactions) > 0 {
			t.Errorf("%d has %v, %v", n, reactions, err)
		}
	}
	numbered := func(n int) content.MessageID { return content.MessageID{1, 1, byte(n >> 8), byte(n)} }
	m.take(t, item(9, users[0], content.Plain("x")), 0)
	for n := range MaxReactions + 10 {
		m.take(t, &Item{ID: numbered(n), Sender: users[2], Content: content.Reaction(id(9), "+")}, 0)
	}
	if n := len(m.links[id(9)]); n != MaxReactions {
		t.Errorf("%d reactions are kept, wanted %d", n, MaxReactions)
	}
	for n := range MaxActs + 10 { // to a message that does not come
		sender := "mimi://a.example/u/n" + numbered(n).String()
		m.take(t, &Item{ID: numbered(5000 + n), Sender: sender, Content: content.Delete(nil, id(8))}, 0)
		m.take(t, &Item{ID: numbered(8000 + n), Sender: sender, Content: content.Edit(nil, id(8), 1, body), Raw: make([]byte, 1<<10)}, 0)
	}
	waiting, _ := m.Load(id(8))
	bytes := 0
	for _, a := range waiting.Acts {
		bytes += len(a.Raw)
	}
	if bytes > maxEdits<<10 {
		t.Errorf("%d bytes of edits wait for one message: the state becomes larger than a record", bytes)
	}
	m.take(t, item(7, users[0], content.Delete(nil, id(8))), 0)
	s, _ := m.Load(id(8))
	if len(s.Acts) != MaxActs {
		t.Errorf("%d acts are kept, wanted %d", len(s.Acts), MaxActs)
	}
	m.take(t, item(8, users[0], content.Plain("x")), 0)
	s, _ = m.Load(id(8))
	if gone, _ := s.Gone(0); gone != Deleted {
		t.Errorf("a delete was lost among %d by others", MaxActs+10)
	}
}

// TestEnds checks ends in the past and in the far future, and that a message ends with the first end that its author
// has set.
func TestEnds(t *testing.T) {
	alice := users[0]
	body := content.SinglePart(content.PlainText, []byte("x"))
	at := func(c *content.Content, s uint32) *content.Content {
		return c.WithExpires(content.Expiration{Seconds: s})
	}
	m := newMemory()
	gone := func(n byte, now uint64) Gone {
		s, _ := m.Load(id(n))
		g, _ := s.Gone(now)
		return g
	}
	m.take(t, item(1, alice, at(content.Plain("x"), 0)), 1000)
	m.take(t, item(2, alice, at(content.Plain("x"), 1<<32-1)), 1000)
	if gone(1, 1000) != Expired || gone(2, 1<<32-2) != Here || gone(2, 1<<32-1) != Expired {
		t.Error("ends in 1970 and in 2106")
	}
	m.take(t, item(3, alice, content.Plain("x")), 1000)
	m.take(t, item(4, alice, at(content.Edit(nil, id(3), 1, body), 2000)), 1000)
	m.take(t, item(5, alice, at(content.Edit(nil, id(3), 2, body), 3000)), 1000)
	m.take(t, item(6, users[2], at(content.Edit(nil, id(3), 3, body), 1001)), 1000)
	if gone(3, 1999) != Here || gone(3, 2000) != Expired {
		t.Error("the first end of the author decides")
	}
	m.take(t, item(7, alice, content.Plain("x").WithExpires(content.Expiration{Relative: true, Seconds: 1<<32 - 1})), 1000)
	s, err := Read(m, id(7), 1000)
	if err != nil || s.Due() != 1000+1<<32-1 {
		t.Errorf("after reading it ends at %d, %v", s.Due(), err)
	}
	if again, _ := Read(m, id(7), 5000); again.Due() != s.Due() {
		t.Error("reading again moves the end")
	}
}

// TestDrop checks that a user's contents for a message that has not come can be dropped.
func TestDrop(t *testing.T) {
	body := content.SinglePart(content.PlainText, []byte("x"))
	m := newMemory()
	m.take(t, item(2, users[0], content.Edit(nil, id(1), 1, body)), 0)
	m.take(t, item(3, users[2], content.Reaction(id(1), "+")), 0)
	for _, u := range users {
		if err := Drop(m, id(1), u); err != nil {
			t.Fatal(err)
		}
	}
	if _, known := m.states[id(1)]; known || len(m.links[id(1)]) > 0 {
		t.Errorf("left are %+v, %+v", m.states[id(1)], m.links[id(1)])
	}
}

// TestReactionsOfOneUser checks that a user with many reactions to a message does not hide the reactions of others.
func TestReactionsOfOneUser(t *testing.T) {
	m := newMemory()
	m.take(t, item(1, users[0], content.Plain("x")), 0)
	for n := range MaxReactions {
		texts := make([]string, maxTexts)
		for i := range texts {
			texts[i] = fmt.Sprint(n, " ", i)
		}
		m.take(t, &Item{ID: content.MessageID{2, byte(n)}, Sender: users[0], Content: content.Reaction(id(1), texts...)}, 0)
	}
	m.take(t, item(3, users[2], content.Reaction(id(1), "👍")), 0)
	list, err := Reactions(m, id(1), 0)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(list, func(r ShownReaction) bool { return r.Sender == users[2] }) {
		t.Errorf("%d reactions of one user hide that of another", len(list))
	}
	if own, err := ReactionsOf(m, id(1), users[0], 0); err != nil || len(own) < MaxReactions {
		t.Errorf("a user has %d reactions to withdraw, %v", len(own), err)
	}
}
