package records

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/mlsfed/mlsfed/directory/directorytest"
	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/wire"
)

func TestConformance(t *testing.T) {
	directorytest.Run(t, func(testing.TB) directorytest.Place { return &place{vfs.NewCrashableMem()} })
}

// place implements directorytest.Place on a disk in memory.
type place struct{ fs *vfs.MemFS }

// Open implements directorytest.Place.
func (p *place) Open(t testing.TB) (recordstore.Store, func()) {
	db, err := pebble.Open("db", &pebble.Options{FS: p.fs, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	return New(db, []byte("d")), sync.OnceFunc(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}

// Crash implements directorytest.Place.
func (p *place) Crash(testing.TB) directorytest.Place {
	return &place{p.fs.CrashClone(vfs.CrashCloneCfg{})}
}

// quiet keeps Pebble from printing.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(string, ...any) {}

// TestEarlierRecords checks that records that earlier builds wrote are read, and that this build writes the same
// bytes under the same keys. The files have a key and a value in each line: first.txt of a build before addresses were
// bound to conversations, keys.txt of the last build that had keys and values between directory and store.
func TestEarlierRecords(t *testing.T) {
	for name, kinds := range map[string]int{"first.txt": 10, "keys.txt": 19} {
		t.Run(name, func(t *testing.T) {
			before := make(map[string][]byte)
			s, stop := (&place{vfs.NewMem()}).Open(t)
			defer stop()
			from := s.(*Records)
			f, err := os.Open("testdata/" + name)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			seen := make(map[byte]bool)
			lines := bufio.NewScanner(f)
			for lines.Buffer(nil, 1<<20); lines.Scan(); {
				key, value, _ := strings.Cut(lines.Text(), " ")
				k, err := hex.DecodeString(key)
				if err != nil {
					t.Fatal(err)
				}
				v, err := hex.DecodeString(value)
				if err != nil {
					t.Fatal(err)
				}
				seen[k[0]] = true
				before[string(k)] = v
				if err := from.db.Set(append([]byte("d"), k...), v, nil); err != nil {
					t.Fatal(err)
				}
			}
			if lines.Err() != nil || len(seen) != kinds {
				t.Fatalf("%d kinds of records, want %d (%v)", len(seen), kinds, lines.Err())
			}
			to, stopTo := (&place{vfs.NewMem()}).Open(t)
			defer stopTo()
			copyRecords(t, from, to)
			after := make(map[string][]byte)
			if err := to.(*Records).Each(t.Context(), func(kind byte, key, value []byte) error {
				after[string(append([]byte{kind}, key...))] = bytes.Clone(value)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			for k, v := range before {
				if !bytes.Equal(after[k], v) {
					t.Errorf("record %q: %x, was %x", k, after[k], v)
				}
				delete(after, k)
			}
			for k := range after {
				t.Errorf("record %q was not there", k)
			}
		})
	}
}

// copyRecords reads all records with the operations of a store and sets them in another one. Records whose key has
// only a hash of what the reader must know are found by what the writer of the files used.
func copyRecords(t *testing.T, from *Records, to recordstore.Store) {
	t.Helper()
	ctx := t.Context()
	var list []recordstore.Record
	var revoked []recordstore.Revocation
	keep := func(r recordstore.Record, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, r)
	}
	device := func(rest []byte) (wire.DeviceID, []byte) {
		user, rest, _ := bytes.Cut(rest, []byte("/"))
		name, rest, _ := bytes.Cut(rest, []byte("/"))
		return wire.DeviceID("mimi://a.example/d/" + string(user) + "/" + string(name)), rest
	}
	user := func(name []byte) wire.UserID { return wire.UserID("mimi://a.example/u/" + string(name)) }
	taken := make(map[string]wire.Time)
	err := from.Each(ctx, func(kind byte, key, value []byte) error {
		key = bytes.Clone(key)
		name, rest, _ := bytes.Cut(key, []byte("/"))
		var token wire.Token
		copy(token[:], key)
		switch kind {
		case kindUser:
			r, err := from.User(ctx, user(key))
			keep(r, err)
		case kindAccount:
			r, err := from.Account(ctx, user(key))
			keep(r, err)
		case kindPerson:
			r, err := from.Person(ctx, user(key))
			keep(r, err)
		case kindDevice:
			v, _ := device(key)
			r, err := from.Device(ctx, v)
			keep(r, err)
		case kindAddress:
			// DevicesAt joins the record with the device: of a device that was removed nothing is read.
			var rec addressRecord
			keep(&rec.Address, wire.Decode(value, maxRecord, &rec))
			rec.Token = token
			at, err := from.DevicesAt(ctx, token)
			if v, gone := at[token], rec.Device.Name() == "tablet"; err != nil || (v == "") != gone {
				t.Errorf("address %x is %q's (%v)", token, v, err)
			}
		case kindInvitation:
			var rec invitationRecord
			if err := wire.Decode(value, maxRecord, &rec); err != nil {
				return err
			}
			r, err := from.Invitation(ctx, rec.Hash)
			keep(r, err)
		case kindKeyPackage:
			v, rest := device(key)
			r := new(keyPackageRecord)
			err := wire.Decode(value, maxRecord, r)
			r.Device, r.Suite, r.Ref = v, uint16(rest[0])<<8|uint16(rest[1]), rest[10:]
			keep(&r.KeyPackage, err)
			if known, err := from.Known(ctx, &r.KeyPackage); !known || err != nil {
				t.Errorf("a KeyPackage is not known (%v)", err)
			}
		case kindLastResort:
			v, rest := device(key)
			r, err := from.LastResort(ctx, v, uint16(rest[0])<<8|uint16(rest[1]))
			keep(r, err)
		case kindUsed:
			var rec timeRecord
			if err := wire.Decode(value, maxRecord, &rec); err != nil {
				return err
			}
			taken[string(key)] = rec.Time
		case kindClaim:
			r, err := from.Claim(ctx, recordstore.Claimant(key[:16]), wire.SubmissionID(key[16:]))
			keep(r, err)
		case kindPairBucket:
			r, err := from.Buckets(ctx, recordstore.Claimant(rest), user(name))
			keep(&r, err)
		case kindBound:
			for _, id := range []wire.ConversationID{"conversation one", "conversation two"} {
				if r, err := from.Use(ctx, token, id); r != nil || err != nil {
					keep(r, err)
				}
			}
		case kindShared:
			r, err := from.Shared(ctx, token)
			keep(r, err)
		case kindSubject:
			r, err := from.Subject(ctx, user(key))
			keep(r, err)
		case kindToken:
			r, err := from.Token(ctx, user(name), wire.Hash(rest))
			keep(r, err)
		case kindRevoked:
			if is, err := from.Revoked(ctx, key); !is || err != nil {
				t.Errorf("revocation %x is not read (%v)", key, err)
			}
		case kindList, kindUserBucket, kindSubjectUser: // read with another record, or below
		default:
			t.Errorf("record of kind %q", kind)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	present, err := from.List(ctx)
	if err != nil || present == nil {
		t.Fatalf("list %v (%v)", present, err)
	}
	if revoked, err = from.revocations(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if err := to.AddRevocations(ctx, revoked...); err != nil {
		t.Fatal(err)
	}
	if err := to.RenewList(ctx, 0, func(recordstore.List, []recordstore.Revocation) (*recordstore.List, error) { return present, nil }); err != nil {
		t.Fatal(err)
	}
	if err := to.Update(context.WithoutCancel(ctx), alice, func(tx recordstore.Tx) error { return tx.Set(ctx, list...) }); err != nil {
		t.Fatal(err)
	}
	for ref, ends := range taken {
		k := &recordstore.KeyPackage{Device: phone, Suite: 99, Ref: []byte(ref), Expires: ends}
		if err := to.Update(ctx, alice, func(tx recordstore.Tx) error { return tx.Set(ctx, k) }); err != nil {
			t.Fatal(err)
		}
		if err := to.Update(ctx, alice, func(tx recordstore.Tx) error { _, _, err := tx.Take(ctx, phone, 99, 0, 1); return err }); err != nil {
			t.Fatal(err)
		}
	}
}
