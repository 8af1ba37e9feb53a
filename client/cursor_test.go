package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// TestReadPosition checks that only marked messages count as read, and that own messages never count as unread.
func TestReadPosition(t *testing.T) {
	_, id, a, b, _ := trio(t, CreateOptions{})
	ctx := t.Context()
	for n := range 6 {
		_, err := a.SendText(ctx, id, fmt.Sprint(n))
		check(t, err)
		eventually(t, func() error {
			if got := b.texts(id); len(got) != n*3/2+1 {
				return fmt.Errorf("bob has %q", got)
			}
			return nil
		})
		if n%2 == 1 {
			_, err := b.SendText(ctx, id, "own")
			check(t, err)
		}
	}
	// bob's history: 0 1 own 2 3 own 4 5 own
	for _, c := range []struct{ to, first, unread uint64 }{
		{0, 0, 6}, {1, 1, 5}, {1, 1, 5}, {0, 1, 5}, {3, 3, 4}, {7, 7, 1}, {2, 7, 1}, {8, 9, 0}, {99, 9, 0},
	} {
		check(t, b.MarkReadTo(ctx, id, c.to))
		conv, err := b.Conversation(ctx, id)
		check(t, err)
		first, err := b.FirstUnread(ctx, id)
		check(t, err)
		if first != c.first || conv.Unread != c.unread {
			t.Errorf("read to %d: first unread %d of %d, wanted %d of %d", c.to, first, conv.Unread, c.first, c.unread)
		}
	}
}

// TestEachHandlesOnce checks that a consumer gets each message once, in order, over an error, a restart and a
// migration.
func TestEachHandlesOnce(t *testing.T) {
	_, id, a, b, c := trio(t, CreateOptions{})
	for _, p := range []*peer{a, b, c} {
		p.movable()
	}
	ctx := t.Context()
	var got []string
	refusal := errors.New("not now")
	handle := func(refused string) func(context.Context, *Message) error {
		return func(_ context.Context, m *Message) error {
			if m.Content.Text == refused {
				return refusal
			}
			got = append(got, m.Content.Text)
			return nil
		}
	}
	send := func(text string) {
		_, err := a.SendText(ctx, id, text)
		check(t, err)
		eventually(t, func() error {
			if list := b.texts(id); len(list) == 0 || !strings.HasSuffix(list[len(list)-1], text) {
				return fmt.Errorf("bob has %q", list)
			}
			return nil
		})
	}
	for _, text := range []string{"1", "2", "3"} {
		send(text)
	}
	if err := b.EachSoFar(ctx, id, "bot", handle("3")); !errors.Is(err, refusal) {
		t.Errorf("an error of the consumer: %v", err)
	}
	b.restart()
	check(t, b.EachSoFar(ctx, id, "bot", handle("")))
	check(t, b.EachSoFar(ctx, id, "bot", handle("")))
	next, err := a.Migrate(ctx, id, MigrateOptions{Suite: hybrid})
	check(t, err)
	agree(t, next, a, b, c)
	waiting, stop := context.WithCancelCause(ctx)
	ended := make(chan error, 1)
	seen := make(chan string)
	go func() {
		ended <- b.Each(waiting, id, "bot", func(_ context.Context, m *Message) error {
			got = append(got, m.Content.Text)
			seen <- m.Content.Text
			return nil
		})
	}()
	_, err = a.SendText(ctx, next, "4")
	check(t, err)
	if text := <-seen; text != "4" {
		t.Errorf("after the migration: %q", text)
	}
	done := errors.New("enough")
	stop(done)
	if err := <-ended; !errors.Is(err, done) {
		t.Errorf("Each ended with %v", err)
	}
	if want := []string{"1", "2", "3", "4"}; !slices.Equal(got, want) {
		t.Errorf("handled %q, wanted %q", got, want)
	}
	if n, err := b.Cursor(ctx, next, "bot"); err != nil || n != 4 {
		t.Errorf("the cursor is at %d, %v", n, err)
	}
	if n, err := b.Cursor(ctx, next, "other"); err != nil || n != 0 {
		t.Errorf("another cursor is at %d, %v", n, err)
	}
}

// TestOneCursorHasOneConsumerAtATime checks that each message goes to one of two calls with one cursor.
func TestOneCursorHasOneConsumerAtATime(t *testing.T) {
	_, id, a, _, _ := trio(t, CreateOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const sent = 20
	seen, ended := make(chan uint64), make(chan error, 2)
	for range 2 {
		go func() {
			ended <- a.Each(ctx, id, "bot", func(_ context.Context, m *Message) error {
				seen <- m.Number
				return nil
			})
		}()
	}
	go func() {
		for n := range sent {
			if _, err := a.SendText(ctx, id, fmt.Sprint(n)); err != nil {
				t.Error(err)
			}
		}
	}()
	for n := range uint64(sent) {
		if got := <-seen; got != n {
			t.Fatalf("message %d, wanted %d", got, n)
		}
	}
	eventually(t, func() error { // the last one was handled
		if n, err := a.Cursor(t.Context(), id, "bot"); err != nil || n != sent {
			return fmt.Errorf("the cursor is at %d, %v", n, err)
		}
		return nil
	})
	cancel()
	for range 2 {
		<-ended
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := len(a.consumers); n != 0 {
		t.Errorf("%d consumers are left", n)
	}
}

// TestCursorsAreBounded checks both bounds on either side.
func TestCursorsAreBounded(t *testing.T) {
	_, id, a, _, _ := trio(t, CreateOptions{})
	for name, code := range map[string]wire.Code{
		"": wire.Invalid, "\xff": wire.Invalid, strings.Repeat("n", MaxCursorName+1): wire.Invalid, strings.Repeat("n", MaxCursorName): "",
	} {
		if err := a.SetCursor(t.Context(), id, name, 1); (err != nil || code != "") && wire.CodeOf(err) != code {
			t.Errorf("a name of %d bytes: %v, wanted %q", len(name), err, code)
		}
	}
	for n := 1; n < MaxCursors; n++ {
		check(t, a.SetCursor(t.Context(), id, fmt.Sprint(n), 1))
	}
	if err := a.SetCursor(t.Context(), id, "one more", 1); wire.CodeOf(err) != wire.Quota {
		t.Errorf("cursor %d: %v", MaxCursors+1, err)
	}
	check(t, a.SetCursor(t.Context(), id, "1", 2))
}
