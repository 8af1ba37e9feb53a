package directory

import (
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/store/pebblestore/pebbletest"
	"github.com/mlsfed/mlsfed/wire"
)

func nowhere(wire.DeviceID) (bool, error) { return false, nil }

func wantReads(t *testing.T, d *Directory, id wire.ConversationID, token wire.Token, want bool) {
	t.Helper()
	if got, err := d.MayRead(t.Context(), id, token); got != want || err != nil {
		t.Fatalf("%v may be read at %x: %v, %v; want %v", id, token, got, err, want)
	}
}

// TestAddressIsForOneConversation: an address adds its owner to one conversation only.
func TestAddressIsForOneConversation(t *testing.T) {
	d := open(t, Config{})
	enrol(t, d, phone, 1)
	token := wire.Token{0: 7, 15: 0xff} // the prefix of its records ends with 0xff
	wantReads(t, d, "one", token, false)
	_, err := d.Bind(t.Context(), "one", token, nowhere)
	wantCode(t, err, wire.NotFound)
	if err := d.Attach(t.Context(), phone, token); err != nil {
		t.Fatal(err)
	}
	wantReads(t, d, "one", token, true)
	wantReads(t, d, "two", token, true)
	for range 2 {
		if v, err := d.Bind(t.Context(), "one", token, nowhere); v != phone || err != nil {
			t.Fatalf("%s, %v", v, err)
		}
	}
	for range 200 {
		_, err = d.Bind(t.Context(), "two", token, nowhere)
		wantCode(t, err, wire.Exists)
	}
	if n := d.Refusals().Addresses; n != 200 {
		t.Errorf("%d refusals are counted", n)
	}
	wantReads(t, d, "one", token, true)
	wantReads(t, d, "two", token, false)

	// An address of before there were records, under which the device reads something.
	old := wire.Token{0: 8}
	if err := d.Attach(t.Context(), phone, old); err != nil {
		t.Fatal(err)
	}
	_, err = d.Bind(t.Context(), "two", old, func(v wire.DeviceID) (bool, error) { return v == phone, nil })
	wantCode(t, err, wire.Exists)

	if err := d.Revoke(t.Context(), phone); err != nil {
		t.Fatal(err)
	}
	wantReads(t, d, "one", token, false)
	if err := d.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := stored(t, d, kindBound); n != 0 {
		t.Errorf("%d uses of addresses are kept", n)
	}
}

// TestAddressRace: many conversations reach for one address at once, and one gets it.
func TestAddressRace(t *testing.T) {
	d := open(t, Config{})
	enrol(t, d, phone, 1)
	token := wire.Token{1}
	if err := d.Attach(t.Context(), phone, token); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	errs := make([]error, 16)
	for i := range errs {
		all.Go(func() { _, errs[i] = d.Bind(t.Context(), wire.ConversationID([]byte{byte(i)}), token, nowhere) })
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
	clock, disk := newClock(), pebbletest.Memory()
	cfg := Config{Clock: clock, CA: ed25519CA(t), LastResortBurst: 2, LastResortEvery: time.Minute}
	s := disk.Open(t)
	d := on(t, s.Records(), cfg)
	e := enrol(t, d, phone, 1)
	up := e.uploads(t, d, 1, mlscore.KeyPackageOptions{LastResort: true, Lifetime: 10 * day})
	upload(t, d, phone, up...)
	token := up[0].Address
	bind := func(id wire.ConversationID, want wire.Code) {
		t.Helper()
		_, err := d.Bind(t.Context(), id, token, nowhere)
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
	d, s = withoutKind(t, disk, s, kindShared, cfg)
	defer s.Close()
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
	if err := d.Attach(t.Context(), phone, token); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Bind(t.Context(), "one", token, nowhere); err != nil {
		t.Fatal(err)
	}
	wantCode(t, d.Refuse(t.Context(), laptop, "one", token), wire.NotFound)
	wantReads(t, d, "one", token, true)
	for range 2 {
		if err := d.Refuse(t.Context(), phone, "one", token); err != nil {
			t.Fatal(err)
		}
	}
	wantReads(t, d, "one", token, false)
	_, err := d.Bind(t.Context(), "one", token, nowhere)
	wantCode(t, err, wire.Denied)
	_, err = d.Bind(t.Context(), "two", token, nowhere)
	wantCode(t, err, wire.Exists) // refusing does not give it to the next one
	for n := 1; n < maxRefusals; n++ {
		err := d.store.Note(t.Context(), alice, func(tx recordstore.Tx) error {
			return tx.Set(t.Context(), &recordstore.Use{Token: token, Conversation: wire.ConversationID([]byte{byte(n), byte(n >> 8), 1})})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, d.Refuse(t.Context(), phone, "more", token), wire.Quota)
}
