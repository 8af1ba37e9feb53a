package directory

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

func counts(t testing.TB, d *Directory, v wire.DeviceID) []Count {
	t.Helper()
	c, err := d.CountKeyPackages(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestUploadAndClaim(t *testing.T) {
	clock := newClock()
	d := open(t, Config{Clock: clock})
	a, b, other := enrol(t, d, phone, 1), enrol(t, d, laptop, 1), enrol(t, d, "mimi://a.example/d/alice/tablet", 2)
	own := a.uploads(t, d, 2, mlscore.KeyPackageOptions{})
	upload(t, d, phone, own...)
	upload(t, d, phone, own...) // repeated
	upload(t, d, laptop, b.uploads(t, d, 1, mlscore.KeyPackageOptions{})...)
	upload(t, d, other.id, other.uploads(t, d, 1, mlscore.KeyPackageOptions{})...)
	if c := counts(t, d, phone); len(c) != 1 || c[0] != (Count{Suite: 1, Left: 2}) {
		t.Fatalf("counts %+v", c)
	}
	got, err := d.ClaimKeyPackages(t.Context(), claimOf(1, 1))
	if err != nil || len(got) != 2 || got[0].Device != laptop || got[1].Device != phone {
		t.Fatalf("claimed %+v, %v", got, err)
	}
	if got[1].Address == (wire.Token{}) {
		t.Fatal("no address")
	}
	// A repeated claim is the same one; its id for something else is refused; another's id is its own.
	again, err := d.ClaimKeyPackages(t.Context(), claimOf(1, 1))
	if err != nil || fmt.Sprint(again) != fmt.Sprint(got) {
		t.Fatalf("repeated claim: %+v, %v", again, err)
	}
	_, err = d.ClaimKeyPackages(t.Context(), claimOf(1, 2))
	wantCode(t, err, wire.SubmissionReused)
	c := claimOf(1, 1)
	c.Claimant = "c.example"
	got, err = d.ClaimKeyPackages(t.Context(), c)
	if err != nil || len(got) != 1 || got[0].Device != phone {
		t.Fatalf("claimed %+v, %v", got, err)
	}
	upload(t, d, phone, own...) // claimed ones do not come back
	_, err = d.ClaimKeyPackages(t.Context(), claimOf(2, 1))
	wantCode(t, err, wire.NoneLeft)
	for _, bad := range []Claim{{ID: claimID(3), User: alice, Suite: 1}, {Claimant: "x", User: alice, Suite: 1}, {ID: claimID(3), Claimant: "x", User: "alice", Suite: 1}} {
		_, err := d.ClaimKeyPackages(t.Context(), bad)
		wantCode(t, err, wire.Malformed)
	}
}

func TestLastResort(t *testing.T) {
	clock := newClock()
	d := open(t, Config{Clock: clock})
	e := enrol(t, d, phone, 1)
	upload(t, d, phone, e.uploads(t, d, 1, mlscore.KeyPackageOptions{})...)
	upload(t, d, phone, e.uploads(t, d, 1, mlscore.KeyPackageOptions{LastResort: true, Lifetime: 40 * day})...)
	if c := counts(t, d, phone); len(c) != 1 || c[0] != (Count{1, 1, true}) {
		t.Fatalf("counts %+v", c)
	}
	for n := 1; n <= 3; n++ {
		got, err := d.ClaimKeyPackages(t.Context(), claimOf(n, 1))
		if err != nil || len(got) != 1 || got[0].LastResort != (n > 1) {
			t.Fatalf("claim %d: %+v, %v", n, got, err)
		}
	}
	clock.advance(40*day + time.Second)
	_, err := d.ClaimKeyPackages(t.Context(), claimOf(4, 1))
	wantCode(t, err, wire.NoneLeft)
}

func TestLowWater(t *testing.T) {
	var reported []Low
	d := open(t, Config{LowWater: 3, Low: func(l Low) { reported = append(reported, l) }})
	e := enrol(t, d, phone, 1)
	upload(t, d, phone, e.uploads(t, d, 5, mlscore.KeyPackageOptions{})...)
	upload(t, d, phone, e.uploads(t, d, 1, mlscore.KeyPackageOptions{LastResort: true})...)
	for n := range 6 {
		if _, err := d.ClaimKeyPackages(t.Context(), claimOf(n, 1)); err != nil {
			t.Fatal(err)
		}
	}
	// When it falls below the mark, and whenever there is none left.
	if want := []Low{{phone, 1, 2}, {phone, 1, 0}, {phone, 1, 0}}; fmt.Sprint(reported) != fmt.Sprint(want) {
		t.Fatalf("got %v, want %v", reported, want)
	}
}

func TestUploadRefusals(t *testing.T) {
	clock := newClock()
	d := open(t, Config{Clock: clock, MaxKeyPackage: 2000, MaxLifetime: 60 * day, MaxKeyPackages: 3})
	e, other := enrol(t, d, phone, 1), enrol(t, d, laptop, 1)
	kp := func(by *device, opts mlscore.KeyPackageOptions) []byte { return by.keyPackage(t, d, opts) }
	good := kp(e, mlscore.KeyPackageOptions{})
	forged := append([]byte{}, good...)
	forged[len(forged)-1] ^= 1
	strangers := newCA(t, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize)))
	foreign := enrol(t, open(t, Config{Clock: clock, CA: strangers}), phone, 1)
	for name, c := range map[string]struct {
		message []byte
		code    wire.Code
	}{
		"too large":            {make([]byte, 2001), wire.TooLarge},
		"cut off":              {good[:len(good)-1], wire.Malformed},
		"trailing":             {append(append([]byte{}, good...), 0), wire.Malformed},
		"forged":               {forged, wire.Forged},
		"of another device":    {kp(other, mlscore.KeyPackageOptions{}), wire.Denied},
		"of another authority": {kp(foreign, mlscore.KeyPackageOptions{}), wire.Denied},
		"lives too long":       {kp(e, mlscore.KeyPackageOptions{Lifetime: 61 * day}), wire.Invalid},
		"basic credential":     {basicKeyPackage(t, d, e), wire.Denied},
	} {
		if err := d.UploadKeyPackages(t.Context(), phone, Upload{Message: c.message}); wire.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want code %s", name, err, c.code)
		}
	}
	if len(counts(t, d, phone)) != 0 {
		t.Fatal("something was kept")
	}
	upload(t, d, phone, e.uploads(t, d, 3, mlscore.KeyPackageOptions{})...) // at the limit
	more := e.uploads(t, d, 2, mlscore.KeyPackageOptions{})
	wantCode(t, d.UploadKeyPackages(t.Context(), phone, more[0]), wire.Quota)
	upload(t, d, phone, e.uploads(t, d, 1, mlscore.KeyPackageOptions{LastResort: true})...) // in addition
	wantCode(t, d.UploadKeyPackages(t.Context(), phone, e.uploads(t, d, 7, mlscore.KeyPackageOptions{})...), wire.Quota)
	if _, err := d.ClaimKeyPackages(t.Context(), claimOf(1, 1)); err != nil {
		t.Fatal(err)
	}
	wantCode(t, d.UploadKeyPackages(t.Context(), phone, more...), wire.Quota) // all or none
	if c := counts(t, d, phone); c[0].Left != 2 {
		t.Fatalf("counts %+v", c)
	}
	upload(t, d, phone, more[0])
	// Time.
	old := kp(e, mlscore.KeyPackageOptions{Lifetime: day})
	clock.advance(day + time.Second)
	wantCode(t, d.UploadKeyPackages(t.Context(), phone, Upload{Message: old}), wire.Invalid)
	clock.advance(60 * day)
	wantCode(t, d.UploadKeyPackages(t.Context(), phone, Upload{Message: kp(e, mlscore.KeyPackageOptions{Lifetime: 30 * day})}), wire.Invalid)
	clock.advance(29 * day)
	wantCode(t, d.UploadKeyPackages(t.Context(), phone, Upload{Message: kp(e, mlscore.KeyPackageOptions{Lifetime: time.Hour})}), wire.Denied)
}

