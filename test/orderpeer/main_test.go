package main

import (
	"testing"
	"time"
)

// TestRun measures a few groups with both engines.
func TestRun(t *testing.T) {
	for _, engine := range []string{"tan", "pebble"} {
		p, err := run(t.Context(), settings{dir: t.TempDir(), engine: engine, groups: 3, entry: 4096, round: 300 * time.Millisecond})
		if err != nil || !(p.Rate > 0) {
			t.Fatalf("%s: %+v, %v", engine, p, err)
		}
	}
}

// TestSettings checks that settings without a meaning are refused.
func TestSettings(t *testing.T) {
	for name, s := range map[string]settings{
		"no folder": {engine: "tan", groups: 1, entry: 1, round: time.Second},
		"no groups": {dir: t.TempDir(), engine: "tan", entry: 1, round: time.Second},
		"no entry":  {dir: t.TempDir(), engine: "tan", groups: 1, round: time.Second},
		"no round":  {dir: t.TempDir(), engine: "tan", groups: 1, entry: 1},
		"no engine": {dir: t.TempDir(), groups: 1, entry: 1, round: time.Second},
	} {
		if _, err := run(t.Context(), s); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
