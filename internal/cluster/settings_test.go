package cluster

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/config"
)

// TestSettings checks that the file has only the values that differ from the defaults, zero values included, and is
// read back as the same configuration.
func TestSettings(t *testing.T) {
	cfg := config.Default()
	cfg.Domain, cfg.Node = "a.example", "n1.a.example"
	cfg.Data, cfg.Identity, cfg.Admin.Socket = "/data", "/data/identity", "/data/control.sock"
	cfg.Gateway.Listen = "127.0.0.1:1"
	cfg.Federation.Listen, cfg.Federation.Advertise = "127.0.0.1:2", "127.0.0.1:2"
	cfg.Gateway.FramesPerSecond = 1e5
	cfg.Gateway.Origins = []string{"https://a.example"}
	raw, err := settings(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), "consensus") || strings.Contains(string(raw), "ping") {
		t.Errorf("the file has defaults:\n%s", raw)
	}
	file := filepath.Join(t.TempDir(), "mlsfed.yaml")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Audit.Dir = "/data/audit" // Load sets this from the data folder
	got, err := config.Load(file, nil)
	if err != nil || !reflect.DeepEqual(got, cfg) {
		t.Errorf("%v: %+v, want %+v, from\n%s", err, got, cfg, raw)
	}
}

func TestWithout(t *testing.T) {
	set := map[string]any{"same": 1, "zero": 0, "more": []any{1, 2}, "in": map[string]any{"same": "x", "other": "y"}, "all": map[string]any{"same": 1}, "new": nil}
	without(set, map[string]any{"same": 1, "zero": 5, "more": []any{1}, "in": map[string]any{"same": "x", "other": "z"}, "all": map[string]any{"same": 1}})
	if want := (map[string]any{"zero": 0, "more": []any{1, 2}, "in": map[string]any{"other": "y"}, "new": nil}); !reflect.DeepEqual(set, want) {
		t.Errorf("%v, want %v", set, want)
	}
}
