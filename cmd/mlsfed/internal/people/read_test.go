package people

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/people/peopletest"
	"github.com/mlsfed/mlsfed/internal/cluster"
)

// TestReadMarksWhatItShows checks that read marks only the messages that it shows as read, and counts the rest.
func TestReadMarksWhatItShows(t *testing.T) {
	ctx, alice, bob, id := peopletest.Pair(t)
	const sent = 70
	for n := range sent {
		if _, err := alice.SendText(ctx, id, fmt.Sprintf("text %d.", n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := cluster.Await(ctx, bob, func() (bool, error) {
		c, err := bob.Conversation(ctx, id)
		return err == nil && c.Messages == sent, nil
	}); err != nil {
		t.Fatal(err)
	}
	begun := time.Now().Add(-time.Hour)
	for _, c := range []struct {
		name        string
		o           readOptions
		since       time.Time
		lines       int
		first, last int // texts
		unread      int // afterwards
		note        string
	}{
		{"the newest, after unread ones", readOptions{limit: 50, from: -1}, time.Time{}, 50, 20, 69, 70, "Unread messages before these are not shown"},
		{"a search", readOptions{limit: 50, from: -1, search: "text"}, time.Time{}, 70, 0, 69, 70, ""},
		{"a search with a limit", readOptions{limit: 5, limited: true, from: -1, search: "4."}, time.Time{}, 5, 24, 64, 70, "2 messages come before these"},
		{"a search for nothing", readOptions{limit: 50, from: -1, search: "no such"}, time.Time{}, 0, 0, 0, 70, "No message with"},
		{"unread with a limit", readOptions{limit: 20, limited: true, from: -1, unread: true}, time.Time{}, 20, 0, 19, 50, "50 messages come after these"},
		{"since with a limit", readOptions{limit: 10, limited: true, from: -1, since: "1h"}, begun, 10, 60, 69, 50, "60 messages come before these"},
		{"since", readOptions{limit: 50, from: -1, since: "1h"}, begun, 70, 0, 69, 0, ""},
		{"unread", readOptions{limit: 50, from: -1, unread: true}, time.Time{}, 0, 0, 0, 0, "No message that was not read before"},
		{"from", readOptions{limit: 50, from: 68}, time.Time{}, 2, 68, 69, 0, ""},
		{"in the future", readOptions{limit: 50, from: -1, since: "x"}, time.Now().Add(time.Hour), 0, 0, 0, 0, "No message since"},
	} {
		var out, notes bytes.Buffer
		p := &Person{Device: bob, DeviceID: "mimi://a.example/d/bob/phone", Options: &Options{}, out: &out, notes: &notes}
		c.o.Options = p.Options
		conv, err := bob.Conversation(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		r := &reader{o: &c.o, p: p, id: id, since: c.since}
		if err := r.show(ctx, conv); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if c.lines == 0 {
			if out.Len() > 0 {
				t.Errorf("%s: shows %q", c.name, out.String())
			}
		} else if len(lines) != c.lines || !strings.HasSuffix(lines[0], fmt.Sprintf("text %d.", c.first)) || !strings.HasSuffix(lines[len(lines)-1], fmt.Sprintf("text %d.", c.last)) {
			t.Errorf("%s: %d lines from %q to %q", c.name, len(lines), lines[0], lines[len(lines)-1])
		}
		if conv, err = bob.Conversation(ctx, id); err != nil || conv.Unread != uint64(c.unread) {
			t.Errorf("%s: %d unread, %v, wanted %d", c.name, conv.Unread, err, c.unread)
		}
		if c.note == "" && notes.Len() > 0 || !strings.Contains(notes.String(), c.note) {
			t.Errorf("%s: note %q, wanted %q", c.name, notes.String(), c.note)
		}
	}
}

// TestFollowBeginsWithWhatIsNew checks that messages which were read before come only if they are requested, and are
// marked.
func TestFollowBeginsWithWhatIsNew(t *testing.T) {
	ctx, alice, bob, id := peopletest.Pair(t)
	if _, err := alice.SendText(ctx, id, "old"); err != nil {
		t.Fatal(err)
	}
	has := func(n uint64) {
		t.Helper()
		if err := cluster.Await(ctx, bob, func() (bool, error) {
			c, err := bob.Conversation(ctx, id)
			return err == nil && c.Messages == n, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	has(1)
	if err := bob.MarkRead(ctx, id); err != nil {
		t.Fatal(err)
	}
	if _, err := alice.SendText(ctx, id, "new"); err != nil {
		t.Fatal(err)
	}
	has(2)
	for _, c := range []struct {
		from int64
		json bool
		want []string
	}{
		{-1, false, []string{"  new\n"}}, {0, false, []string{"(read) ", "  old\n", "(read) ", "  new\n"}},
		{0, true, []string{`"text":"old","status":"received","old":true}`, `"text":"new","status":"received","old":true}`}},
	} {
		var out bytes.Buffer
		p := &Person{Device: bob, DeviceID: "mimi://a.example/d/bob/phone", Options: &Options{JSON: c.json}, out: &out, notes: &out}
		conv, err := bob.Conversation(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		r := &reader{o: &readOptions{Options: p.Options, follow: true, from: c.from, limit: 50}, p: p, id: id}
		if err := r.show(ctx, conv); err != nil {
			t.Fatal(err)
		}
		rest := out.String()
		for _, part := range c.want {
			_, after, ok := strings.Cut(rest, part)
			if !ok {
				t.Errorf("from %d: %q lacks %q", c.from, out.String(), part)
			}
			rest = after
		}
		if rest != "" && rest != "\n" {
			t.Errorf("from %d: %q too much", c.from, rest)
		}
	}
}

// TestCommandOfABotSeesEachMessageOnce checks that a bot's command gets each message once, and again if it fails. The
// output of the command is the answer.
func TestCommandOfABotSeesEachMessageOnce(t *testing.T) {
	ctx, alice, bob, id := peopletest.Pair(t)
	for _, text := range []string{"one", "two", "three"} {
		if _, err := alice.SendText(ctx, id, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := cluster.Await(ctx, bob, func() (bool, error) {
		c, err := bob.Conversation(ctx, id)
		return err == nil && c.Messages == 3, nil
	}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken")
	if err := os.WriteFile(broken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	p := &Person{Device: bob, DeviceID: "mimi://a.example/d/bob/phone", Options: &Options{}, out: &out, notes: &out}
	o := &readOptions{Options: p.Options, from: -1, limit: 50, cursor: "bot", answer: true,
		exec: fmt.Sprintf(`in=$(cat); case $in in *two*) test -e %[1]q && exit 3;; esac; echo "$in" >>%[2]q; echo "you said: $MLSFED_FROM"`, broken, filepath.Join(dir, "seen"))}
	run := func() error {
		conv, err := bob.Conversation(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		return (&reader{o: o, p: p, id: id}).show(ctx, conv)
	}
	if err := run(); err == nil || !strings.Contains(err.Error(), "the command for message 1") {
		t.Errorf("a command that fails: %v", err)
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := run(); err != nil {
			t.Fatal(err)
		}
	}
	seen, err := os.ReadFile(filepath.Join(dir, "seen"))
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(string(seen), "\n"); lines != 3 || strings.Count(string(seen), `"text":"two"`) != 1 {
		t.Errorf("the command saw %s", seen)
	}
	page, err := bob.History(ctx, id, client.Query{Search: "you said: alice@a.example/phone"})
	if err != nil || len(page.Messages) != 3 {
		t.Errorf("%d answers, %v", len(page.Messages), err)
	}
}
