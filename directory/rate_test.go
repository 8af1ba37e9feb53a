package directory

import (
	"fmt"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/store/pebblestore/pebbletest"
	"github.com/mlsfed/mlsfed/wire"
)

// claimer claims from alice under a fresh id each time.
type claimer struct {
	t *testing.T
	d *Directory
	n int
}

// claim returns whether what was given is the last resort.
func (c *claimer) claim(who string) bool {
	c.t.Helper()
	c.n++
	k := claimOf(c.n, 1)
	k.Claimant = who
	got, err := c.d.ClaimKeyPackages(c.t.Context(), k)
	if err != nil || len(got) != 1 {
		c.t.Fatalf("%s was given %d KeyPackages: %v", who, len(got), err)
	}
	return got[0].LastResort
}

func (c *claimer) want(who string, lastResorts ...bool) {
	c.t.Helper()
	for i, want := range lastResorts {
		if got := c.claim(who); got != want {
			c.t.Fatalf("claim %d of %s: last resort %v, want %v", i, who, got, want)
		}
	}
}

// pooled is alice's telephone with n KeyPackages and a last resort.
func pooled(t *testing.T, d *Directory, n int) *device {
	t.Helper()
	e := enrol(t, d, phone, 1)
	upload(t, d, phone, e.uploads(t, d, n, mlscore.KeyPackageOptions{})...)
	upload(t, d, phone, e.uploads(t, d, 1, mlscore.KeyPackageOptions{LastResort: true})...)
	return e
}

// TestHostileClaimerLeavesKeyPackagesForOthers: one organization claims a thousand times at once.
func TestHostileClaimerLeavesKeyPackagesForOthers(t *testing.T) {
	clock := newClock()
	d := open(t, Config{Clock: clock, PairBurst: 3, PairEvery: time.Minute, UserBurst: 5, UserEvery: time.Second})
	pooled(t, d, 20)
	c := &claimer{t: t, d: d}
	c.want("hostile.example", false, false, false, true)
	for range 1000 {
		c.want("hostile.example", true)
	}
	if left := counts(t, d, phone)[0].Left; left != 17 {
		t.Fatalf("%d KeyPackages are left of 20, want 17", left)
	}
	if n := d.Refusals().LastResorts; n != 1001 {
		t.Fatalf("%d claims were answered with last resorts, want 1001", n)
	}
	c.want("b.example", false, false, true) // the rest of the user's bucket, then last resorts
	c.want("mimi://a.example/u/bob", true)
	clock.advance(time.Second - time.Millisecond)
	c.want("b.example", true)
	clock.advance(time.Millisecond)
	c.want("b.example", false, true)
	clock.advance(time.Minute - 1001*time.Millisecond) // since the first claims
	c.want("hostile.example", true)
	clock.advance(time.Millisecond)
	c.want("hostile.example", false, true)
}

// TestClaimsBeyondTheRateWriteNothing: a claimer grows no table, and keeps no other's claim out of it.
func TestClaimsBeyondTheRateWriteNothing(t *testing.T) {
	d := open(t, Config{PairBurst: 2, PairEvery: time.Hour, UserBurst: 4, UserEvery: time.Hour})
	pooled(t, d, 20)
	c := &claimer{t: t, d: d}
	for n := range 100 {
		c.claim(fmt.Sprintf("o%d.example", n))
	}
	for kind, want := range map[byte]int{kindClaim: 4, kindPairBucket: 4, kindUserBucket: 1, kindUsed: 4} {
		if n := stored(t, d, kind); n != want {
			t.Errorf("%d records %q, want %d", n, kind, want)
		}
	}
	if _, err := d.ClaimKeyPackages(t.Context(), Claim{ID: claimID(1), Claimant: "x.example", User: "mimi://a.example/u/nobody", Suite: 1}); wire.CodeOf(err) != wire.NotFound {
		t.Errorf("a claim from nobody: %v", err)
	}
	k := claimOf(1, 1)
	k.Claimant = "o0.example"
	if got, err := d.ClaimKeyPackages(t.Context(), k); err != nil || got[0].LastResort { // c counts from 1
		t.Errorf("a repetition was answered with %v, %v", got, err)
	}
}

// TestBucketsSurviveARestart: who has spent a bucket does not get a full one by a restart.
func TestBucketsSurviveARestart(t *testing.T) {
	disk, clock := pebbletest.Memory(), newClock()
	cfg := Config{Clock: clock, CA: ed25519CA(t), PairBurst: 2, PairEvery: time.Hour}
	s := disk.Open(t)
	d := on(t, s.Records(), cfg)
	pooled(t, d, 20)
	(&claimer{t: t, d: d}).want("b.example", false, false, true)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = disk.Open(t)
	defer s.Close()
	d = on(t, s.Records(), cfg)
	c := &claimer{t: t, d: d, n: 10}
	c.want("b.example", true)
	clock.advance(2 * time.Hour)
	if err := d.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := stored(t, d, kindPairBucket); n != 1 {
		t.Fatalf("a bucket that fills at this moment is gone: %d", n)
	}
	clock.advance(time.Millisecond)
	if err := d.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := stored(t, d, kindPairBucket); n != 0 {
		t.Fatalf("%d full buckets are kept", n)
	}
	c.want("b.example", false, false, true)
}

