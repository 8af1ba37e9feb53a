package people

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
)

// TestSecEscapes checks that text of a node reaches the terminal without control characters.
func TestSecEscapes(t *testing.T) {
	text := MessageText(&client.Message{Status: client.StatusRefused, Error: evil, Content: client.Content{Type: client.ContentText, Text: "hi"}})
	line := fmt.Sprintf("Not connected (%v); trying for %v.\n", cli.Plain(&client.CloseError{Code: 4009, Text: evil}), time.Second)
	w := Warning(client.Event{Type: client.EventPoison, Err: &client.CloseError{Code: 1, Text: evil}})
	name := MessageText(&client.Message{Content: client.Content{Type: client.ContentFile, File: &client.File{Name: "a\u200bb" + evil + ".txt"}}})
	for _, s := range []string{text, line, w, name} {
		if controls(s) {
			t.Errorf("%q", s)
		}
	}
}

// evil is a text with which a hostile node, organization or member would control a terminal.
const evil = "\x1b]0;pwned\x07\x1b[2J\u009b2J\u202e\u2066"

// controls reports whether a text does something to a terminal.
func controls(s string) bool { return strings.ContainsAny(s, "\x1b\x07\u009b\u202e\u2066") }
