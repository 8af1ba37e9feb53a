package mailbox

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/mlsfed/mlsfed/wire"
)

// counts are what a mailbox has counted.
type counts map[string]uint64

func (c counts) add(what string, n uint64) { c[what] += n }

func from(sender string, senders, n, size int) Put {
	p := message(n)
	p.Sender, p.Senders, p.Payload = sender, senders, make([]byte, size)
	return p
}

// TestShareOfASender holds the share of one sender at its edges, in items and in bytes, before and after a
// restart, and that the others have theirs.
func TestShareOfASender(t *testing.T) {
	const b, c = "b.example", "c.example"
	for name, cfg := range map[string]Config{"items": {MaxItems: 30, MaxBytes: 1 << 20}, "bytes": {MaxItems: 1 << 20, MaxBytes: 30}} {
		t.Run(name, func(t *testing.T) {
			counted := counts{}
			cfg.Count = counted.add
			disk := vfs.NewMem()
			db := openDB(t, "db", disk)
			m, stop := start(t, db, cfg)
			join(t, m, talk, token(1))
			n := 0
			next := func(sender string) Put { n++; return from(sender, 3, n, 1) }
			var all []Put
			for range 10 {
				all = append(all, next(b))
			}
			all = append(all, next(b)) // in the same batch
			results, err := m.Put(t.Context(), all...)
			if err != nil || results[9].Err != nil {
				t.Fatalf("%+v, %v", results[9], err)
			}
			wantCode(t, results[10].Err, wire.Quota)
			for restarts := range 2 {
				wantCode(t, putResult(t, m, next(b)).Err, wire.Quota)
				if r := putResult(t, m, all[3]); !r.Duplicate {
					t.Fatalf("a retry: %+v", r)
				}
				for range 5 {
					put(t, m, next(c))
				}
				if restarts == 1 {
					break
				}
				stop()
				db.Close()
				db = openDB(t, "db", disk)
				m, stop = start(t, db, cfg)
			}
			wantCode(t, putResult(t, m, next(c)).Err, wire.Quota)
			for range 10 {
				put(t, m, next("")) // the own organization
			}
			wantCode(t, putResult(t, m, next("")).Err, wire.Quota)
			entry := next(b) // what the log has ordered is never refused
			entry.Kind, entry.Position = KindEntry, 1
			put(t, m, entry)
			ack(t, m, token(1), 2)
			put(t, m, next(b))
			wantCode(t, putResult(t, m, next(b)).Err, wire.Quota)
			if counted[OverShare] != 5 || counted[OverQuota] != 1 || counted[Expired] != 0 {
				t.Errorf("counted %v", counted)
			}
			ack(t, m, token(1), 32)
			sweep(t, m)
			if left := stored(t, m, keySent); left != 0 {
				t.Errorf("%d records of senders are left", left)
			}
			for range 10 {
				put(t, m, next(b))
			}
			wantCode(t, putResult(t, m, next(b)).Err, wire.Quota)
			if err := m.Remove(t.Context(), talk); err != nil {
				t.Fatal(err)
			}
			if left := stored(t, m, keySent); left != 0 {
				t.Errorf("%d records of senders are left of a removed stream", left)
			}
			stop()
			db.Close()
		})
	}
}

// TestAbsentDeviceStopsNobody: a full stream goes on for the device that reads, and the one that is away meets
// a gap: after the entry that added it, which it still gets. Where nobody reads, the stream refuses.
func TestAbsentDeviceStopsNobody(t *testing.T) {
	counted := counts{}
	disk := vfs.NewMem()
	db := openDB(t, "db", disk)
	cfg := Config{MaxItems: 10, Count: counted.add}
	m, stop := start(t, db, cfg)
	defer func() { stop(); db.Close() }()
	present, away, added := token(1), token(2), token(3)
	join(t, m, talk, present, away)
	put(t, m, message(1))
	ack(t, m, away, 1)
	welcome := message(2)
	welcome.Kind, welcome.Position, welcome.Payload, welcome.Join = KindEntry, 1, []byte("with a Welcome"), []wire.Token{added}
	put(t, m, welcome) // 2
	for n := 3; n <= 11; n++ {
		put(t, m, message(n))
	}
	wantCode(t, putResult(t, m, message(12)).Err, wire.Quota) // nobody has read further than item 1
	for n := 12; n <= 60; n++ {
		ack(t, m, present, uint64(n-1))
		put(t, m, message(n))
	}
	check := func() {
		t.Helper()
		for _, r := range []wire.Token{added, away} {
			p := read(t, m, r, 1, Limit{})
			if p.Gap != nil || len(p.Items) != 1 || !p.More || string(p.Items[0].Payload) != "with a Welcome" || p.Items[0].Position != 1 || p.Items[0].Sequence != 2 {
				t.Fatalf("first page %+v", p)
			}
			p = read(t, m, r, 2, Limit{})
			if p.Gap == nil || *p.Gap != (Gap{3, 50}) || len(p.Items) != 10 || p.More {
				t.Fatalf("second page: gap %+v, %d items", p.Gap, len(p.Items))
			}
			sequences(t, p, 51, 60)
		}
		sequences(t, read(t, m, present, 59, Limit{}), 60, 60)
	}
	check()
	if counted[Expired] != 50 || counted[OverQuota] != 1 {
		t.Errorf("counted %v", counted)
	}
	stop()
	db.Close()
	db = openDB(t, "db", disk)
	m, stop = start(t, db, cfg)
	check()
	ack(t, m, added, 60)
	if n := stored(t, m, keyKept); n != 1 {
		t.Errorf("%d entries are kept for the device that is away", n)
	}
	ack(t, m, away, 60)
	ack(t, m, present, 60)
	put(t, m, message(61))
	for _, r := range []wire.Token{present, away, added} {
		ack(t, m, r, 61)
	}
	sweep(t, m)
	if n := stored(t, m, keyKept); n != 0 {
		t.Errorf("%d entries are kept that all have", n)
	}
}

// TestKeptEntriesAreBounded holds how many entries one removal keeps for devices that are away.
func TestKeptEntriesAreBounded(t *testing.T) {
	m := memory(t, Config{MaxItems: maxKept + 100})
	join(t, m, talk, token(0))
	for n := range maxKept + 50 {
		p := message(n + 1)
		p.Kind, p.Position, p.Join = KindEntry, uint64(n+1), []wire.Token{token(n + 1)}
		put(t, m, p)
	}
	last := uint64(maxKept + 50)
	for n := range 60 {
		ack(t, m, token(0), last+uint64(n))
		put(t, m, message(10_000+n))
	}
	if n := stored(t, m, keyKept); n == 0 || n > maxKept {
		t.Errorf("%d entries are kept, at most %d", n, maxKept)
	}
}
