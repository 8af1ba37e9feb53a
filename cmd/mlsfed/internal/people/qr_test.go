package people

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"
	"rsc.io/qr"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

// TestQRFitsAWindow checks that the QR code of a link with names of usual lengths has at most 24 lines of 80 columns,
// and shows each module.
func TestQRFitsAWindow(t *testing.T) {
	i := client.Invitation{Host: "n1.a.example:8443", Code: "FSGG-IDOT-SE3S-OQVL-GIS4-IUIR-VI~" + base64.RawURLEncoding.EncodeToString(make([]byte, 48)), Domain: "a.example", User: "alice", Root: wire.Hash{1}}
	for _, names := range [][3]string{{"n1.a.example:8443", "a.example", "alice"}, {"mlsfed.example.org:8443", "example.org", "alexandra"}, {"127.0.0.1:40995", "a.example", "bob"}} {
		i.Host, i.Domain, i.User = names[0], wire.Domain(names[1]), names[2]
		text, ok := i.Compact()
		if !ok {
			t.Fatalf("%s has no compact form", i)
		}
		lines, err := qrLines(text)
		if err != nil {
			t.Fatal(err)
		}
		if len(lines) > 24 {
			t.Errorf("%d characters: %d lines", len(text), len(lines))
		}
		code, err := qr.Encode(text, qr.L)
		if err != nil {
			t.Fatal(err)
		}
		for n, line := range lines {
			cells := []rune(line)
			if ansi.StringWidth(line) != code.Size+2 || code.Size+2 > 80 {
				t.Fatalf("line %d has %d columns, the code %d modules", n, ansi.StringWidth(line), code.Size)
			}
			for x, r := range cells {
				top, bottom := strings.ContainsRune("█▀", r), strings.ContainsRune("█▄", r)
				y := 2*n - 1
				if top == code.Black(x-1, y) || y+1 <= code.Size && bottom == code.Black(x-1, y+1) {
					t.Fatalf("module %d, %d is shown as %q", x-1, y, r)
				}
			}
		}
	}
}