func basicKeyPackage(t *testing.T, d *Directory, e *device) []byte {
	t.Helper()
	c, err := mlscore.NewClient(mlscore.Config{Auth: anyone{}, Store: mlscore.NewMemoryStore(), Now: d.cfg.Clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	k, err := c.NewKeyPackage(mlscore.Identity{CipherSuite: e.suite, Credential: mlscore.BasicCredential([]byte(e.id)), SignatureKey: e.priv}, mlscore.KeyPackageOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := k.Message()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestKeyPackageBytesQuota(t *testing.T) {
	d := open(t, Config{})
	e := enrol(t, d, phone, 1)
	list := e.uploads(t, d, 3, mlscore.KeyPackageOptions{})
	d.cfg.MaxKeyPackageBytes = len(list[0].Message) + len(list[1].Message)
	upload(t, d, phone, list[:2]...)
	wantCode(t, d.UploadKeyPackages(t.Context(), phone, list[2]), wire.Quota)
}

func TestSweepRemovesWhatExpired(t *testing.T) {
	clock := newClock()
	d := open(t, Config{Clock: clock, ClaimMemory: day})
	e := enrol(t, d, phone, 1)
	upload(t, d, phone, e.uploads(t, d, 3, mlscore.KeyPackageOptions{Lifetime: 10 * day})...)
	upload(t, d, phone, e.uploads(t, d, 1, mlscore.KeyPackageOptions{Lifetime: 10 * day, LastResort: true})...)
	upload(t, d, phone, e.uploads(t, d, 1, mlscore.KeyPackageOptions{Lifetime: 20 * day})...)
	if _, err := d.ClaimKeyPackages(t.Context(), claimOf(1, 1)); err != nil {
		t.Fatal(err)
	}
	records := func() int {
		n := 0
		everyRecord(t, d, func(byte, []byte, []byte) { n++ })
		return n
	}
	// user, account, device, invitation, 2+1+1 KeyPackages, mark and record of the claim, two buckets, five addresses,
	// one of them shared
	if n := records(); n != 18 {
		t.Fatalf("%d records", n)
	}
	for _, step := range []struct {
		d    time.Duration
		left int
	}{{day, 16}, {time.Second, 14}, {9*day - time.Second, 14}, {time.Second, 9}, {10 * day, 8}} {
		clock.advance(step.d)
		if err := d.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := records(); n != step.left {
			t.Fatalf("%d records %v later, want %d", n, step.d, step.left)
		}
	}
}

func TestRunSweeps(t *testing.T) {
	clock := newClock()
	d := open(t, Config{Clock: clock})
	invite(t, d, alice)
	clock.advance(2 * day)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	for stored(t, d, kindInvitation) > 0 { // becomes 0 without a call, or the test runs into its limit
		runtime.Gosched()
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestClaimsAreExact: a thousand KeyPackages, claimed by fifty at once, each once.
func TestClaimsAreExact(t *testing.T) {
	const packages, claimants = 1000, 50
	d := open(t, Config{MaxKeyPackages: packages, MaxKeyPackageBytes: 1 << 30})
	e := enrol(t, d, phone, 1)
	mine := e.uploads(t, d, packages, mlscore.KeyPackageOptions{})
	upload(t, d, phone, mine...)
	var mu sync.Mutex
	seen := make(map[string]int)
	none := 0
	var all sync.WaitGroup
	for w := range claimants {
		all.Go(func() {
			for n := range packages/claimants + 1 {
				c := Claim{ID: claimID(n), Claimant: fmt.Sprint(w), User: alice, Suite: 1}
				got, err := d.ClaimKeyPackages(t.Context(), c)
				if err == nil && n%3 == 0 { // repeat some
					again, err := d.ClaimKeyPackages(t.Context(), c)
					if err != nil || string(again[0].Message) != string(got[0].Message) {
						t.Errorf("repeated: %v", err)
					}
				}
				mu.Lock()
				switch {
				case err == nil:
					seen[string(got[0].Message)]++
				case wire.CodeOf(err) == wire.NoneLeft:
					none++
				default:
					t.Error(err)
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	for _, u := range mine {
		if seen[string(u.Message)] != 1 {
			t.Fatalf("a KeyPackage was given %d times", seen[string(u.Message)])
		}
	}
	if len(seen) != packages || none != claimants {
		t.Fatalf("%d were claimed, %d found none", len(seen), none)
	}
}

// TestClaimModel drives uploads, claims, repetitions, time and revocation of two devices, and compares with a model.
func TestClaimModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		clock := newClock()
		d := open(t, Config{Clock: clock, MaxKeyPackages: 4, ClaimMemory: 1000 * day})
		devices := []*device{enrol(t, d, laptop, 1), enrol(t, d, phone, 1)} // in the order of their names
		pools := make([]map[string]time.Time, 2)
		last := make([]time.Time, 2)
		for i := range pools {
			pools[i] = make(map[string]time.Time)
		}
		answers := make(map[int]string)
		given := make(map[string]bool)
		rt.Repeat(map[string]func(*rapid.T){
			"upload": func(rt *rapid.T) {
				i, life := rapid.IntRange(0, 1).Draw(rt, "device"), time.Duration(rapid.IntRange(1, 20).Draw(rt, "hours"))*time.Hour
				alive := 0
				for _, end := range pools[i] {
					if end.After(clock.Now()) {
						alive++
					}
				}
				m := devices[i].keyPackage(t, d, mlscore.KeyPackageOptions{Lifetime: life})
				err := d.UploadKeyPackages(t.Context(), devices[i].id, Upload{Message: m})
				if (err == nil) != (alive < 4) || err != nil && wire.CodeOf(err) != wire.Quota {
					rt.Fatalf("upload during %d: %v", alive, err)
				}
				if err == nil {
					pools[i][string(m)] = clock.Now().Add(life)
				}
			},
			"last resort": func(rt *rapid.T) {
				i, life := rapid.IntRange(0, 1).Draw(rt, "device"), time.Duration(rapid.IntRange(1, 20).Draw(rt, "hours"))*time.Hour
				upload(t, d, devices[i].id, Upload{Message: devices[i].keyPackage(t, d, mlscore.KeyPackageOptions{Lifetime: life, LastResort: true})})
				last[i] = clock.Now().Add(life)
			},
			"wait": func(rt *rapid.T) {
				clock.advance(time.Duration(rapid.IntRange(1, 5).Draw(rt, "hours")) * time.Hour)
				if err := d.Sweep(t.Context()); err != nil {
					rt.Fatal(err)
				}
			},
			"claim": func(rt *rapid.T) {
				n := rapid.IntRange(1, 30).Draw(rt, "id")
				got, err := d.ClaimKeyPackages(t.Context(), claimOf(n, 1))
				if before, ok := answers[n]; ok && err == nil && fmt.Sprint(got) == before {
					return
				}
				if answers[n] != "" {
					rt.Fatalf("claim %d was answered differently: %v", n, err)
				}
				at := 0
				for i, e := range devices {
					first := time.Time{}
					for _, end := range pools[i] {
						if end.After(clock.Now()) && (first.IsZero() || end.Before(first)) {
							first = end
						}
					}
					lastResort := first.IsZero()
					if lastResort && !last[i].After(clock.Now()) {
						continue
					}
					if at >= len(got) || got[at].Device != e.id || got[at].LastResort != lastResort {
						rt.Fatalf("claim %d: %+v (%v), want one of %s, last resort %v", n, got, err, e.id, lastResort)
					}
					if m := string(got[at].Message); !lastResort {
						if given[m] || !pools[i][m].Equal(first) {
							rt.Fatalf("claim %d: a KeyPackage that was given, or not the one that ends first", n)
						}
						given[m] = true
						delete(pools[i], m)
					}
					at++
				}
				if at != len(got) || at == 0 && wire.CodeOf(err) != wire.NoneLeft {
					rt.Fatalf("claim %d: %d given, want %d; %v", n, len(got), at, err)
				}
				if err == nil {
					answers[n] = fmt.Sprint(got)
				}
			},
		})
	})
}

func TestAddresses(t *testing.T) {
	clock := newClock()
	d := open(t, Config{Clock: clock})
	a, b := enrol(t, d, phone, 1), enrol(t, d, laptop, 1)
	mine := a.uploads(t, d, 2, mlscore.KeyPackageOptions{})
	upload(t, d, phone, mine...)
	got, err := d.ClaimKeyPackages(t.Context(), claimOf(1, 1))
	if err != nil {
		t.Fatal(err)
	}
	at := got[0].Address
	if v, err := d.DeviceAt(t.Context(), at); v != phone || err != nil { // though the KeyPackage is gone
		t.Fatalf("%s, %v", v, err)
	}
	theirs := b.uploads(t, d, 1, mlscore.KeyPackageOptions{})
	theirs[0].Address = at
	wantCode(t, d.UploadKeyPackages(t.Context(), laptop, theirs...), wire.Exists)
	_, err = d.DeviceAt(t.Context(), wire.Token{9})
	wantCode(t, err, wire.NotFound)
	if err := d.Revoke(t.Context(), phone); err != nil {
		t.Fatal(err)
	}
	_, err = d.DeviceAt(t.Context(), at)
	wantCode(t, err, wire.NotFound)
	clock.advance(time.Second)
	enrol(t, d, phone, 1) // another device of that name
	_, err = d.DeviceAt(t.Context(), at)
	wantCode(t, err, wire.NotFound)
	if err := d.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	everyRecord(t, d, func(kind byte, key, _ []byte) {
		if kind == kindAddress && bytes.Equal(key, at[:]) {
			t.Error("the address is still stored")
		}
	})
}
