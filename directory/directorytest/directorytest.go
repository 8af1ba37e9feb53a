// Package directorytest checks implementations of recordstore.Store against their contract, which is in the
// documentation of package recordstore.
package directorytest

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/wire"
)

// Place is where an implementation keeps records over restarts.
type Place interface {
	// Open opens the store on what the place holds, until stop is called. stop can be called twice.
	Open(t testing.TB) (s recordstore.Store, stop func())
	// Crash returns the place in the state after a failure of the machine at this moment, with the durable data only.
	// The place itself stays usable.
	Crash(t testing.TB) Place
}

// Run runs the suite. fresh returns an empty place.
func Run(t *testing.T, fresh func(t testing.TB) Place) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, Place)
	}{
		{name: "Absent", run: testAbsent},
		{name: "EachRecord", run: testEachRecord},
		{name: "Lists", run: testLists},
		{name: "FailedChange", run: testFailedChange},
		{name: "Cancelled", run: testCancelled},
		{name: "ChangesOfOneUser", run: testChangesOfOneUser},
		{name: "OneUserOfASubject", run: testOneUserOfASubject},
		{name: "Addresses", run: testAddresses},
		{name: "Take", run: testTake},
		{name: "TakenOnce", run: testTakenOnce},
		{name: "Removals", run: testRemovals},
		{name: "Revocations", run: testRevocations},
		{name: "Restored", run: testRestored},
		{name: "Sweep", run: testSweep},
		{name: "Crash", run: testCrash},
		{name: "CrashKeepsTheOrder", run: testCrashKeepsTheOrder},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, fresh(t)) })
	}
}

const (
	org    = wire.Domain("a.example")
	alice  = wire.UserID("mimi://a.example/u/alice")
	bob    = wire.UserID("mimi://a.example/u/bob")
	phone  = wire.DeviceID("mimi://a.example/d/alice/phone")
	laptop = wire.DeviceID("mimi://a.example/d/alice/laptop")
	suite  = uint16(1)
)

