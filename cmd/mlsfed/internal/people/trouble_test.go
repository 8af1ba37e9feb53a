package people

import (
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

// TestTroubleSaysWhatHelps checks that every problem that keeps a person or another member from following a
// conversation comes with help: in list and read with commands, in a chat with the chat's own commands.
func TestTroubleSaysWhatHelps(t *testing.T) {
	const bob = wire.DeviceID("mimi://b.example/d/bob/phone")
	why := "the entries after 4 are no longer kept, and without them the epochs cannot be followed"
	for name, c := range map[string]struct {
		is        client.Conversation
		line, tui string
	}{
		"broken, private": {client.Conversation{State: client.StateBroken, Why: why, Handshakes: wire.HandshakesPrivate}, "'mlsfed rejoin' asks a member to add it again", "/rejoin asks a member to add it again"},
		"broken, public":  {client.Conversation{State: client.StateBroken, Why: why, Handshakes: wire.HandshakesPublic}, "'mlsfed rejoin' brings it back", "/rejoin brings it back"},
		"broken, asked":   {client.Conversation{State: client.StateBroken, Why: why, Asked: bob.User()}, "It has asked bob@b.example to add it again; 'mlsfed rejoin' asks once more", "/rejoin asks once more"},
		"joining":         {client.Conversation{State: client.StateJoining, Why: "the Welcome is being fetched"}, "has not entered yet: the Welcome is being fetched", "has not entered yet"},
		"offered":         {client.Conversation{State: client.StateActive, Offered: true}, "'mlsfed rules CONV --admin yes', or no", "/admin yes, or /admin no"},
		"asked by one":    {client.Conversation{State: client.StateActive, Again: []wire.DeviceID{bob}}, "bob@b.example/phone cannot follow Lunch any further and asks to be added again: 'mlsfed add CONV --again' does it", "/again does it"},
		"asked by two":    {client.Conversation{State: client.StateActive, Again: []wire.DeviceID{bob, "mimi://b.example/d/bob/laptop"}}, "bob@b.example/phone, bob@b.example/laptop cannot follow Lunch any further and ask", "/again does it"},
	} {
		c.is.Rules.Name, c.is.ID = "Lunch", "conversation-one"
		line, tui := Troubles(&c.is, false), Troubles(&c.is, true)
		if len(line) != 1 || !strings.Contains(line[0], c.line) || !strings.Contains(line[0], "Lunch") {
			t.Errorf("%s: a command says %q, wanted %q", name, line, c.line)
		}
		if len(tui) != 1 || !strings.Contains(tui[0], c.tui) || strings.Contains(tui[0], "mlsfed ") {
			t.Errorf("%s: a chat says %q, wanted %q", name, tui, c.tui)
		}
	}
	if list := Troubles(&client.Conversation{ID: "conversation-one", State: client.StateActive}, false); len(list) > 0 {
		t.Errorf("without trouble: %q", list)
	}
}
