package main

import (
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

// TestNoNameOfOthersBeatsAnIDOrAnOwnName: strangers choose names, ids, and whom they add.
func TestNoNameOfOthersBeatsAnIDOrAnOwnName(t *testing.T) {
	conv := func(id, own, name string, state client.State) client.Conversation {
		return client.Conversation{ID: wire.ConversationID(id), OwnName: own, Rules: client.Rules{Name: name}, State: state}
	}
	all := []client.Conversation{
		0: conv("\x5f\x2c\x9a\x10\x11\x11\x11\x11", "", "Lunch", client.StateActive),
		1: conv("\x11\x22\x22\x22\x22\x22\x22\x22", "", "5f2c9a10", client.StateActive),         // named like 0
		2: conv("\x11\x33\x22\x22\x22\x22\x22\x22", "", "5F2C9A1011111111", client.StateActive), // whole
		3: conv("\xab\x33\x33\x33\x33\x33\x33\x33", "Team", "Work", client.StateActive),
		4: conv("\xcd\x44\x44\x44\x44\x44\x44\x44", "", "Team", client.StateActive), // a stranger's
		5: conv("\xcd\x55\x44\x44\x44\x44\x44\x44", "", "Dinner", client.StateActive),
		6: conv("\xce\x55\x44\x44\x44\x44\x44\x44", "", "dinner", client.StateActive),
		7: conv("\xef\x55\x55\x55\x55\x55\x55\x55", "", "Gone", client.StateLeft),
		8: conv("\xef\x66\x66\x66\x66\x66\x66\x66", "", "Gone", client.StateActive), // made to look like 7
		9: conv("\xef\x66\x66\x66\x66\x66\x66\x66\x01", "", "ab", client.StateActive),
	}
	for _, c := range []struct {
		named string
		found int    // in all
		err   string // instead
	}{
		{"5f2c9a10", 0, ""}, {"5F2C9A10", 0, ""}, {"5f2c9a1011111111", 0, ""}, {"Lunch", 0, ""}, {"lunch", 0, ""},
		{"Team", 3, ""}, {"team", 3, ""}, {"Work", 3, ""},
		{"5f2", 0, ""},              // an id alone
		{"ef66666666666666", 8, ""}, // a whole id comes before one that it begins
		{"ef666666", 0, `"ef666666" means 2 conversations`},
		{"Dinner", 0, `"Dinner" means 2 conversations`},
		{"Gone", 0, `"Gone" means 2 conversations`},
		{"ab", 0, `"ab" means 2 conversations`}, // a name and an id
		{"11", 0, `"11" means 2 conversations`},
		{"cd4", 4, ""},
		{"Supper", 0, "no conversation here"},
		{"deadbeef", 0, "no conversation here"},
		{" ", 0, "is empty"},
	} {
		got, err := chooseConversation(all, c.named)
		switch {
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%q: got %v, %v, want an error with %q", c.named, got, err, c.err)
		case c.err == "" && err != nil:
			t.Errorf("%q: %v", c.named, err)
		case c.err == "" && got != &all[c.found]:
			t.Errorf("%q: got %v, want %v", c.named, got.ID, all[c.found].ID)
		}
	}
	// The conversation that the id meant is gone: its namesake is not it.
	if _, err := chooseConversation(all[1:], "5f2c9a10"); err == nil || !strings.Contains(err.Error(), "no conversation here has an id") || !strings.Contains(err.Error(), "11222222") {
		t.Errorf("a name like an id, without that id: %v", err)
	}
	if _, err := chooseConversation(nil, "Lunch"); err == nil || !strings.Contains(err.Error(), "mlsfed create") {
		t.Errorf("without conversations: got %v, want to be told how to make one", err)
	}
	if got := titled(&all[1]); got != "5f2c9a10 (a name, not an id)" {
		t.Errorf("a name like an id is shown as %q", got)
	}
	if got := bothNames(&all[3]); got != "Team (Work)" {
		t.Errorf("two names are shown as %q", got)
	}
	if a, b := distinctID(all, all[8].ID), distinctID(all, all[9].ID); a == b || len(distinctID(all, all[0].ID)) != 8 {
		t.Errorf("ids are shown as %s, %s", a, b)
	}
}

// TestNamesThatLookAlikeAreMarked, unless the user gave them.
func TestNamesThatLookAlikeAreMarked(t *testing.T) {
	named := func(id, own, name string) client.Conversation {
		return client.Conversation{ID: wire.ConversationID(id), OwnName: own, Rules: client.Rules{Name: name}, State: client.StateActive}
	}
	all := []client.Conversation{
		named("one", "Lunch", "Lunch"), named("two", "", "Lunсh"), named("three", "", "Lu\u200bnch"), named("four", "", "LUNCH "),
		named("five", "", "Dinner"), named("six", "", ""), named("seven", "", ""),
	}
	for i, want := range []bool{false, true, true, true, false, false, false} {
		if confusable(all, &all[i]) != want {
			t.Errorf("%q: %v", all[i].Rules.Name, !want)
		}
	}
}
