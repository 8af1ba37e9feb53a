package main

import (
	"strings"
	"testing"
)

func TestManualEscapesWhatRoffWouldRead(t *testing.T) {
	if got, want := roff(".TH\n'x \\fB --no-x"), "\\&.TH\n\\&'x \\efB \\-\\-no\\-x"; got != want {
		t.Errorf("roff: %q, want %q", got, want)
	}
	send, _, err := newRoot().Find([]string{"send"})
	if err != nil {
		t.Fatal(err)
	}
	page := manPage(send)
	for _, part := range []string{".TH \"MLSFED-SEND\" 1", ".SH SYNOPSIS\n.B mlsfed send CONV TEXT", ".SH EXAMPLES\n.nf\n", ".B \\-\\-file string\nfile to send"} {
		if !strings.Contains(page, part) {
			t.Errorf("the page of send lacks %q:\n%s", part, page)
		}
	}
}
