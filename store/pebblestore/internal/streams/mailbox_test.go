package streams

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/mlsfed/mlsfed/wire"
)

func TestMain(m *testing.M) {
	if childOfCrashTest() {
		return
	}
	goleak.VerifyTestMain(m)
}

func openDB(t testing.TB, dir string, fs vfs.FS) *pebble.DB {
	t.Helper()
	db, err := pebble.Open(dir, Tune(&pebble.Options{FS: fs, Logger: quiet{}}))
	if err != nil {
		t.Fatal(err)
	}
	return db
}

type quiet struct{}

func (quiet) Infof(string, ...any)              {}
func (quiet) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (quiet) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// start runs a mailbox until stop is called.
func start(t testing.TB, db *pebble.DB, cfg Config) (m *Mailbox, stop func()) {
	t.Helper()
	if cfg.Report == nil {
		cfg.Report = func(err error) { t.Error(err) }
	}
	m = New(db, []byte("m/"), cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	return m, sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func memory(t testing.TB, cfg Config) *Mailbox {
	t.Helper()
	db := openDB(t, "db", vfs.NewMem())
	m, stop := start(t, db, cfg)
	t.Cleanup(func() {
		stop()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

const talk = Stream("cconversation-1")

func token(n int) wire.Token { return wire.Token{byte(n), byte(n >> 8), byte(n >> 16), 1} }

func id(n int) ID { return ID{byte(n), byte(n >> 8), byte(n >> 16), 1} }

func message(n int) Put {
	return Put{Stream: talk, ID: id(n), Kind: KindMessage, Payload: fmt.Appendf(nil, "payload %d", n)}
}

func put(t testing.TB, m *Mailbox, p Put) uint64 {
	t.Helper()
	r := putResult(t, m, p)
	if r.Err != nil || r.Duplicate {
		t.Fatalf("put: %+v", r)
	}
	return r.Sequence
}

func putResult(t testing.TB, m *Mailbox, p Put) Result {
	t.Helper()
	r, err := m.Put(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return r[0]
}

func join(t testing.TB, m *Mailbox, s Stream, readers ...wire.Token) {
	t.Helper()
	if err := m.Change(t.Context(), s, readers, nil); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, m *Mailbox, r wire.Token, after uint64, limit Limit) Page {
	t.Helper()
	p, err := m.Read(t.Context(), talk, r, after, limit)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func wantCode(t testing.TB, err error, code wire.Code) {
	t.Helper()
	if !errors.Is(err, code) {
		t.Fatalf("error %v, want code %s", err, code)
	}
}

func ack(t testing.TB, m *Mailbox, r wire.Token, sequence uint64) {
	t.Helper()
	if err := m.Acknowledge(t.Context(), Ack{Reader: Reader{Stream: talk, Token: r}, Sequence: sequence}); err != nil {
		t.Fatal(err)
	}
}

func sweep(t testing.TB, m *Mailbox) {
	t.Helper()
	if err := m.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// stored counts the records of a kind on disk.
func stored(t testing.TB, m *Mailbox, kind byte) int {
	t.Helper()
	it, err := m.db.NewIter(&pebble.IterOptions{LowerBound: m.keys.of(kind), UpperBound: m.keys.of(kind + 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	n := 0
	for it.First(); it.Valid(); it.Next() {
		n++
	}
	return n
}

// TestFewOpenStreams works with more streams than stay in memory.
func TestFewOpenStreams(t *testing.T) {
	m := memory(t, Config{OpenStreams: 2})
	for round := range 3 {
		for n := range 20 {
			p := message(round)
			p.Stream = Stream(fmt.Sprintf("cconversation-%d", n))
			if round == 0 {
				p.Join = []wire.Token{token(1)}
			}
			if got := put(t, m, p); got != uint64(round+1) {
				t.Fatalf("stream %d: sequence %d in round %d", n, got, round)
			}
		}
	}
	inMemory := func() (streams, idle int) {
		m.mu.Lock()
		defer m.mu.Unlock()
		return len(m.streams), m.idle.Len()
	}
	// A stream is given back after its caller is answered.
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		streams, idle := inMemory()
		if streams <= 2 && idle == streams {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d streams in memory, %d idle", streams, idle)
		}
	}
}

func TestDamageIsNoticed(t *testing.T) {
	m := memory(t, Config{Report: func(error) {}}) // the sweeper may meet the damage too
	join(t, m, talk, token(1))
	for n := 1; n <= 3; n++ {
		put(t, m, message(n))
	}
	forgetRecent(m)
	key := m.keys.item(1, 2)
	good, err := m.get(key)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x40
		if err := m.db.Set(key, bad, pebble.NoSync); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Read(t.Context(), talk, token(1), 0, Limit{}); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
	if err := m.db.Set(m.keys.item(1, 3), good, pebble.NoSync); err != nil { // a whole record at a wrong place
		t.Fatal(err)
	}
	if _, err := m.Read(t.Context(), talk, token(1), 2, Limit{}); !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
	if err := m.db.Delete(key, pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Read(t.Context(), talk, token(1), 0, Limit{}); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("a missing item: %v", err)
	}
}
