package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

// evil is what a hostile node, organization or member would have a terminal do.
const evil = "\x1b]0;pwned\x07\x1b[2J\u009b2J\u202e\u2066"

// controls reports whether a text does something to a terminal.
func controls(s string) bool { return strings.ContainsAny(s, "\x1b\x07\u009b\u202e\u2066") }

// TestSecEscapes: what a node says reaches the terminal without what controls it.
func TestSecEscapes(t *testing.T) {
	text := messageText(&client.Message{Status: client.StatusRefused, Error: evil, Content: client.Content{Type: client.ContentText, Text: "hi"}})
	line := fmt.Sprintf("Not connected (%v); trying for %v.\n", plain(&client.CloseError{Code: 4009, Text: evil}), time.Second)
	w := warning(client.Event{Type: client.EventPoison, Err: &client.CloseError{Code: 1, Text: evil}})
	name := messageText(&client.Message{Content: client.Content{Type: client.ContentFile, File: &client.File{Name: "a\u200bb" + evil + ".txt"}}})
	for _, s := range []string{text, line, w, name} {
		if controls(s) {
			t.Errorf("%q", s)
		}
	}
}

// TestSecEscapesFromAfar: error codes and node names that another organization's node chose.
func TestSecEscapesFromAfar(t *testing.T) {
	for _, e := range []*wire.Error{{Code: wire.Code(evil)}, {Code: wire.NoQuorum, Text: "x", Nodes: []wire.NodeID{wire.NodeID(evil)}}, {Code: wire.Code(evil), Op: evil, Text: evil}} {
		b, err := wire.Encode(e)
		if err != nil {
			t.Fatal(err)
		}
		if err := wire.Decode(b, wire.MaxError, new(wire.Error)); err == nil {
			t.Errorf("%q is taken for an error", e)
		}
		if got := plain(e).Error(); controls(got) {
			t.Errorf("%q", got)
		}
	}
	for _, e := range []*wire.Error{{Code: wire.Busy, Text: evil}, {Code: wire.NotFound, Text: evil}, {Code: wire.Busy, Op: evil}} {
		if got := plain(e).Error(); controls(got) {
			t.Errorf("%q", got)
		}
	}
}

// TestAllOutputIsClean: no command, whatever it forgets, writes what controls a terminal.
func TestAllOutputIsClean(t *testing.T) {
	root := newRoot()
	root.AddCommand(&cobra.Command{Use: "forgetful", RunE: func(c *cobra.Command, _ []string) error {
		for _, b := range []byte("ä" + evil + "漢") { // a byte at a time
			_, _ = c.OutOrStdout().Write([]byte{b})
		}
		fmt.Fprintln(c.ErrOrStderr(), evil)
		_, _ = c.OutOrStdout().Write([]byte{0xe6})
		return errors.New(evil)
	}})
	var out, errs bytes.Buffer
	if code := run(context.Background(), root, []string{"forgetful"}, &out, &errs); code != 1 {
		t.Errorf("ended with %d", code)
	}
	if controls(out.String()) || controls(errs.String()) {
		t.Errorf("%q, %q", out.String(), errs.String())
	}
	if got := out.String(); !strings.HasPrefix(got, "ä\ufffd]0;pwned") || !strings.HasSuffix(got, "漢\ufffd") {
		t.Errorf("wrote %q", got)
	}
}

// TestJSONEscapes: programs read the same, and a terminal is not controlled.
func TestJSONEscapes(t *testing.T) {
	in := map[string]string{"text": evil + "\U000e0041 <ok> ä 漢 \u2028"}
	var b bytes.Buffer
	if err := printJSON(&screen{to: &b}, in); err != nil {
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

// TestChatKeepsColoursOnly: the interface of a chat passes its own colours on, and nothing else.
func TestChatKeepsColoursOnly(t *testing.T) {
	in := "\x1b[1;36mname\x1b[0m: " + evil + "\n"
	got := printableStyled(in)
	if !strings.HasPrefix(got, "\x1b[1;36mname\x1b[0m: \ufffd]0;") || strings.Count(got, "\x1b") != 2 || controls(strings.ReplaceAll(got, "\x1b", "")) {
		t.Errorf("%q", got)
	}
}

var _ io.Writer = (*screen)(nil)
