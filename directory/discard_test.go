package directory

import (
	"testing"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// TestDiscardedKeyPackagesAreNotClaimed: the last resort is gone too, and others' KeyPackages stay.
func TestDiscardedKeyPackagesAreNotClaimed(t *testing.T) {
	d := open(t, Config{})
	for _, v := range []wire.DeviceID{phone, laptop} {
		e := enrol(t, d, v, 1)
		upload(t, d, v, e.uploads(t, d, 2, mlscore.KeyPackageOptions{})...)
		upload(t, d, v, e.uploads(t, d, 1, mlscore.KeyPackageOptions{LastResort: true})...)
	}
	for range 2 { // a repetition does no harm
		if err := d.DiscardKeyPackages(t.Context(), phone); err != nil {
			t.Fatal(err)
		}
	}
	got, err := d.ClaimKeyPackages(t.Context(), claimOf(1, 1))
	if err != nil || len(got) != 1 || got[0].Device != laptop {
		t.Errorf("claimed %+v, %v", got, err)
	}
	wantCode(t, d.DiscardKeyPackages(t.Context(), "mimi://a.example/d/alice/nobody"), wire.NotFound)
}
