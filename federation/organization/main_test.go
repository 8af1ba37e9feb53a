package organization

import (
	"path/filepath"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// newOrganization makes an identity in a folder.
func newOrganization(t testing.TB, d wire.Domain, edit ...func(*InitOptions)) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), string(d))
	o := InitOptions{Domain: d}
	for _, e := range edit {
		e(&o)
	}
	if err := Init(dir, o); err != nil {
		t.Fatal(err)
	}
	return dir
}
