package mlscore

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestInteropVectors follows the groups that were recorded from other implementations to their last epoch: all files
// of the folder that MLS_INTEROP names. It uses the defaults of an application that sets only its Authenticator.
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
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for id, tally := range must[vectorTallies](t)(tallyVectors(filepath.Base(file), data, folder)) {
				t.Run(id.String(), func(t *testing.T) { requirePassed(t, tally) })
			}
		})
	}
}
