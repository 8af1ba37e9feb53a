package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/wire"
)

// evil is a text with which a hostile node, organization or member would control a terminal.
const evil = "\x1b]0;pwned\x07\x1b[2J\u009b2J\u202e\u2066"

// controls reports whether a text does something to a terminal.
func controls(s string) bool { return strings.ContainsAny(s, "\x1b\x07\u009b\u202e\u2066") }

// TestSecEscapesFromAfar checks the same for error codes and node names that another organization's node chose.
func TestSecEscapesFromAfar(t *testing.T) {
	for _, e := range []*wire.Error{{Code: wire.Code(evil)}, {Code: wire.NoQuorum, Text: "x", Nodes: []wire.NodeID{wire.NodeID(evil)}}, {Code: wire.Code(evil), Op: evil, Text: evil}} {
		b, err := wire.Encode(e)
		if err != nil {
			t.Fatal(err)
		}
		if err := wire.Decode(b, wire.MaxError, new(wire.Error)); err == nil {
			t.Errorf("%q is taken for an error", e)
		}
		if got := Plain(e).Error(); controls(got) {
			t.Errorf("%q", got)
		}
	}
	for _, e := range []*wire.Error{{Code: wire.Busy, Text: evil}, {Code: wire.NotFound, Text: evil}, {Code: wire.Busy, Op: evil}} {
		if got := Plain(e).Error(); controls(got) {
			t.Errorf("%q", got)
		}
	}
}

// TestAllOutputIsClean checks that no command can write terminal sequences, even if it does not clean its text.
func TestAllOutputIsClean(t *testing.T) {
	forgetful := func() *cobra.Command {
		return Root(&cobra.Command{Use: "forgetful", RunE: func(c *cobra.Command, _ []string) error {
			for _, b := range []byte("ä" + evil + "漢") { // a byte at a time
				_, _ = c.OutOrStdout().Write([]byte{b})
			}
			fmt.Fprintln(c.ErrOrStderr(), evil)
			_, _ = c.OutOrStdout().Write([]byte{0xe6})
			return errors.New(evil)
		}})
	}
	var out, errs bytes.Buffer
	if code := Run(context.Background(), forgetful, []string{"forgetful"}, &out, &errs); code != 1 {
		t.Errorf("ended with %d", code)
	}
	if controls(out.String()) || controls(errs.String()) {
		t.Errorf("%q, %q", out.String(), errs.String())
	}
	if got := out.String(); !strings.HasPrefix(got, "ä\ufffd]0;pwned") || !strings.HasSuffix(got, "漢\ufffd") {
		t.Errorf("wrote %q", got)
	}
}

// TestJSONEscapes checks that programs read the same text, and that the JSON does not control a terminal.
func TestJSONEscapes(t *testing.T) {
	in := map[string]string{"text": evil + "\U000e0041 <ok> ä 漢 \u2028"}
	var b bytes.Buffer
	if err := PrintJSON(NewScreen(&b), in); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	if err := json.Unmarshal(b.Bytes(), &out); err != nil || out["text"] != in["text"] || controls(b.String()) {
		t.Errorf("%s: %q, %v", b.String(), out, err)
	}
	if !strings.Contains(b.String(), "<ok> ä 漢") {
		t.Errorf("%s", b.String())
	}
}

// TestChatKeepsColoursOnly checks that the interface of a chat passes its own colours on, and nothing else.
func TestChatKeepsColoursOnly(t *testing.T) {
	in := "\x1b[1;36mname\x1b[0m: " + evil + "\n"
	got := PrintableStyled(in)
	if !strings.HasPrefix(got, "\x1b[1;36mname\x1b[0m: \ufffd]0;") || strings.Count(got, "\x1b") != 2 || controls(strings.ReplaceAll(got, "\x1b", "")) {
		t.Errorf("%q", got)
	}
}

var _ io.Writer = (*screen)(nil)
