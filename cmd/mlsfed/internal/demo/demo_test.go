package demo

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/client"
)

// TestComparisonFindsEachFault checks that the comparison of the demonstration accepts only exactly the messages that
// were sent.
func TestComparisonFindsEachFault(t *testing.T) {
	bob, alice := &participant{id: "mimi://b.example/d/bob/phone", name: "bob/phone"}, &participant{id: "mimi://a.example/d/alice/phone", name: "alice/phone"}
	var owed []*remark
	var good []client.Message
	for n := range 3 {
		r := &remark{by: alice, id: client.MessageID{byte(n + 1)}, text: fmt.Sprint("text ", n)}
		owed = append(owed, r)
		good = append(good, client.Message{Sender: alice.id, ID: r.id, Content: client.Content{Text: r.text}})
	}
	other := client.Message{Sender: alice.id, ID: client.MessageID{9}, Content: client.Content{Text: "other"}}
	forged := slices.Clone(good)
	forged[1].Content.Text = "forged"
	for name, c := range map[string]struct {
		have []client.Message
		want string // "" for no fault
	}{
		"all":      {good, ""},
		"missing":  {good[1:], `bob/phone misses "text 0" of alice/phone`},
		"twice":    {append(slices.Clone(good), good[2]), `bob/phone has "text 2" of alice/phone twice`},
		"order":    {[]client.Message{good[1], good[0], good[2]}, "too late in its sender's order"},
		"too much": {append(slices.Clone(good), other), `bob/phone has "other" of alice/phone, which was not for it`},
		"changed":  {forged, `bob/phone has "forged" for "text 1"`},
	} {
		faults := compareHistory(bob, c.have, owed)
		if (c.want == "") != (len(faults) == 0) || c.want != "" && !strings.Contains(strings.Join(faults, "\n"), c.want) {
			t.Errorf("%s: got %q, want %q", name, faults, c.want)
		}
	}
}