// TestBucketsAfterAWrongClock: a clock that was years ahead for a moment spends nobody's claims.
func TestBucketsAfterAWrongClock(t *testing.T) {
	clock := newClock()
	d := open(t, Config{Clock: clock})
	now := wire.TimeOf(clock.Now())
	fullAt := now + wire.Time((10 * 365 * day).Milliseconds())
	a := allowance{2, time.Hour}
	for i, want := range []bool{true, true, false} {
		if got := a.take(&fullAt, now); got != want {
			t.Fatalf("claim %d from a bucket that was filled ten years ahead: %v", i, got)
		}
	}
	if !d.rates.Take("x", clock.Now().Add(10*365*day)) || !d.rates.Take("x", clock.Now()) {
		t.Fatal("a user has to wait for a time that never was")
	}
}

// TestOwnDevicesClaimWithoutARate: a user adds his own devices however often he is claimed from.
func TestOwnDevicesClaimWithoutARate(t *testing.T) {
	d := open(t, Config{ClaimBurst: 1, ClaimEvery: time.Hour, PairBurst: 1, PairEvery: time.Hour, UserBurst: 1, UserEvery: time.Hour})
	pooled(t, d, 20)
	c := &claimer{t: t, d: d}
	c.want("hostile.example", false, true)
	for range 19 {
		c.want(string(alice), false)
	}
	c.want(string(alice), true) // none is left
}

// TestUsersClaimRate: a user here waits; that costs no other user a claim.
func TestUsersClaimRate(t *testing.T) {
	clock := newClock()
	d := open(t, Config{Clock: clock, ClaimBurst: 3, ClaimEvery: time.Minute, MaxClaimants: 2})
	e := enrol(t, d, phone, 1)
	upload(t, d, phone, e.uploads(t, d, 1, mlscore.KeyPackageOptions{LastResort: true})...)
	const b, c, f = "mimi://a.example/u/bob", "mimi://a.example/u/carol", "mimi://a.example/u/frank"
	n := 0
	claim := func(who string) error {
		n++
		k := claimOf(n, 1)
		k.Claimant = who
		_, err := d.ClaimKeyPackages(t.Context(), k)
		return err
	}
	for range 3 {
		if err := claim(b); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, claim(b), wire.Busy)
	wantCode(t, d.MayClaim(b), wire.Busy) // the same bucket counts what goes to other organizations
	if _, err := d.ClaimKeyPackages(t.Context(), Claim{ID: claimID(1), Claimant: b, User: alice, Suite: 1}); err != nil {
		t.Fatalf("a repetition costs nothing: %v", err)
	}
	if err := claim(c); err != nil { // has a bucket of its own
		t.Fatal(err)
	}
	wantCode(t, claim(f), wire.Busy) // two are remembered, neither bucket is full
	clock.advance(time.Minute - time.Millisecond)
	wantCode(t, claim(b), wire.Busy)
	clock.advance(time.Millisecond)
	if err := claim(b); err != nil {
		t.Fatal(err)
	}
	wantCode(t, claim(b), wire.Busy)
	if err := claim(f); err != nil { // c's bucket is full again and forgotten
		t.Fatal(err)
	}
	if n := d.Refusals().Claims; n != 5 {
		t.Fatalf("%d refusals were counted, want 5", n)
	}
}

// TestDeviceMakesFewRecords checks that a device with changed code cannot fill the disk with addresses, by itself or
// with KeyPackages that it takes back, nor with refusals of conversations that nobody has sent. A repetition costs
// nothing, and other devices go on.
func TestDeviceMakesFewRecords(t *testing.T) {
	clock := newClock()
	d := open(t, Config{Clock: clock, AddressBurst: 5, AddressEvery: time.Minute})
	v, other := enrol(t, d, phone, 1), enrol(t, d, laptop, 2)
	token := func(n byte) wire.Token { return wire.Token{1, n} }
	for n := range byte(3) {
		for range 2 {
			if err := d.Attach(t.Context(), phone, token(n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	upload(t, d, phone, v.uploads(t, d, 1, mlscore.KeyPackageOptions{})...)
	if err := d.Refuse(t.Context(), phone, "conversation-one", token(0)); err != nil {
		t.Fatal(err)
	}
	if err := d.DiscardKeyPackages(t.Context(), phone); err != nil {
		t.Fatal(err)
	}
	attempts := map[string]func() error{
		"address": func() error { return d.Attach(t.Context(), phone, token(9)) },
		"KeyPackage": func() error {
			return d.UploadKeyPackages(t.Context(), phone, v.uploads(t, d, 1, mlscore.KeyPackageOptions{})...)
		},
		"refusal": func() error { return d.Refuse(t.Context(), phone, "conversation-two", token(0)) },
	}
	for name, try := range attempts {
		if err := try(); wire.CodeOf(err) != wire.Busy {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := d.Refuse(t.Context(), phone, "conversation-one", token(0)); err != nil {
		t.Errorf("a repetition: %v", err)
	}
	upload(t, d, laptop, other.uploads(t, d, 5, mlscore.KeyPackageOptions{})...)
	for name, try := range attempts {
		clock.advance(time.Minute)
		if err := try(); err != nil {
			t.Errorf("%s after a minute: %v", name, err)
		}
	}
}
