package node

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestVersionsOfArchives checks that an archive of the first version, which has no file end, is accepted; that a
// later archive without that file is refused as cut off; and that an archive of an unknown later version is refused.
func TestVersionsOfArchives(t *testing.T) {
	for _, test := range []struct {
		version int
		end     bool
		refused string // "" for taken
	}{
		{1, false, ""}, {2, true, ""}, {2, false, "cut off"}, {0, true, "version 0"}, {3, true, "version 3"},
	} {
		t.Run(fmt.Sprint(test.version, test.end), func(t *testing.T) {
			var archive bytes.Buffer
			w := tar.NewWriter(&archive)
			add := func(name, content string) {
				if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
					t.Fatal(err)
				}
				if _, err := w.Write([]byte(content)); err != nil {
					t.Fatal(err)
				}
			}
			add(backupNote, fmt.Sprintf(`{"version":%d}`, test.version))
			add("a", "content")
			if test.end {
				add(backupEnd, "")
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			note, err := unpack(&archive, dir)
			if test.refused != "" {
				if err == nil || !strings.Contains(err.Error(), test.refused) {
					t.Errorf("%v, wanted %q", err, test.refused)
				}
				return
			}
			if err != nil || note.Version != test.version {
				t.Fatalf("version %d: %v", note.Version, err)
			}
			if b, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || string(b) != "content" {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
}
