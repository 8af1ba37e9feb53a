package people

import (
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

// TestNoNameOfOthersBeatsAnIDOrAnOwnName checks names of conversations by strangers, who choose names, ids, and whom
// they add.
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
		{"ef66666666666666", 8, ""}, // a whole id comes before a longer id that begins with it
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
		got, err := ChooseConversation(all, c.named)
		switch {
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%q: got %v, %v, want an error with %q", c.named, got, err, c.err)
		case c.err == "" && err != nil:
			t.Errorf("%q: %v", c.named, err)
		case c.err == "" && got != &all[c.found]:
			t.Errorf("%q: got %v, want %v", c.named, got.ID, all[c.found].ID)
		}
	}
	// The conversation with this id is gone: its namesake is not selected.
	if _, err := ChooseConversation(all[1:], "5f2c9a10"); err == nil || !strings.Contains(err.Error(), "no conversation here has an id") || !strings.Contains(err.Error(), "11222222") {
		t.Errorf("a name like an id, without that id: %v", err)
	}
	if _, err := ChooseConversation(nil, "Lunch"); err == nil || !strings.Contains(err.Error(), "mlsfed create") {
		t.Errorf("without conversations: got %v, want an error that says how to make one", err)
	}
	if got := Titled(&all[1]); got != "5f2c9a10 (a name, not an id)" {
		t.Errorf("a name like an id is shown as %q", got)
	}
	if got := BothNames(&all[3]); got != "Team (Work)" {
		t.Errorf("two names are shown as %q", got)
	}
	if a, b := distinctID(all, all[8].ID), distinctID(all, all[9].ID); a == b || len(distinctID(all, all[0].ID)) != 8 {
		t.Errorf("ids are shown as %s, %s", a, b)
	}
}

// TestNoNameOfOthersIsTakenForAUser checks that a text for a user does not go to a person who has named a conversation
// like that user.
func TestNoNameOfOthersIsTakenForAUser(t *testing.T) {
	all := []client.Conversation{
		{ID: "\x11\x22\x22\x22\x22\x22\x22\x22", Rules: client.Rules{Name: "alice@a.example"}, State: client.StateActive},
		{ID: "\x22\x22\x22\x22\x22\x22\x22\x22", Rules: client.Rules{Name: "Lunch @ noon"}, State: client.StateActive},
	}
	for _, named := range []string{"alice@a.example", "Alice@A.example"} {
		if got, err := ChooseConversation(all, named); err == nil || !strings.Contains(err.Error(), "11222222") {
			t.Errorf("%q: got %v, %v, want an error with the id", named, got, err)
		}
	}
	if got, err := ChooseConversation(all, "Lunch @ noon"); err != nil || got != &all[1] {
		t.Errorf("a name with a sign in it: got %v, %v", got, err)
	}
	if got := Titled(&all[0]); got != "alice@a.example (a name, not a user)" {
		t.Errorf("a name like a user is shown as %q", got)
	}
	all[0].OwnName = "alice@a.example"
	if got, err := ChooseConversation(all, "alice@a.example"); err != nil || got != &all[0] || Titled(got) != "alice@a.example" {
		t.Errorf("an own name like a user: got %v, %v", got, err)
	}
	for name, refused := range map[string]bool{"alice@a.example": true, "Lunch @ noon": false, "@noon": false, "team@": false} {
		if err := CheckName(name); (err != nil) != refused || checkOwnName(name) != nil {
			t.Errorf("the name %q: %v", name, err)
		}
	}
}

// TestSkeletonsOfNames: what a reader takes for another name has its skeleton.
func TestSkeletonsOfNames(t *testing.T) {
	for _, name := range []string{"Lúnch", "Lu\u0301nch", "Lunch\ufe0f", "𝐋unch", "Ｌunch", "Ⓛunch", "Lunch\u3164", "Lun с h"} {
		if got, want := skeleton(name), skeleton("lunch"); got != want {
			t.Errorf("%+q has the skeleton %q, want %q", name, got, want)
		}
	}
	blank := []client.Conversation{{ID: "\x01", Rules: client.Rules{Name: "\u3164"}}, {ID: "\x02"}}
	if Confusable(blank, &blank[0]) {
		t.Error("a name of which nothing can be seen looks like one that is not there")
	}
	if skeleton("Modern") != skeleton("Modem") || skeleton("Lunch") == skeleton("Launch") {
		t.Error("Modern is taken for Modem, Lunch is not for Launch")
	}
	for _, name := range []string{"５f2c9a10", "5f2с9а10", "5F2\u04219a10"} {
		c := client.Conversation{ID: "\x01\x02\x03\x04", Rules: client.Rules{Name: name}}
		if got := Titled(&c); !strings.HasSuffix(got, " (a name, not an id)") {
			t.Errorf("%+q is shown as %q", name, got)
		}
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
		if Confusable(all, &all[i]) != want {
			t.Errorf("%q: %v", all[i].Rules.Name, !want)
		}
	}
}
