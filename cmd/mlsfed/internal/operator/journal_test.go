package operator

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/config"
)

// TestLogFormats writes one line of each level in each format.
func TestLogFormats(t *testing.T) {
	for format, want := range map[string][]string{
		"text":     {"time=2", "level=WARN", `msg="link down" at=n1.a.example node=n1.b.example`},
		"json":     {`"level":"WARN"`, `"msg":"link down"`, `"node":"n1.b.example"`},
		"journald": {`<4>msg="link down" at=n1.a.example node=n1.b.example`},
	} {
		var out bytes.Buffer
		log := newLogger(&out, config.Log{Level: "debug", Format: format})
		log.With("at", "n1.a.example").Warn("link down", "node", "n1.b.example")
		log.Error("a\nb")
		log.Info("x", slog.Group("g", "time", 7))
		log.Debug("y")
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if len(lines) != 4 {
			t.Fatalf("%s: %d lines: %q", format, len(lines), out.String())
		}
		for _, part := range want {
			if !strings.Contains(lines[0], part) {
				t.Errorf("%s: %q lacks %q", format, lines[0], part)
			}
		}
		if format == "journald" {
			for i, begin := range []string{"<4>msg=", "<3>msg=", "<6>msg=x g.time=7", "<7>msg=y"} {
				if !strings.HasPrefix(lines[i], begin) || strings.Contains(lines[i], "level=") {
					t.Errorf("%q, wanted it to begin with %q", lines[i], begin)
				}
			}
		}
		if format == "json" && !json.Valid([]byte(lines[0])) {
			t.Errorf("%q is not JSON", lines[0])
		}
	}
}
