//go:build unix

package node

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFormat checks that a data folder of a newer release is refused with its version and is not changed. A folder
// without a record, as builds before the first release left it, is used and gets a record.
func TestFormat(t *testing.T) {
	data := t.TempDir()
	if err := checkFormat(data); err != nil {
		t.Fatalf("an empty folder: %v", err)
	}
	for _, version := range []string{"v0.1.0", "v0.1.0", "v0.1.1"} {
		if err := recordFormat(data, version); err != nil {
			t.Fatal(err)
		}
		if f, err := readFormat(data); err != nil || f != (format{dataFormat, version}) {
			t.Fatalf("recorded %+v, %v", f, err)
		}
		if err := checkFormat(data); err != nil {
			t.Fatal(err)
		}
	}
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(data, formatFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for content, want := range map[string]string{
		`{"format":2,"version":"v9.0.0","more":true}`: "mlsfed v9.0.0",
		`{"format":2}`: "a newer release",
		`{"format":0}`: "does not record a format",
		``:             "does not record a format",
	} {
		write(content)
		if err := checkFormat(data); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error with %q", content, err, want)
		}
	}
}

// TestNewerDataIsRefused checks that a start on a newer folder fails before anything in the folder is changed.
func TestNewerDataIsRefused(t *testing.T) {
	cfg := openFolders(t)
	if err := os.WriteFile(filepath.Join(cfg.Data, formatFile), []byte(`{"format":2,"version":"v9.0.0"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	list := func() (names []string) {
		err := filepath.WalkDir(cfg.Data, func(path string, _ fs.DirEntry, err error) error {
			names = append(names, path)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	before := list()
	n, err := New(cfg, Options{Version: "v0.1.0"})
	if err == nil || !strings.Contains(err.Error(), "v9.0.0") {
		t.Fatalf("New: %v, %v", n, err)
	}
	if after := list(); strings.Join(before, "\n") != strings.Join(after, "\n") {
		t.Errorf("the refused start changed the folder: %q, then %q", before, after)
	}
	faults := 0
	for _, f := range Check(cfg) {
		if f.Outcome == Fault && strings.Contains(f.Detail, "v9.0.0") {
			faults++
		}
	}
	if faults != 1 {
		t.Errorf("config check reports the newer folder %d times, want once", faults)
	}
}