// open opens a store until the end of the test.
func open(t testing.TB, p Place) recordstore.Store {
	t.Helper()
	s, stop := p.Open(t)
	t.Cleanup(stop)
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// set writes records of alice durably.
func set(t testing.TB, s recordstore.Store, records ...recordstore.Record) {
	t.Helper()
	must(t, s.Update(t.Context(), alice, func(tx recordstore.Tx) error { return tx.Set(t.Context(), records...) }))
}

// records has one record of each type, and how to read it.
func records() []record {
	hash := func(b byte) wire.Hash { return wire.Hash{0: b, 31: b} }
	ref := make([]byte, 32)
	claimant, token, conversation := recordstore.Claimant{1}, wire.Token{1}, wire.ConversationID("conversation one")
	return []record{
		{&recordstore.User{ID: alice, Created: 1}, func(c context.Context, r recordstore.Reads) (any, error) { return r.User(c, alice) }},
		{&recordstore.Account{User: alice, External: "x7", Active: true, Created: 1, Modified: 2}, func(c context.Context, r recordstore.Reads) (any, error) { return r.Account(c, alice) }},
		{&recordstore.Person{User: alice, ID: wire.AccountID{1}, Made: 1}, func(c context.Context, r recordstore.Reads) (any, error) { return r.Person(c, alice) }},
		{&recordstore.Device{
			ID: phone, Enrolled: 1, Key: []byte("key"), Certificate: []byte("der"), NotAfter: 9, Issued: []recordstore.Issued{{Serial: []byte{1}, NotAfter: 9}},
		}, func(c context.Context, r recordstore.Reads) (any, error) { return r.Device(c, phone) }},
		{&recordstore.Invitation{Hash: hash(1), User: alice, Expires: 9, Used: phone}, func(c context.Context, r recordstore.Reads) (any, error) { return r.Invitation(c, hash(1)) }},
		{&recordstore.LastResort{KeyPackage: recordstore.KeyPackage{
			Device: phone, Suite: suite, Message: []byte("m"), Address: token, Expires: 9,
		}}, func(c context.Context, r recordstore.Reads) (any, error) { return r.LastResort(c, phone, suite) }},
		{&recordstore.Claim{
			By: claimant, ID: wire.SubmissionID{1}, Time: 1, User: alice, Suite: suite, Results: []recordstore.Claimed{{Device: phone, Message: []byte("m")}},
		}, func(c context.Context, r recordstore.Reads) (any, error) {
			return r.Claim(c, claimant, wire.SubmissionID{1})
		}},
		{&recordstore.Use{Token: token, Conversation: conversation, Since: 1, Refused: true}, func(c context.Context, r recordstore.Reads) (any, error) {
			return r.Use(c, token, conversation)
		}},
		{&recordstore.Shared{Token: token, FullAt: 1, Ends: 2}, func(c context.Context, r recordstore.Reads) (any, error) { return r.Shared(c, token) }},
		{&recordstore.Subject{User: alice, Issuer: "https://i.example", Subject: "1"}, func(c context.Context, r recordstore.Reads) (any, error) {
			return r.Subject(c, alice)
		}},
		{&recordstore.Token{User: alice, Hash: hash(2), Device: phone, Expires: 9}, func(c context.Context, r recordstore.Reads) (any, error) {
			return r.Token(c, alice, hash(2))
		}},
		{&recordstore.Buckets{By: claimant, User: alice, Pair: 3, All: 4}, func(c context.Context, r recordstore.Reads) (any, error) {
			b, err := r.Buckets(c, claimant, alice)
			if b.Pair == 0 && b.All == 0 {
				return (*recordstore.Buckets)(nil), err
			}
			return &b, err
		}},
		{&recordstore.KeyPackage{Device: phone, Suite: suite, Ref: ref, Message: []byte("m"), Address: token, Expires: 9}, func(c context.Context, r recordstore.Reads) (any, error) {
			k := &recordstore.KeyPackage{Device: phone, Suite: suite, Ref: ref, Message: []byte("m"), Address: token, Expires: 9}
			if known, err := r.Known(c, k); err != nil || !known {
				return (*recordstore.KeyPackage)(nil), err
			}
			return k, nil
		}},
		{&recordstore.Address{Token: token, Device: phone, Enrolled: 1}, func(c context.Context, r recordstore.Reads) (any, error) {
			at, err := r.DevicesAt(c, token)
			if at[token] == "" {
				return (*recordstore.Address)(nil), err
			}
			return &recordstore.Address{Token: token, Device: at[token], Enrolled: 1}, err
		}},
	}
}

type record struct {
	value recordstore.Record
	read  func(context.Context, recordstore.Reads) (any, error)
}

// testAbsent checks that a record that is not there is nil and no error.
func testAbsent(t *testing.T, p Place) {
	s := open(t, p)
	for _, r := range records() {
		got, err := r.read(t.Context(), s)
		if err != nil || !reflect.ValueOf(got).IsNil() {
			t.Errorf("%T in an empty store: %v (%v)", r.value, got, err)
		}
	}
	if list, err := s.List(t.Context()); list != nil || err != nil {
		t.Errorf("list %v (%v)", list, err)
	}
	if u, err := s.SubjectUser(t.Context(), "i", "s"); u != "" || err != nil {
		t.Errorf("user of a subject %q (%v)", u, err)
	}
	if revoked, err := s.Revoked(t.Context(), []byte{1}); revoked || err != nil {
		t.Errorf("revoked %v (%v)", revoked, err)
	}
}

// testEachRecord checks that each type of record is read as it was set, within another change and after a restart.
func testEachRecord(t *testing.T, p Place) {
	s, stop := p.Open(t)
	defer stop()
	for _, r := range records() {
		set(t, s, r.value)
	}
	check := func(from recordstore.Reads) {
		t.Helper()
		for _, r := range records() {
			if got, err := r.read(t.Context(), from); err != nil || !reflect.DeepEqual(got, any(r.value)) {
				t.Errorf("%T: %+v (%v), set %+v", r.value, got, err, r.value)
			}
		}
	}
	check(s)
	must(t, s.Update(t.Context(), alice, func(tx recordstore.Tx) error { check(tx); return nil }))
	stop()
	check(open(t, p))
}

// testLists checks what lists contain, and their order.
func testLists(t *testing.T, p Place) {
	s := open(t, p)
	set(t, s, &recordstore.User{ID: bob, Created: 2}, &recordstore.User{ID: alice, Created: 1}, &recordstore.Account{User: bob, Created: 1},
		&recordstore.Device{ID: phone}, &recordstore.Device{ID: laptop}, &recordstore.Device{ID: "mimi://a.example/d/alic/phone"})
	if list, err := s.Users(t.Context(), org); err != nil || len(list) != 2 || list[0].ID != alice || list[1] != (recordstore.User{ID: bob, Created: 2}) {
		t.Errorf("users %+v (%v)", list, err)
	}
	if list, err := s.Accounts(t.Context(), org); err != nil || len(list) != 1 || list[0].User != bob {
		t.Errorf("accounts %+v (%v)", list, err)
	}
	if list, err := s.Devices(t.Context(), alice); err != nil || !reflect.DeepEqual(list, []wire.DeviceID{laptop, phone}) {
		t.Errorf("devices %v (%v)", list, err)
	}
	for n := range 5 {
		set(t, s, &recordstore.Use{Token: wire.Token{1}, Conversation: wire.ConversationID([]byte{byte(n)})},
			&recordstore.Token{User: alice, Hash: wire.Hash{byte(n)}, Device: phone, Expires: wire.Time(n)})
	}
	for _, c := range []struct{ most, want int }{{0, 0}, {1, 1}, {5, 5}, {9, 5}} {
		if n, err := s.Uses(t.Context(), wire.Token{1}, c.most); n != c.want || err != nil {
			t.Errorf("%d uses up to %d (%v)", n, c.most, err)
		}
	}
	for _, c := range []struct {
		now  wire.Time
		most int
		want int
	}{{now: 0, most: 9, want: 5}, {now: 3, most: 9, want: 2}, {now: 5, most: 9}, {now: 0, most: 2, want: 2}} {
		if n, err := s.Tokens(t.Context(), alice, c.now, c.most); n != c.want || err != nil {
			t.Errorf("%d tokens at %d up to %d, want %d (%v)", n, c.now, c.most, c.want, err)
		}
	}
	if n, err := s.Tokens(t.Context(), bob, 0, 9); n != 0 || err != nil {
		t.Errorf("%d tokens of another user (%v)", n, err)
	}
	for s2 := range uint16(3) {
		set(t, s, &recordstore.LastResort{KeyPackage: recordstore.KeyPackage{Device: phone, Suite: s2, Expires: 9}})
	}
	if list, err := s.LastResorts(t.Context(), phone); err != nil || len(list) != 3 || list[2].Suite != 2 || list[2].Device != phone {
		t.Errorf("last resorts %+v (%v)", list, err)
	}
}

var errStaged = errors.New("staged")

// testFailedChange checks that an error of stage changes nothing and is returned.
func testFailedChange(t *testing.T, p Place) {
	s := open(t, p)
	for name, change := range map[string]func(context.Context, wire.UserID, func(recordstore.Tx) error) error{
		"Update": s.Update, "Note": s.Note, "UpdateSubject": s.UpdateSubject,
	} {
		err := change(t.Context(), alice, func(tx recordstore.Tx) error {
			return errors.Join(tx.Set(t.Context(), &recordstore.User{ID: alice}), errStaged)
		})
		if !errors.Is(err, errStaged) {
			t.Errorf("%s: %v", name, err)
		}
		if u, err := s.User(t.Context(), alice); u != nil || err != nil {
			t.Errorf("%s changed something: %v (%v)", name, u, err)
		}
	}
	err := s.RenewList(t.Context(), 0, func(recordstore.List, []recordstore.Revocation) (*recordstore.List, error) {
		return &recordstore.List{}, errStaged
	})
	if list, read := s.List(t.Context()); !errors.Is(err, errStaged) || list != nil || read != nil {
		t.Errorf("RenewList: %v, list %v (%v)", err, list, read)
	}
}

// testCancelled checks that an operation whose context has ended returns the context's error, and changes nothing.
func testCancelled(t *testing.T, p Place) {
	s := open(t, p)
	for _, r := range records() {
		set(t, s, r.value)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	reached := func(recordstore.Tx) error { t.Error("a change was staged"); return nil }
	for name, err := range map[string]error{
		"Update": s.Update(ctx, alice, reached), "Note": s.Note(ctx, alice, reached), "UpdateSubject": s.UpdateSubject(ctx, alice, reached),
		"AddRevocations": s.AddRevocations(ctx, recordstore.Revocation{Serial: []byte{1}}), "Restored": s.Restored(ctx),
		"Sweep": s.Sweep(ctx, recordstore.Times{Now: 99, Count: 99, Claims: 99}),
		"RenewList": s.RenewList(ctx, 0, func(recordstore.List, []recordstore.Revocation) (*recordstore.List, error) {
			t.Error("a list was made")
			return nil, nil
		}),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, r := range records() {
		if _, err := r.read(ctx, s); !errors.Is(err, context.Canceled) {
			t.Errorf("read %T: %v", r.value, err)
		}
		if got, err := r.read(t.Context(), s); err != nil || !reflect.DeepEqual(got, any(r.value)) {
			t.Errorf("%T after cancelled changes: %+v (%v)", r.value, got, err)
		}
	}
	if revoked, err := s.Revoked(t.Context(), []byte{1}); revoked || err != nil {
		t.Errorf("a cancelled revocation is there (%v)", err)
	}
}
