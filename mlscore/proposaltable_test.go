package mlscore

import (
	"testing"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// TestProposalTable17_4 compares the table of proposal types with the registry of RFC 9420 §17.4: its names, the
// types that an external sender may send (Ext), and those that need a path (Path). The senders from outside of the
// group and the rules for lists are those of §12.1.8 and §12.2.
func TestProposalTable17_4(t *testing.T) {
	for _, c := range []struct {
		t                   ProposalType
		name                string
		ext, path           bool
		newMember, inJoiner bool
		once, alone         bool
	}{
		{t: 1, name: "add", ext: true, newMember: true},
		{t: 2, name: "update", path: true},
		{t: 3, name: "remove", ext: true, path: true, inJoiner: true},
		{t: 4, name: "psk", ext: true, inJoiner: true},
		{t: 5, name: "reinit", ext: true, alone: true},
		{t: 6, name: "external_init", path: true, inJoiner: true},
		{t: 7, name: "group_context_extensions", ext: true, path: true, once: true},
	} {
		row := c.t.row()
		if c.t.String() != c.name || row.listed || (row.path == pathRequired) != c.path || row.path == pathUnknown {
			t.Errorf("%v: listed %v, path %d", c.t, row.listed, row.path)
		}
		for from, want := range map[SenderType]bool{
			SenderMember: true, SenderExternal: c.ext, SenderNewMemberProposal: c.newMember, SenderNewMemberCommit: c.inJoiner,
		} {
			if row.senders.has(from) != want {
				t.Errorf("%v from sender type %d: %v, want %v", c.t, from, !want, want)
			}
		}
		if row.once != c.once || row.alone != c.alone {
			t.Errorf("%v: once %v, alone %v", c.t, row.once, row.alone)
		}
		if row.encode == nil || row.decode == nil || row.plan == nil {
			t.Errorf("%v: the row is not complete", c.t)
		}
	}
}

// TestProposalTableCustom checks the row of all other types: a client lists them in its capabilities, and only members
// send them (§7.2, §12.1.8).
func TestProposalTableCustom(t *testing.T) {
	for _, v := range []ProposalType{8, 0x0a0a, 0xf000, 0xffff} {
		row := v.row()
		if !row.listed || row.path != pathUnknown || row.senders != fromMember {
			t.Errorf("%v: %+v", v, row)
		}
		var w codec.Writer
		p := CustomProposal(v, []byte("content"))
		p.encode(&w)
		r := codec.NewReader(w.Buffer(), codec.DefaultLimits)
		if got := decodeProposal(r); r.Finish() != nil || got.Type != v || string(got.Custom) != "content" {
			t.Errorf("%v decodes as %+v, %v", v, got, r.Err())
		}
	}
	if zero := (&Proposal{}); zero.complete() || zero.Type.String() != "custom 0x0000" {
		t.Errorf("type 0: %v", zero.Type)
	}
}
