package machine

import (
	"bytes"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// TestLevel checks that the rules are raised once, at the generation of the conversation, without a change of the
// replicas. It also checks that a snapshot keeps the level, and that the snapshot of a conversation with the first
// level does not change.
func TestLevel(t *testing.T) {
	b, _ := newBench(t, wire.Policy{}, "a.example", "b.example")
	now := &wire.Replicas{Voters: []wire.NodeID{"n1.a.example"}, Learners: []wire.NodeID{"n1.b.example"}}
	if out := b.m.Apply(b.raw(nil, now)); out.Err != nil {
		t.Fatal(out.Err)
	}
	if l := b.m.Level(); l != wire.FirstLevel {
		t.Fatalf("a new conversation has level %d", l)
	}
	first := b.digest()
	raise := b.raw(nil, wire.RaiseLevel(now, 2))
	out := b.m.Apply(raise)
	if out.Err != nil || out.Committed == nil || out.Moved || b.m.Level() != 2 {
		t.Fatalf("%+v, level %d", out, b.m.Level())
	}
	if r, since := b.m.Replicas(); r.Recovery != nil || since != 2 {
		t.Errorf("replicas %+v since %d", r, since)
	}
	if b.digest() == first {
		t.Error("the snapshot does not contain the level")
	}
	for name, raw := range map[string][]byte{
		"again":                  raise,
		"a note without a level": b.raw(nil, &wire.Replicas{Voters: now.Voters, Recovery: &wire.Recovery{Note: "rules"}}),
	} {
		if out := b.m.Apply(raw); out.Err == nil || out.Err.Code != wire.Invalid {
			t.Errorf("%s: %+v", name, out)
		}
	}
	// The note of an operator's recovery has no effect, whatever it says.
	recovery := wire.RaiseLevel(&wire.Replicas{Generation: 1, Voters: now.Voters}, 2)
	if out := b.m.Apply(b.raw(nil, recovery)); out.Err != nil || b.m.Generation() != 1 || b.m.Level() != 2 {
		t.Errorf("recovery: %+v", out)
	}
	var snapshot bytes.Buffer
	if _, err := b.m.Snapshot().WriteTo(&snapshot); err != nil {
		t.Fatal(err)
	}
	again, err := Restore(testID, nil, &snapshot)
	if err != nil || again.Level() != 2 {
		t.Fatalf("restored with level %v: %v", again.Level(), err)
	}
}
