package directorytest

import (
	"context"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/wire"
)

// testChangesOfOneUser checks that changes of one user exclude each other: none is lost.
func testChangesOfOneUser(t *testing.T, p Place) {
	s := open(t, p)
	const writers, each = 8, 10
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for range each {
				if err := s.Update(t.Context(), alice, func(tx recordstore.Tx) error {
					u, err := tx.User(t.Context(), alice)
					if err != nil {
						return err
					}
					if u == nil {
						u = &recordstore.User{ID: alice}
					}
					u.Created++
					return tx.Set(t.Context(), u)
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if u, err := s.User(t.Context(), alice); err != nil || u == nil || u.Created != writers*each {
		t.Fatalf("%d changes made %+v (%v)", writers*each, u, err)
	}
}

// testOneUserOfASubject checks that two users who bind one subject at the same time do not both get it.
func testOneUserOfASubject(t *testing.T, p Place) {
	s := open(t, p)
	var won, staged atomic.Int32
	var all sync.WaitGroup
	for n := range 16 {
		u, err := wire.NewUserID(org, string(rune('a'+n)))
		must(t, err)
		all.Go(func() {
			if err := s.UpdateSubject(t.Context(), u, func(tx recordstore.Tx) error {
				if staged.Add(1) != 1 {
					t.Error("two changes of subjects are staged at the same time")
				}
				defer staged.Add(-1)
				for range 100 {
					runtime.Gosched() // lets the others begin, if they can
				}
				other, err := tx.SubjectUser(t.Context(), "https://i.example", "1")
				if err != nil || other != "" {
					return err
				}
				won.Add(1)
				return tx.Set(t.Context(), &recordstore.Subject{User: u, Issuer: "https://i.example", Subject: "1"})
			}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d users have one subject", won.Load())
	}
	owner, err := s.SubjectUser(t.Context(), "https://i.example", "1")
	must(t, err)
	must(t, s.UpdateSubject(t.Context(), owner, func(tx recordstore.Tx) error { return tx.RemoveSubject(t.Context(), owner) }))
	if u, err := s.SubjectUser(t.Context(), "https://i.example", "1"); u != "" || err != nil {
		t.Errorf("the subject is still %s (%v)", u, err)
	}
	if b, err := s.Subject(t.Context(), owner); b != nil || err != nil {
		t.Errorf("the user is still %+v (%v)", b, err)
	}
}

// testAddresses checks that an address is a device's only as long as that device is enrolled.
func testAddresses(t *testing.T, p Place) {
	s := open(t, p)
	here, gone, old := wire.Token{1}, wire.Token{2}, wire.Token{3}
	set(t, s, &recordstore.Device{ID: phone, Enrolled: 5}, &recordstore.Address{Token: here, Device: phone, Enrolled: 5},
		&recordstore.Address{Token: gone, Device: laptop, Enrolled: 5}, &recordstore.Address{Token: old, Device: phone, Enrolled: 4})
	want := map[wire.Token]wire.DeviceID{here: phone}
	if at, err := s.DevicesAt(t.Context(), here, gone, old, wire.Token{4}); err != nil || !reflect.DeepEqual(at, want) {
		t.Errorf("devices %v (%v)", at, err)
	}
	if at, err := s.DevicesAt(t.Context()); err != nil || len(at) != 0 {
		t.Errorf("devices at no address %v (%v)", at, err)
	}
}

func keyPackage(n byte, ends wire.Time) *recordstore.KeyPackage {
	return &recordstore.KeyPackage{Device: phone, Suite: suite, Ref: append(make([]byte, 31), n), Message: []byte{n}, Expires: ends}
}

// take takes a KeyPackage of the phone.
func take(t testing.TB, s recordstore.Store, now wire.Time, most int) (k *recordstore.KeyPackage, left int) {
	t.Helper()
	must(t, s.Update(t.Context(), alice, func(tx recordstore.Tx) (err error) {
		k, left, err = tx.Take(t.Context(), phone, suite, now, most)
		return err
	}))
	return k, left
}

// testTake checks the choice of a KeyPackage, the rest of the pool, and that a taken KeyPackage stays known.
func testTake(t *testing.T, p Place) {
	s := open(t, p)
	other := keyPackage(9, 30)
	other.Suite = suite + 1
	set(t, s, keyPackage(1, 30), keyPackage(2, 10), keyPackage(3, 20), keyPackage(4, 20), other)
	if n, size, err := s.Pool(t.Context(), phone, suite, 10); n != 3 || size != 3 || err != nil {
		t.Errorf("%d KeyPackages with %d bytes after 10 (%v)", n, size, err)
	}
	for _, c := range []struct {
		now  wire.Time
		most int
		want byte
		left int
	}{{now: 10, most: 1, want: 3, left: 1}, {now: 10, most: 9, want: 4, left: 1}, {now: 10, most: 9, want: 1}} {
		k, left := take(t, s, c.now, c.most)
		if k == nil || k.Message[0] != c.want || left != c.left || k.Device != phone || k.Suite != suite {
			t.Fatalf("took %+v with %d left, want %+v", k, left, c)
		}
		if known, err := s.Known(t.Context(), k); !known || err != nil {
			t.Errorf("KeyPackage %d is not known any more (%v)", c.want, err)
		}
	}
	if k, left := take(t, s, 10, 9); k != nil || left != 0 {
		t.Errorf("took %+v out of an empty pool, %d left", k, left)
	}
	if known, err := s.Known(t.Context(), keyPackage(5, 10)); known || err != nil {
		t.Errorf("an unknown KeyPackage is known (%v)", err)
	}
}

// testTakenOnce checks that of many who take at the same time none gets a KeyPackage that another one got.
func testTakenOnce(t *testing.T, p Place) {
	s := open(t, p)
	const packages, takers = 40, 8
	for n := range byte(packages) {
		set(t, s, keyPackage(n, 10))
	}
	got := make(chan byte, packages+takers)
	var all sync.WaitGroup
	for range takers {
		all.Go(func() {
			for {
				var k *recordstore.KeyPackage
				err := s.Update(t.Context(), alice, func(tx recordstore.Tx) (err error) {
					k, _, err = tx.Take(t.Context(), phone, suite, 0, 1)
					return err
				})
				if err != nil {
					t.Error(err)
				}
				if err != nil || k == nil {
					return
				}
				got <- k.Message[0]
			}
		})
	}
	all.Wait()
	close(got)
	seen := make(map[byte]bool)
	for n := range got {
		if seen[n] {
			t.Errorf("KeyPackage %d was taken twice", n)
		}
		seen[n] = true
	}
	if len(seen) != packages {
		t.Errorf("%d of %d KeyPackages were taken", len(seen), packages)
	}
}

// testRemovals checks what the removal of KeyPackages, of a device and of a user takes with it.
func testRemovals(t *testing.T, p Place) {
	s := open(t, p)
	resort := &recordstore.LastResort{KeyPackage: *keyPackage(1, 9)}
	pool := func() int {
		n, _, err := s.Pool(t.Context(), phone, suite, 0)
		must(t, err)
		return n
	}
	set(t, s, &recordstore.Device{ID: phone}, keyPackage(1, 9), resort)
	must(t, s.Update(t.Context(), alice, func(tx recordstore.Tx) error { return tx.RemoveKeyPackages(t.Context(), phone) }))
	if k, err := s.LastResort(t.Context(), phone, suite); pool() != 0 || k != nil || err != nil {
		t.Errorf("KeyPackages are left: %d, %+v (%v)", pool(), k, err)
	}
	set(t, s, keyPackage(1, 9), resort, &recordstore.Device{ID: laptop})
	must(t, s.Update(t.Context(), alice, func(tx recordstore.Tx) error { return tx.RemoveDevice(t.Context(), phone) }))
	if list, err := s.Devices(t.Context(), alice); err != nil || len(list) != 1 || pool() != 0 {
		t.Errorf("devices %v, %d KeyPackages (%v)", list, pool(), err)
	}
	for _, r := range records() {
		set(t, s, r.value)
	}
	set(t, s, &recordstore.Invitation{Hash: wire.Hash{9}, User: bob, Expires: 9})
	must(t, s.UpdateSubject(t.Context(), alice, func(tx recordstore.Tx) error { return tx.RemoveUser(t.Context(), alice) }))
	for _, r := range records() {
		removed := false
		switch r.value.(type) {
		case *recordstore.User, *recordstore.Person, *recordstore.Subject, *recordstore.Invitation:
			removed = true
		}
		if got, err := r.read(t.Context(), s); err != nil || reflect.ValueOf(got).IsNil() != removed {
			t.Errorf("%T after the removal of the user: %+v (%v)", r.value, got, err)
		}
	}
	if i, err := s.Invitation(t.Context(), wire.Hash{9}); i == nil || err != nil {
		t.Errorf("another user's invitation is gone (%v)", err)
	}
}

// testRevocations checks the order of revocations, and that a revocation ends the life of the list.
func testRevocations(t *testing.T, p Place) {
	s := open(t, p)
	must(t, s.AddRevocations(t.Context(),
		recordstore.Revocation{Serial: []byte{3}, Device: phone, Time: 1, NotAfter: 9}, recordstore.Revocation{Serial: []byte{1}, Device: phone, Time: 1, NotAfter: 9},
		recordstore.Revocation{Serial: []byte{2}, Device: phone, Time: 1, NotAfter: 4}))
	for serial, want := range map[byte]bool{1: true, 2: true, 3: true, 4: false} {
		if revoked, err := s.Revoked(t.Context(), []byte{serial}); revoked != want || err != nil {
			t.Errorf("certificate %d: revoked %v (%v)", serial, revoked, err)
		}
	}
	var list []recordstore.Revocation
	must(t, s.RenewList(t.Context(), 5, func(present recordstore.List, revoked []recordstore.Revocation) (*recordstore.List, error) {
		list = revoked
		return &recordstore.List{Number: present.Number + 1, Next: 7, DER: []byte("one")}, nil
	}))
	if len(list) != 2 || list[0].Serial[0] != 1 || list[1].Serial[0] != 3 || list[0].Device != phone {
		t.Errorf("the list is made of %+v", list)
	}
	must(t, s.RenewList(t.Context(), 5, func(present recordstore.List, _ []recordstore.Revocation) (*recordstore.List, error) {
		if present.Number != 1 || present.Next != 7 || string(present.DER) != "one" {
			t.Errorf("the present list is %+v", present)
		}
		return nil, nil
	}))
	must(t, s.AddRevocations(t.Context(), recordstore.Revocation{Serial: []byte{5}, NotAfter: 9}))
	if l, err := s.List(t.Context()); err != nil || l == nil || l.Next != 0 || l.Number != 1 || string(l.DER) != "one" {
		t.Errorf("after a revocation the list is %+v (%v)", l, err)
	}
}

// testRestored checks the records that a restored backup drops.
func testRestored(t *testing.T, p Place) {
	s := open(t, p)
	for _, r := range records() {
		set(t, s, r.value)
	}
	must(t, s.Restored(t.Context()))
	for _, r := range records() {
		dropped := false
		switch r.value.(type) {
		case *recordstore.KeyPackage, *recordstore.Invitation, *recordstore.Claim:
			dropped = true
		}
		if got, err := r.read(t.Context(), s); err != nil || reflect.ValueOf(got).IsNil() != dropped {
			t.Errorf("%T: %+v (%v)", r.value, got, err)
		}
	}
}

// testSweep checks that a record stays until its time is over, and no longer.
func testSweep(t *testing.T, p Place) {
	s := open(t, p)
	for _, r := range records() {
		set(t, s, r.value)
	}
	taken := keyPackage(7, 9)
	set(t, s, taken)
	take(t, s, 0, 1) // the one of records
	must(t, s.AddRevocations(t.Context(), recordstore.Revocation{Serial: []byte{1}, NotAfter: 9}))
	there := func(what recordstore.Record) bool {
		t.Helper()
		for _, r := range records() {
			if reflect.TypeOf(r.value) == reflect.TypeOf(what) {
				got, err := r.read(t.Context(), s)
				must(t, err)
				return !reflect.ValueOf(got).IsNil()
			}
		}
		t.Fatalf("no record %T", what)
		return false
	}
	want := func(at string, want bool, what ...recordstore.Record) {
		t.Helper()
		for _, w := range what {
			if there(w) != want {
				t.Errorf("%s: %T is there: %v", at, w, !want)
			}
		}
	}
	must(t, s.Sweep(t.Context(), recordstore.Times{Now: 1, Count: 9, Claims: 1}))
	want("nothing is over", true, &recordstore.Invitation{}, &recordstore.LastResort{}, &recordstore.Claim{}, &recordstore.Shared{}, &recordstore.Token{},
		&recordstore.Buckets{}, &recordstore.KeyPackage{}, &recordstore.Address{}, &recordstore.Use{})
	must(t, s.Sweep(t.Context(), recordstore.Times{Now: 5, Count: 10, Claims: 2}))
	want("before 9", false, &recordstore.Invitation{}, &recordstore.Claim{}, &recordstore.Shared{}, &recordstore.Buckets{})
	want("before 9", true, &recordstore.LastResort{}, &recordstore.Token{}, &recordstore.KeyPackage{}, &recordstore.Address{}, &recordstore.Use{})
	must(t, s.Sweep(t.Context(), recordstore.Times{Now: 10, Count: 10, Claims: 2}))
	want("after 9", false, &recordstore.LastResort{}, &recordstore.Token{}, &recordstore.KeyPackage{})
	if revoked, err := s.Revoked(t.Context(), []byte{1}); revoked || err != nil {
		t.Errorf("the revocation of a certificate that has ended is kept (%v)", err)
	}
	if known, err := s.Known(t.Context(), taken); known || err != nil {
		t.Errorf("a KeyPackage that has ended is kept (%v)", err)
	}
	want("after 9", true, &recordstore.User{}, &recordstore.Account{}, &recordstore.Person{}, &recordstore.Device{}, &recordstore.Subject{}, &recordstore.Address{}, &recordstore.Use{})
	must(t, s.Update(t.Context(), alice, func(tx recordstore.Tx) error { return tx.RemoveDevice(t.Context(), phone) }))
	must(t, s.Sweep(t.Context(), recordstore.Times{Now: 10, Count: 10, Claims: 2}))
	want("without the device", false, &recordstore.Device{}, &recordstore.Address{}, &recordstore.Use{})
}

// testCrash checks that a crash loses nothing of a change that has returned, and that a repetition of a change makes
// what it has found durable.
func testCrash(t *testing.T, p Place) {
	s := open(t, p)
	for _, r := range records() {
		set(t, s, r.value)
	}
	must(t, s.AddRevocations(t.Context(), recordstore.Revocation{Serial: []byte{1}, NotAfter: 9}))
	after := open(t, p.Crash(t))
	for _, r := range records() {
		if got, err := r.read(t.Context(), after); err != nil || !reflect.DeepEqual(got, any(r.value)) {
			t.Errorf("%T after a crash: %+v (%v)", r.value, got, err)
		}
	}
	if revoked, err := after.Revoked(t.Context(), []byte{1}); !revoked || err != nil {
		t.Errorf("a revocation is lost (%v)", err)
	}
	must(t, s.Note(t.Context(), alice, func(tx recordstore.Tx) error { return tx.Set(t.Context(), &recordstore.User{ID: bob, Created: 3}) }))
	must(t, s.Update(t.Context(), alice, func(recordstore.Tx) error { return nil }))
	if u, err := open(t, p.Crash(t)).User(t.Context(), bob); err != nil || u == nil {
		t.Errorf("a change that an empty Update has seen is lost: %v (%v)", u, err)
	}
	must(t, s.Restored(t.Context()))
	if c, err := open(t, p.Crash(t)).Claim(t.Context(), recordstore.Claimant{1}, wire.SubmissionID{1}); c != nil || err != nil {
		t.Errorf("a claim is back after a crash: %+v (%v)", c, err)
	}
}

// testCrashKeepsTheOrder checks that a crash keeps a change by Note if it keeps a later change. A crash may lose a
// change by Note, and then loses all later changes too.
func testCrashKeepsTheOrder(t *testing.T, p Place) {
	s := open(t, p)
	const changes = 60
	for n := range changes {
		change := s.Note
		if n%7 == 6 {
			change = s.Update
		}
		must(t, change(t.Context(), alice, func(tx recordstore.Tx) error { return setNumber(t.Context(), tx, n) }))
		after, stop := p.Crash(t).Open(t)
		have := 0
		for ; have <= n; have++ {
			u, err := after.User(t.Context(), numbered(have))
			must(t, err)
			if u == nil {
				break
			}
		}
		if durable := (n + 1) / 7 * 7; have < durable {
			t.Fatalf("after change %d a crash keeps %d changes, %d were durable", n, have, durable)
		}
		for lost := have; lost <= n; lost++ {
			if u, err := after.User(t.Context(), numbered(lost)); u != nil || err != nil {
				t.Fatalf("change %d is there without change %d (%v)", lost, have, err)
			}
		}
		stop()
	}
}

func numbered(n int) wire.UserID {
	return wire.UserID("mimi://a.example/u/u" + string(rune('a'+n/26)) + string(rune('a'+n%26)))
}

func setNumber(ctx context.Context, tx recordstore.Tx, n int) error {
	return tx.Set(ctx, &recordstore.User{ID: numbered(n), Created: wire.Time(n)})
}
