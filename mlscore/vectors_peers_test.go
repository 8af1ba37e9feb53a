package mlscore

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestInteropVectors follows the groups that were recorded from other implementations, all files of the
// folder that MLS_INTEROP names: to their last epoch, with what an application gets that sets nothing but
// whom it trusts.
func TestInteropVectors(t *testing.T) {
	dir := os.Getenv("MLS_INTEROP")
	if dir == "" {
		t.Skip("MLS_INTEROP is not set: let it name the folder with groups recorded from other implementations (*.json)")
	}
	if !filepath.IsAbs(dir) {
		dir = filepath.Join("..", dir)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	folder := os.DirFS(dir)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			t.Parallel()
			r, err := VerifyVectorFile(folder, filepath.Base(file), nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, tally := range r.Suites {
				t.Run(tally.Suite.String(), func(t *testing.T) { requirePassed(t, tally) })
			}
		})
	}
}
