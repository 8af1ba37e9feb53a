package mailboxtest

import (
	"testing"

	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// counts holds what a mailbox has counted.
type counts map[string]uint64

func (c counts) add(what string, n uint64) { c[what] += n }

func from(sender string, senders, n, size int) mailbox.Put {
	p := message(n)
	p.Sender, p.Senders, p.Payload = sender, senders, make([]byte, size)
	return p
}

// testShareOfASender checks the share of one sender at its limits, in items and in bytes, before and after a restart,
// and that other senders keep their shares.
func testShareOfASender(t *testing.T, fresh func(testing.TB) Place) {
	const b, c = "b.example", "c.example"
	for name, cfg := range map[string]mailbox.Config{"items": {MaxItems: 30, MaxBytes: 1 << 20}, "bytes": {MaxItems: 1 << 20, MaxBytes: 30}} {
		t.Run(name, func(t *testing.T) {
			counted, on := counts{}, fresh(t)
			cfg.Count = counted.add
			m, stop := on.Open(t, cfg)
			join(t, m, talk, token(1))
			n := 0
			next := func(sender string) mailbox.Put { n++; return from(sender, 3, n, 1) }
			var all []mailbox.Put
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
				m, stop = on.Open(t, cfg)
			}
			wantCode(t, putResult(t, m, next(c)).Err, wire.Quota)
			for range 10 {
				put(t, m, next("")) // the own organization
			}
			wantCode(t, putResult(t, m, next("")).Err, wire.Quota)
			entry := next(b) // what the log has ordered is never refused
			entry.Kind, entry.Position = mailbox.KindEntry, 1
			put(t, m, entry)
			ack(t, m, token(1), 2)
			put(t, m, next(b))
			wantCode(t, putResult(t, m, next(b)).Err, wire.Quota)
			if counted[mailbox.OverShare] != 5 || counted[mailbox.OverQuota] != 1 || counted[mailbox.Expired] != 0 {
				t.Errorf("counted %v", counted)
			}
			ack(t, m, token(1), 32)
			sweep(t, m)
			if left := on.Stored(t, Senders); left != 0 {
				t.Errorf("%d records of senders are left", left)
			}
			for range 10 {
				put(t, m, next(b))
			}
			wantCode(t, putResult(t, m, next(b)).Err, wire.Quota)
			if err := m.Remove(t.Context(), talk); err != nil {
				t.Fatal(err)
			}
			if left := on.Stored(t, Senders); left != 0 {
				t.Errorf("%d records of senders are left of a removed stream", left)
			}
			stop()
		})
	}
}

// testAbsentDeviceStopsNobody checks that a full stream continues for a device that reads, and that an absent device
// gets a gap after the entry that added it, which it still gets. If no device reads, the stream refuses new items.
func testAbsentDeviceStopsNobody(t *testing.T, on Place) {
	counted := counts{}
	cfg := mailbox.Config{MaxItems: 10, Count: counted.add}
	m, stop := on.Open(t, cfg)
	defer func() { stop() }()
	present, away, added := token(1), token(2), token(3)
	join(t, m, talk, present, away)
	put(t, m, message(1))
	ack(t, m, away, 1)
	welcome := message(2)
	welcome.Kind, welcome.Position, welcome.Payload, welcome.Join = mailbox.KindEntry, 1, []byte("with a Welcome"), []wire.Token{added}
	put(t, m, welcome) // 2
	for n := 3; n <= 11; n++ {
		put(t, m, message(n))
	}
	wantCode(t, putResult(t, m, message(12)).Err, wire.Quota) // no reader has read further than item 1
	for n := 12; n <= 60; n++ {
		ack(t, m, present, uint64(n-1))
		put(t, m, message(n))
	}
	check := func() {
		t.Helper()
		for _, r := range []wire.Token{added, away} {
			p := read(t, m, r, 1, mailbox.Limit{})
			if p.Gap != nil || len(p.Items) != 1 || !p.More || string(p.Items[0].Payload) != "with a Welcome" || p.Items[0].Position != 1 || p.Items[0].Sequence != 2 {
				t.Fatalf("first page %+v", p)
			}
			p = read(t, m, r, 2, mailbox.Limit{})
			if p.Gap == nil || *p.Gap != (mailbox.Gap{From: 3, To: 50}) || len(p.Items) != 10 || p.More {
				t.Fatalf("second page: gap %+v, %d items", p.Gap, len(p.Items))
			}
			sequences(t, p, 51, 60)
		}
		sequences(t, read(t, m, present, 59, mailbox.Limit{}), 60, 60)
	}
	check()
	if counted[mailbox.Expired] != 50 || counted[mailbox.OverQuota] != 1 {
		t.Errorf("counted %v", counted)
	}
	stop()
	m, stop = on.Open(t, cfg)
	check()
	ack(t, m, added, 60)
	if n := on.Stored(t, KeptEntries); n != 1 {
		t.Errorf("%d entries are kept for the device that is away", n)
	}
	ack(t, m, away, 60)
	ack(t, m, present, 60)
	put(t, m, message(61))
	for _, r := range []wire.Token{present, away, added} {
		ack(t, m, r, 61)
	}
	sweep(t, m)
	if n := on.Stored(t, KeptEntries); n != 0 {
		t.Errorf("%d entries are kept that all have", n)
	}
}

// testKeptEntriesAreBounded checks how many entries one removal keeps for devices that are away.
func testKeptEntriesAreBounded(t *testing.T, on Place) {
	m := open(t, on, mailbox.Config{MaxItems: mailbox.MaxKept + 100})
	join(t, m, talk, token(0))
	for n := range mailbox.MaxKept + 50 {
		p := message(n + 1)
		p.Kind, p.Position, p.Join = mailbox.KindEntry, uint64(n+1), []wire.Token{token(n + 1)}
		put(t, m, p)
	}
	last := uint64(mailbox.MaxKept + 50)
	for n := range 60 {
		ack(t, m, token(0), last+uint64(n))
		put(t, m, message(10_000+n))
	}
	if n := on.Stored(t, KeptEntries); n == 0 || n > mailbox.MaxKept {
		t.Errorf("%d entries are kept, at most %d", n, mailbox.MaxKept)
	}
}

// testShareCountsWhatNobodyHasRead checks that items of one organization which only an absent device has not read do
// not block further items of that organization. Items that no device has read do.
func testShareCountsWhatNobodyHasRead(t *testing.T, on Place) {
	counted := counts{}
	m := open(t, on, mailbox.Config{MaxItems: 20, Count: counted.add})
	join(t, m, talk, token(1), token(2))
	from := func(n int) mailbox.Result {
		p := message(n)
		p.Sender, p.Senders = "b.example", 2
		return putResult(t, m, p)
	}
	for n := 1; n <= 10; n++ {
		if err := from(n).Err; err != nil {
			t.Fatalf("item %d: %v", n, err)
		}
	}
	wantCode(t, from(11).Err, wire.Quota)
	for n := 11; n <= 60; n++ {
		ack(t, m, token(1), uint64(n-1))
		if err := from(n).Err; err != nil {
			t.Fatalf("item %d, with one device that reads: %v", n, err)
		}
	}
	if p := read(t, m, token(2), 0, mailbox.Limit{}); p.Gap == nil || p.Items[len(p.Items)-1].Sequence != 60 {
		t.Errorf("the device that is away meets %+v", p.Gap)
	}
	if counted[mailbox.OverShare] != 1 || counted[mailbox.Expired] == 0 {
		t.Errorf("counted %v", counted)
	}
}
