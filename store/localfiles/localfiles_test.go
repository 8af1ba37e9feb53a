package localfiles

import (
	"path/filepath"
	"sync"
	"testing"

	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/store/filestest"
)

func TestConformance(t *testing.T) {
	filestest.Run(t, func(t testing.TB) filestest.Place { return place(filepath.Join(t.TempDir(), "files")) })
}

// place implements filestest.Place in a folder.
type place string

// Open implements filestest.Place.
func (p place) Open(t testing.TB, l filestest.Limits) (store.Files, func()) {
	f, err := Open(string(p), Config{MaxFile: l.MaxFile, Total: l.Total, Now: l.Now, Ledger: l.Account})
	if err != nil {
		t.Fatal(err)
	}
	return f, sync.OnceFunc(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
}
