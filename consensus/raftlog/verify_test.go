package raftlog

import (
	"os"
	"path/filepath"
	"testing"
)

// TestVerify checks that Verify accepts a log that Open accepts, refuses a log that Open refuses, and creates or
// changes nothing.
func TestVerify(t *testing.T) {
	for _, backend := range []string{BackendBolt, BackendPebble} {
		t.Run(backend, func(t *testing.T) {
			cfg := Config{Dir: filepath.Join(t.TempDir(), "log"), Backend: backend}
			if err := Verify(cfg); err != nil {
				t.Fatalf("a folder that is not there: %v", err)
			}
			if _, err := os.Stat(cfg.Dir); !os.IsNotExist(err) {
				t.Fatalf("the folder was made: %v", err)
			}
			l, err := Open(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if err := Verify(cfg); err != nil {
				t.Fatalf("a log that was closed: %v", err)
			}
			other := cfg
			other.Backend = map[string]string{BackendBolt: BackendPebble, BackendPebble: BackendBolt}[backend]
			if err := Verify(other); err == nil {
				t.Error("the log of the other backend is taken")
			}
			damage(t, cfg)
			if err := Verify(cfg); err == nil {
				t.Error("a damaged log is taken")
			}
		})
	}
}

// damage overwrites the beginning of the backend's files.
func damage(t *testing.T, cfg Config) {
	t.Helper()
	path := filepath.Join(cfg.Dir, boltFile)
	if cfg.Backend == BackendPebble {
		list, err := filepath.Glob(filepath.Join(cfg.Dir, pebbleFolder, "MANIFEST-*"))
		if err != nil || len(list) == 0 {
			t.Fatalf("manifests %v, %v", list, err)
		}
		path = list[len(list)-1]
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, 16<<10), 0); err != nil {
		t.Fatal(err)
	}
}
