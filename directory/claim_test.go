package directory

import (
	"testing"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// TestClaimOfSomeDevices takes the KeyPackages of the devices that are named, and leaves those of the others.
func TestClaimOfSomeDevices(t *testing.T) {
	d := open(t, Config{})
	for _, v := range []wire.DeviceID{phone, laptop} {
		e := enrol(t, d, v, 1)
		upload(t, d, v, e.uploads(t, d, 2, mlscore.KeyPackageOptions{})...)
	}
	claim := func(n int, devices ...wire.DeviceID) []Claimed {
		t.Helper()
		got, err := d.ClaimKeyPackages(t.Context(), Claim{ID: claimID(n), Claimant: string(alice), User: alice, Suite: 1, Devices: devices})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	for n := range 2 {
		if got := claim(n, laptop); len(got) != 1 || got[0].Device != laptop {
			t.Fatalf("claim %d of the laptop: %+v", n, got)
		}
	}
	if got := claim(2); len(got) != 1 || got[0].Device != phone {
		t.Errorf("what is left: %+v", got)
	}
	if _, err := d.ClaimKeyPackages(t.Context(), Claim{ID: claimID(3), Claimant: string(alice), User: alice, Suite: 1, Devices: []wire.DeviceID{laptop}}); wire.CodeOf(err) != wire.NoneLeft {
		t.Errorf("a claim of a device without any: %v", err)
	}
}
