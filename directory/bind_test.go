package directory

import (
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

func nowhere(wire.DeviceID) (bool, error) { return false, nil }

func wantReads(t *testing.T, d *Directory, id wire.ConversationID, token wire.Token, want bool) {
	t.Helper()
	if got, err := d.MayRead(id, token); got != want || err != nil {
		t.Fatalf("%v may be read at %x: %v, %v; want %v", id, token, got, err, want)
	}
}

// TestAddressIsForOneConversation: whoever knows an address puts its owner into one conversation with it.
func TestAddressIsForOneConversation(t *testing.T) {
	d := open(t, Config{})
	enrol(t, d, phone, 1)
	token := wire.Token{0: 7, 15: 0xff} // the prefix of its records ends with 0xff
	wantReads(t, d, "one", token, false)
	_, err := d.Bind("one", token, nowhere)
	wantCode(t, err, wire.NotFound)
	if err := d.Attach(phone, token); err != nil {
		t.Fatal(err)
	}
	wantReads(t, d, "one", token, true)
	wantReads(t, d, "two", token, true)
	for range 2 {
		if v, err := d.Bind("one", token, nowhere); v != phone || err != nil {
			t.Fatalf("%s, %v", v, err)
		}
	}
	for range 200 {
		_, err = d.Bind("two", token, nowhere)
		wantCode(t, err, wire.Exists)
	}
	if n := d.Refusals().Addresses; n != 200 {
		t.Errorf("%d refusals are counted", n)
	}
	wantReads(t, d, "one", token, true)
	wantReads(t, d, "two", token, false)

	// An address of before there were records, under which the device reads something.
	old := wire.Token{0: 8}
	if err := d.Attach(phone, old); err != nil {
		t.Fatal(err)
	}
	_, err = d.Bind("two", old, func(v wire.DeviceID) (bool, error) { return v == phone, nil })
	wantCode(t, err, wire.Exists)

	if err := d.Revoke(phone); err != nil {
		t.Fatal(err)
	}
	wantReads(t, d, "one", token, false)
	if err := d.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.each(d.key(kindBound), func(key, _ []byte) (bool, error) { t.Errorf("%x is kept", key); return true, nil }); err != nil {
		t.Fatal(err)
	}
}

// TestAddressRace: many conversations reach for one address at once, and one gets it.
func TestAddressRace(t *testing.T) {
	d := open(t, Config{})
	enrol(t, d, phone, 1)
	token := wire.Token{1}
	if err := d.Attach(phone, token); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	errs := make([]error, 16)
	for i := range errs {
		all.Go(func() { _, errs[i] = d.Bind(wire.ConversationID([]byte{byte(i)}), token, nowhere) })
	}
	all.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			wantCode(t, err, wire.Exists)
		}
	}
	if won != 1 {
		t.Fatalf("%d conversations have one address", won)
	}
}

// TestLastResortTakesConversationsAtARate: others may have been given it too, so it is for more than one.
func TestLastResortTakesConversationsAtARate(t *testing.T) {
	clock := newClock()
	d := open(t, Config{Clock: clock, LastResortBurst: 2, LastResortEvery: time.Minute})
	e := enrol(t, d, phone, 1)
	up := e.uploads(t, d, 1, mlscore.KeyPackageOptions{LastResort: true, Lifetime: 10 * day})
	upload(t, d, phone, up...)
	token := up[0].Address
	bind := func(id wire.ConversationID, want wire.Code) {
		t.Helper()
		_, err := d.Bind(id, token, nowhere)
		if want == "" && err != nil || want != "" && wire.CodeOf(err) != want {
			t.Fatalf("%s: %v, want %q", id, err, want)
		}
	}
	bind("one", "")
	bind("two", "")
	bind("three", wire.Busy)
	bind("one", "") // a repetition costs nothing
	clock.advance(time.Minute - time.Millisecond)
	bind("three", wire.Busy)
	clock.advance(time.Millisecond)
	bind("three", "")
	upload(t, d, phone, e.uploads(t, d, 1, mlscore.KeyPackageOptions{LastResort: true})...) // replaces it
	clock.advance(time.Minute)
	bind("four", "") // somebody was given the old one before
	if err := d.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	clock.advance(10 * day)
	bind("five", wire.Exists) // the KeyPackage has ended
	bind("four", "")
	if err := d.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	bind("five", wire.Exists)
	// One that was uploaded to an older build has no record of its own.
	up = e.uploads(t, d, 1, mlscore.KeyPackageOptions{LastResort: true})
	upload(t, d, phone, up...)
	token = up[0].Address
	if err := d.db.Delete(d.sharedKey(token), nil); err != nil {
		t.Fatal(err)
	}
	wantReads(t, d, "six", token, true)
	bind("six", "")
	bind("seven", "")
	bind("eight", wire.Busy)
}

// TestRefusedConversationStaysOut: what a device has refused comes to that address no more.
func TestRefusedConversationStaysOut(t *testing.T) {
	d := open(t, Config{})
	enrol(t, d, phone, 1)
	enrol(t, d, laptop, 1)
	token := wire.Token{1}
	if err := d.Attach(phone, token); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Bind("one", token, nowhere); err != nil {
		t.Fatal(err)
	}
	wantCode(t, d.Refuse(laptop, "one", token), wire.NotFound)
	wantReads(t, d, "one", token, true)
	for range 2 {
		if err := d.Refuse(phone, "one", token); err != nil {
			t.Fatal(err)
		}
	}
	wantReads(t, d, "one", token, false)
	_, err := d.Bind("one", token, nowhere)
	wantCode(t, err, wire.Denied)
	_, err = d.Bind("two", token, nowhere)
	wantCode(t, err, wire.Exists) // refusing does not give it to the next one
	for n := 1; n < maxRefusals; n++ {
		if err := d.db.Set(d.boundKey(token, wire.ConversationID([]byte{byte(n), byte(n >> 8), 1})), nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, d.Refuse(phone, "more", token), wire.Quota)
}
