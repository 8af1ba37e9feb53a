package cli

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// TestErrorsArePutIntoPlainWords checks that errors get a plain text once, however often they are passed on, and keep
// the text around it.
func TestErrorsArePutIntoPlainWords(t *testing.T) {
	missing := wire.Errorf(wire.NotFound, "claim", "mimi://b.example/u/nobody")
	dial := &net.OpError{
		Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8443},
		Err: os.NewSyscallError("connect", syscall.ECONNREFUSED),
	}
	cases := []struct {
		err  error
		want string
	}{
		{missing, "not found: nobody@b.example"},
		{fmt.Errorf("Lunch was made, but: %w", Plain(missing)), "Lunch was made, but: not found: nobody@b.example"},
		{wire.Errorf(wire.NoneLeft, "restore", "mimi://b.example/d/bob/tablet cannot be added now"), "bob@b.example/tablet cannot be added now: try again when one was online"},
		{wire.Errorf(wire.NoneLeft, "claim", "no device of mimi://b.example/u/bob has a KeyPackage of suite 1"), "no device of bob@b.example can be added now: try again when one was online"},
		{fmt.Errorf("connect to 127.0.0.1:8443: %w", dial), "127.0.0.1:8443: connection refused"},
		{&net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "n1.a.example", IsNotFound: true}}, "lookup n1.a.example: no such host"},
		{wire.Errorf(wire.Forged, "add", `of "mimi://b.example/d/bob/new" does not verify as of now: x509: certificate signed by unknown authority`),
			"the certificate of bob@b.example/new is signed by a root that this device does not believe"},
		{errors.New("another one"), "another one"},
	}
	for _, c := range cases {
		got := Plain(c.err)
		if !strings.HasPrefix(got.Error(), c.want) {
			t.Errorf("%v\nbecame %q,\nwanted %q", c.err, got, c.want)
		}
		if again := Plain(got); again.Error() != got.Error() {
			t.Errorf("%q became %q when it was handed on", got, again)
		}
		if !errors.Is(got, c.err) {
			t.Errorf("%q does not wrap %v", got, c.err)
		}
	}
}

// TestTablesAlignWideCharacters checks that the width of a column is its width on a terminal, and that the last cell
// of a line widens no column.
func TestTablesAlignWideCharacters(t *testing.T) {
	var x Table
	x.Row("NAME", "STATE", "UNREAD")
	x.Row("Böd 你好", "active", 3)
	x.Row("Lunch", "left", "")
	x.Row()
	x.Row("a line that is longer than all of the columns")
	x.Row("", "an error in the row below")
	const want = "NAME      STATE   UNREAD\nBöd 你好  active  3\nLunch     left\n\na line that is longer than all of the columns\n          an error in the row below\n"
	var out strings.Builder
	if err := x.Write(&out); err != nil || out.String() != want {
		t.Errorf("wrote (%v)\n%s\nwanted\n%s", err, &out, want)
	}
}
