package raftlog

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(runChild())
	}
	if os.Getenv("MLSFED_LONG") == "" {
		flag.Set("rapid.checks", "30") // -rapid.checks on the command line has priority
	}
	goleak.VerifyTestMain(m)
}

// place is the location of a test's log, in one of the backends.
type place struct {
	backend string
	dir     string
	disk    *Disk
}

// forEach runs a test over both backends and the simulated disk, which has to behave like them.
func forEach(t *testing.T, test func(t *testing.T, p place)) {
	forEachFile(t, test)
	t.Run("disk", func(t *testing.T) { test(t, newPlace(t, "disk")) })
}

// forEachFile runs a test over both backends.
func forEachFile(t *testing.T, test func(t *testing.T, p place)) {
	for _, b := range []string{BackendBolt, BackendPebble} {
		t.Run(b, func(t *testing.T) { test(t, newPlace(t, b)) })
	}
}

func newPlace(t testing.TB, backend string) place {
	p := place{backend: backend, dir: t.TempDir()}
	if backend == "disk" {
		p.backend, p.disk = "", NewDisk()
	}
	return p
}

func (p place) config() Config {
	return Config{Dir: p.dir, Backend: p.backend, Disk: p.disk, MinFree: -1}
}

func (p place) open(t testing.TB, change ...func(*Config)) *Log {
	t.Helper()
	cfg := p.config()
	for _, c := range change {
		c(&cfg)
	}
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func noSync(c *Config) { c.noSync = true }

// entry makes an entry whose data is unique to its group, index and term.
func entry(group uint32, index, term uint64, size int) *raft.Log {
	head := fmt.Sprintf("%d/%d/%d ", group, index, term)
	data := append([]byte(head), bytes.Repeat([]byte{byte(index)}, max(0, size-len(head)))...)
	return &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: data,
		AppendedAt: time.Unix(1_700_000_000+int64(index), int64(term))}
}

func entries(group uint32, first, last, term uint64) []*raft.Log {
	var out []*raft.Log
	for i := first; i <= last; i++ {
		out = append(out, entry(group, i, term, 64))
	}
	return out
}

func sameEntry(a, b *raft.Log) bool {
	return a.Index == b.Index && a.Term == b.Term && a.Type == b.Type && bytes.Equal(a.Data, b.Data) &&
		bytes.Equal(a.Extensions, b.Extensions) && a.AppendedAt.Equal(b.AppendedAt)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantBounds checks FirstIndex and LastIndex.
func wantBounds(t testing.TB, g *GroupLog, first, last uint64) {
	t.Helper()
	f, err := g.FirstIndex()
	must(t, err)
	l, err := g.LastIndex()
	must(t, err)
	if f != first || l != last {
		t.Fatalf("log holds %d to %d, want %d to %d", f, l, first, last)
	}
}

// wantEntry checks that the entry is held as stored.
func wantEntry(t testing.TB, g *GroupLog, want *raft.Log) {
	t.Helper()
	var got raft.Log
	if err := g.GetLog(want.Index, &got); err != nil {
		t.Fatalf("entry %d: %v", want.Index, err)
	}
	if !sameEntry(&got, want) {
		t.Fatalf("entry %d is %+v, want %+v", want.Index, got, *want)
	}
}

// wantNone checks that entries first to last are not held.
func wantNone(t testing.TB, g *GroupLog, first, last uint64) {
	t.Helper()
	for i := first; i <= last; i++ {
		var e raft.Log
		if err := g.GetLog(i, &e); err != raft.ErrLogNotFound {
			t.Fatalf("entry %d: error %v, want raft.ErrLogNotFound itself", i, err)
		}
	}
}
