package quota

import (
	"fmt"
	"sync"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

const (
	phone  = Owner("mimi://a.example/d/alice/phone")
	tablet = Owner("mimi://a.example/d/alice/tablet")
	alice  = Owner("mimi://a.example/u/alice")
	bob    = Owner("mimi://a.example/d/bob/phone")
	peer   = Owner("b.example")
)

func wantCode(t *testing.T, err error, code wire.Code) {
	t.Helper()
	if wire.CodeOf(err) != code {
		t.Fatalf("%v, wanted %q", err, code)
	}
}

// TestLimits holds each limit at its edge, to the byte.
func TestLimits(t *testing.T) {
	for _, test := range []struct {
		name   string
		limits Limits
		owner  Owner
		kind   Kind
		also   Owner // shares the limit; other does not
		other  Owner
		reason Reason
	}{
		{"parts", Limits{Parts: 100}, phone, Parts, tablet, bob, OverParts},
		{"device", Limits{Device: 100}, phone, Files, phone, tablet, OverDevice},
		{"user", Limits{User: 100}, phone, Blobs, tablet, bob, OverUser},
		{"organization", Limits{Organization: 100}, peer, Logs, peer, "c.example", OverOrganization},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := New(test.limits, nil)
			wantCode(t, a.Charge(test.owner, test.kind, 101), wire.Quota)
			if err := a.Charge(test.owner, test.kind, 60); err != nil {
				t.Fatal(err)
			}
			if err := a.Charge(test.also, test.kind, 40); err != nil {
				t.Fatal(err)
			}
			wantCode(t, a.Charge(test.owner, test.kind, 1), wire.Quota)
			wantCode(t, a.Charge(test.also, test.kind, ^uint64(0)), wire.Quota)
			if err := a.Charge(test.other, test.kind, 100); err != nil {
				t.Fatalf("another one's: %v", err)
			}
			if err := a.Charge(Node, test.kind, 1000); err != nil {
				t.Fatalf("the node's own: %v", err)
			}
			if n := a.Refused(test.reason); n != 3 {
				t.Fatalf("%d refusals are counted, wanted 3", n)
			}
			a.Release(test.also, test.kind, 40)
			if err := a.Charge(test.owner, test.kind, 40); err != nil {
				t.Fatalf("what was released: %v", err)
			}
			a.Release(test.owner, test.kind, 100)
			a.Release(test.other, test.kind, 100)
			a.Release(Node, test.kind, 1000)
			if len(a.of) != 0 {
				t.Fatalf("%d empty balances are kept", len(a.of))
			}
		})
	}
}

// TestAdopt: what is on the disk counts whatever the limits say, and nothing more is taken.
func TestAdopt(t *testing.T) {
	a := New(Limits{Organization: 100}, nil)
	a.Adopt(peer, Snapshots, 1000)
	wantCode(t, a.Charge(peer, Logs, 1), wire.Quota)
	a.Release(peer, Snapshots, 2000) // more than there is
	if n := a.Total(peer); n != 0 {
		t.Fatalf("%d bytes", n)
	}
}

func TestTop(t *testing.T) {
	a := New(Limits{}, nil)
	for i, o := range []Owner{phone, tablet, bob, peer, "c.example", "d.example", Node} {
		a.Adopt(o, Files, uint64(100*(i+1)))
		a.Adopt(o, Logs, 1)
	}
	organizations, users := a.Top(2)
	if len(organizations) != 2 || organizations[0].Owner != "d.example" || organizations[0].Bytes != 601 || organizations[0].By["files"] != 600 || organizations[1].Owner != "c.example" {
		t.Errorf("organizations: %+v", organizations)
	}
	if len(users) != 2 || users[0].Owner != "mimi://a.example/u/bob" && users[0].Owner != alice || users[0].Bytes < users[1].Bytes {
		t.Errorf("users: %+v", users)
	}
	if n := a.Sum(Files); n != 2800 {
		t.Errorf("%d bytes of files, wanted 2800: a device's bytes count once", n)
	}
}

type disk struct{ free, reserved uint64 }

func (d *disk) Free() (uint64, uint64, error) { return d.free, d.reserved, nil }

// TestNotify: who watches hears once that the disk is full, and once that there is room.
func TestNotify(t *testing.T) {
	d := &disk{free: 100, reserved: 90}
	a := New(Limits{}, d)
	var heard []bool
	a.Notify(func(full bool) { heard = append(heard, full) })
	steps := []struct {
		n    uint64
		want wire.Code
	}{{10, ""}, {11, wire.Unavailable}, {11, wire.Unavailable}, {10, ""}, {1, ""}}
	for _, s := range steps {
		wantCode(t, a.Charge(peer, Blobs, s.n), s.want)
	}
	if fmt.Sprint(heard) != "[true false]" {
		t.Fatalf("heard %v", heard)
	}
	if err := a.Charge(Node, Logs, 1000); err != nil {
		t.Fatal(err)
	}
}

// TestConcurrentCharges: many at once stay within the limit, and everything is given back.
func TestConcurrentCharges(t *testing.T) {
	a := New(Limits{Organization: 1000}, nil)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			for range 100 {
				if a.Charge(peer, Blobs, 70) != nil {
					continue
				}
				if n := a.Total(peer); n > 1000 {
					t.Errorf("%d bytes are charged", n)
				}
				a.Release(peer, Blobs, 70)
			}
		})
	}
	all.Wait()
	if n := a.Total(peer); n != 0 {
		t.Fatalf("%d bytes are left", n)
	}
}

// TestFolder reads the free space of a real file system.
func TestFolder(t *testing.T) {
	f := &Folder{Path: t.TempDir(), Reserve: 10, Percent: 50}
	free, reserved, err := f.Free()
	if err != nil || reserved <= 10 {
		t.Fatalf("%d free, %d reserved (%v)", free, reserved, err)
	}
	f.Percent = 0
	if _, reserved, err = f.Free(); err != nil || reserved != 10 {
		t.Fatalf("%d reserved (%v)", reserved, err)
	}
	f.Path += "/none"
	if _, _, err := f.Free(); err == nil {
		t.Fatal("a folder that does not exist has free space")
	}
}
