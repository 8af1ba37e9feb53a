package client

import (
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

func TestNamesThatLookLikeIDs(t *testing.T) {
	for name, want := range map[string]bool{
		"deadbeef": true, "DEADBEEF01": true, "5f2c 9a10": true, "5f2c\u200b9a10": true, "20261130": true,
		"deadbee": false, "": false, "deadbeef!": false, "Lunch": false, "dеadbeef": false, // a Cyrillic е
	} {
		if LooksLikeID(name) != want {
			t.Errorf("LooksLikeID(%q) = %v", name, !want)
		}
		if code := wire.CodeOf(CheckName(name)); (code == wire.Invalid) != want {
			t.Errorf("CheckName(%q): %v", name, code)
		}
	}
}

// TestOwnNames checks that own names belong to this device, one to each conversation, and survive a migration.
func TestOwnNames(t *testing.T) {
	_, id, a, b, c := trio(t, CreateOptions{Name: "Lunch"})
	for _, p := range []*peer{a, b, c} {
		p.movable()
	}
	ctx := t.Context()
	own := func(p *peer, id wire.ConversationID) string {
		t.Helper()
		c, err := p.Conversation(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		return c.OwnName
	}
	if x, y := own(a, id), own(b, id); x != "Lunch" || y != "" {
		t.Errorf("own names %q of who made it, %q of who was added", x, y)
	}
	second, err := a.Create(ctx, CreateOptions{Name: "Lunch"})
	if err != nil {
		t.Fatal(err)
	}
	if got := own(a, second); got != "" {
		t.Errorf("a second conversation has the own name %q of the first", got)
	}
	if code := wire.CodeOf(a.SetOwnName(ctx, second, "LUNCH")); code != wire.Exists {
		t.Errorf("an own name twice: %v", code)
	}
	for _, name := range []string{"5f2c9a10", "\xff", string(make([]byte, MaxName+1))} {
		for what, err := range map[string]error{"own": a.SetOwnName(ctx, id, name), "new": a.Rename(ctx, id, name)} {
			if err == nil {
				t.Errorf("%s name %.10q was taken", what, name)
			}
		}
		if _, err := a.Create(ctx, CreateOptions{Name: name}); err == nil {
			t.Errorf("a conversation was made with the name %.10q", name)
		}
	}
	if err := a.SetOwnName(ctx, id, "Noon"); err != nil {
		t.Fatal(err)
	}
	if err := a.SetOwnName(ctx, second, "Lunch"); err != nil {
		t.Errorf("an own name that is free again: %v", err)
	}
	next, err := a.Migrate(ctx, id, MigrateOptions{Suite: hybrid})
	if err != nil {
		t.Fatal(err)
	}
	if got := own(a, next); got != "Noon" {
		t.Errorf("after a migration the own name is %q", got)
	}
	if code := wire.CodeOf(a.SetOwnName(ctx, second, "noon")); code != wire.Exists {
		t.Errorf("the own name of a successor: %v", code)
	}
	if err := a.SetOwnName(ctx, id, ""); err != nil {
		t.Fatal(err)
	}
	a.restart()
	if got := own(a, next); got != "" {
		t.Errorf("an own name that was taken away is %q", got)
	}
	if err := a.SetOwnName(ctx, second, "Noon"); err != nil {
		t.Error(err)
	}
}
