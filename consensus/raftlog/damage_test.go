package raftlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

// corruptions collects the calls of OnCorrupt.
type corruptions struct {
	mu   sync.Mutex
	list []string
}

func (c *corruptions) on(cfg *Config) {
	cfg.OnCorrupt = func(group uint32, index uint64, err error) {
		if !errors.Is(err, ErrCorrupt) {
			panic(err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.list = append(c.list, fmt.Sprintf("%d/%d", group, index))
	}
}

func (c *corruptions) has(group uint32, index uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.list, fmt.Sprintf("%d/%d", group, index))
}

// noise is data that no backend can compress, so that a file contains exactly these bytes.
func noise(group uint32, index uint64, size int) []byte {
	var key [32]byte
	binary.BigEndian.PutUint32(key[:], group)
	binary.BigEndian.PutUint64(key[4:], index)
	b := make([]byte, size)
	rand.NewChaCha8(key).Read(b)
	return b
}

func noisy(group uint32, index, term uint64, size int) *raft.Log {
	return &raft.Log{Index: index, Term: term, Data: noise(group, index, size), AppendedAt: time.Unix(1, 0)}
}

// flush makes Pebble write its memory to tables.
func flush(t *testing.T, l *Log) {
	if b, ok := l.back.(*pebbleBackend); ok {
		must(t, b.db.Flush())
	}
}

// flipInFiles flips one bit within needle, in the file that contains it.
func flipInFiles(t *testing.T, dir string, needle []byte) {
	t.Helper()
	found := 0
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, ".log") {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for at := 0; ; found++ {
			i := bytes.Index(data[at:], needle)
			if i < 0 {
				break
			}
			at += i
			data[at+len(needle)/2] ^= 4
		}
		return os.WriteFile(path, data, 0o600)
	}))
	if found == 0 {
		t.Fatal("the entry was not found in any file")
	}
}

// A bit flipped in a stored entry is reported, and the entry is never served.
func TestFlippedBitInEntry(t *testing.T) {
	forEach(t, func(t *testing.T, p place) {
		l := p.open(t)
		for n := uint32(1); n <= 3; n++ {
			for i := uint64(1); i <= 200; i++ {
				must(t, l.Group(n).StoreLog(noisy(n, i, 1, 3000)))
			}
		}
		flush(t, l)
		must(t, l.Close())
		if p.disk != nil {
			if !p.disk.FlipBit(2, 100) || p.disk.FlipBit(2, 1000) {
				t.Fatal("FlipBit")
			}
		} else {
			flipInFiles(t, p.dir, noise(2, 100, 3000)[1000:1100])
		}
		var c corruptions
		l = p.open(t, c.on)
		g := l.Group(2)
		wantBounds(t, g, 1, 200)
		var e raft.Log
		err := g.GetLog(100, &e)
		var ce *CorruptError
		if !errors.Is(err, ErrCorrupt) || !errors.As(err, &ce) || ce.Group != 2 || ce.Index != 100 {
			t.Fatalf("damaged entry: %v", err)
		}
		t.Log(err)
		if !c.has(2, 100) || l.Stats().Corrupt == 0 {
			t.Fatal("OnCorrupt was not called")
		}
		// Pebble checks whole blocks: entries next to the damaged one may be lost with it.
		bad := verifyDamage(t, g)
		if !slices.Contains(bad, 100) || len(bad) > 12 {
			t.Fatalf("Verify lists %v", bad)
		}
		for i := uint64(1); i <= 200; i++ {
			if !slices.Contains(bad, i) {
				wantEntry(t, g, noisy(2, i, 1, 3000))
			}
		}
		repair(t, l, bad)
	})
}

func verifyDamage(t *testing.T, g *GroupLog) []uint64 {
	t.Helper()
	var de *DamageError
	if err := g.Verify(); !errors.As(err, &de) || !errors.Is(err, ErrCorrupt) || de.Error() == "" {
		t.Fatalf("Verify: %v", err)
	}
	return de.Indexes
}

// repair follows both procedures of the package documentation.
func repair(t *testing.T, l *Log, bad []uint64) {
	g := l.Group(2)
	highest := slices.Max(bad)
	must(t, g.DeleteRange(1, highest)) // as if a snapshot covered it
	must(t, g.Verify())
	wantBounds(t, g, highest+1, 200)
	must(t, l.Drop(2))
	must(t, g.StoreLogs(entries(2, 1, 50, 9)))
	must(t, g.Verify())
}

// A damaged state record makes the group unusable, and only that group.
func TestFlippedBitInState(t *testing.T) {
	forEach(t, func(t *testing.T, p place) {
		l := p.open(t)
		key := []byte("a key that can be found again in the file")
		for n := uint32(1); n <= 3; n++ {
			must(t, l.Group(n).StoreLogs(entries(n, 1, 30, 1)))
		}
		must(t, l.Group(2).Set(key, noise(2, 1, 4000)))
		must(t, l.Group(2).Set([]byte("k"), []byte("v")))
		flush(t, l)
		must(t, l.Close())
		if p.disk != nil {
			p.disk.FlipBit(2, 0)
		} else {
			flipInFiles(t, p.dir, noise(2, 1, 4000)[500:600])
		}
		var c corruptions
		l = p.open(t, c.on)
		g := l.Group(2)
		if !c.has(2, 0) {
			t.Fatal("OnCorrupt was not called")
		}
		_, first := g.FirstIndex()
		_, last := g.LastIndex()
		_, get := g.Get([]byte("k"))
		var e raft.Log
		for i, err := range []error{first, last, get, g.GetLog(1, &e), g.Set([]byte("k"), nil), g.StoreLog(entry(2, 31, 1, 9)), g.DeleteRange(1, 2)} {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("call %d: %v", i, err)
			}
		}
		if bad := verifyDamage(t, g); !slices.Equal(bad, []uint64{0}) {
			t.Errorf("Verify lists %v", bad)
		}
		if p.backend != BackendPebble { // in Pebble the other groups may share the block
			must(t, l.Group(1).Verify())
			must(t, l.Group(3).Verify())
		}
		must(t, l.Drop(2))
		must(t, g.StoreLogs(entries(2, 1, 5, 2)))
		must(t, g.Verify())
	})
}

// A damaged record of the node's own area is reported at opening.
func TestFlippedBitInMeta(t *testing.T) {
	forEachFile(t, func(t *testing.T, p place) { // the simulated disk damages groups only
		l := p.open(t)
		must(t, l.Meta().Set([]byte("a"), noise(1, 1, 5000)))
		must(t, l.Meta().Set([]byte("b"), noise(1, 2, 40000)))
		flush(t, l)
		must(t, l.Close())
		flipInFiles(t, p.dir, noise(1, 1, 5000)[1000:1100])
		var c corruptions
		l = p.open(t, c.on)
		if !c.has(MaxGroups, 1) && !c.has(MaxGroups, 0) {
			t.Fatalf("reported %v", c.list)
		}
		if v, err := l.Meta().Get([]byte("b")); err != nil || !bytes.Equal(v, noise(1, 2, 40000)) {
			t.Fatal("the other key:", err)
		}
		if _, err := l.Meta().Get([]byte("a")); err != ErrNotFound {
			t.Fatal(err)
		}
		must(t, l.Meta().Set([]byte("a"), []byte("again")))
		if v, err := l.Meta().Get([]byte("a")); err != nil || string(v) != "again" {
			t.Fatal(v, err)
		}
	})
}

// TestFlippedBitInBucketName checks that a flipped bit in a bucket's name is reported: a bucket with another name
// would look like a missing one, and all its content would be lost without a report.
func TestFlippedBitInBucketName(t *testing.T) {
	for _, name := range []string{"logs", "conf"} {
		for bit := range 8 * len(name) {
			p := newPlace(t, BackendBolt)
			l := p.open(t)
			must(t, l.Group(1).StoreLogs(entries(1, 1, 30, 1)))
			must(t, l.Close())
			path := filepath.Join(p.dir, boltFile)
			data, err := os.ReadFile(path)
			must(t, err)
			other := []byte(name)
			other[bit/8] ^= 1 << (bit % 8)
			must(t, os.WriteFile(path, bytes.ReplaceAll(data, []byte(name), other), 0o600))
			if l, err := Open(p.config()); !errors.Is(err, ErrDamagedFile) {
				t.Errorf("%s became %q: %v", name, other, err)
				if err == nil {
					must(t, l.Close())
				}
			}
		}
	}
}

// TestFlippedBitAnywhere flips bits all over the files. It checks that the log opens and returns nothing false, or
// does not open, that the process survives, and that nothing is missing without a report.
func TestFlippedBitAnywhere(t *testing.T) { flipAnywhere(t, 150) }

func TestLongFlippedBitAnywhere(t *testing.T) {
	switch os.Getenv("MLSFED_LONG") {
	case "short":
		flipAnywhere(t, 2000)
	case "full":
		flipAnywhere(t, 20000)
	default:
		t.Skip("damages a log 2,000 or 20,000 times: set MLSFED_LONG to short or full")
	}
}

func flipAnywhere(t *testing.T, flips int) {
	for _, b := range []string{BackendBolt, BackendPebble} {
		t.Run(b, func(t *testing.T) {
			p := newPlace(t, b)
			l := p.open(t)
			for n := uint32(1); n <= 4; n++ {
				for i := uint64(1); i <= 40; i += 4 {
					var logs []*raft.Log
					for j := i; j < i+4; j++ {
						logs = append(logs, noisy(n, j, 1, 300))
					}
					must(t, l.Group(n).StoreLogs(logs))
				}
				must(t, l.Group(n).DeleteRange(1, 10))
				must(t, l.Meta().Set(fmt.Append(nil, n), noise(n, 0, 50)))
				if n == 3 {
					flush(t, l)
				}
			}
			must(t, l.Close())
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			rnd := rand.New(rand.NewPCG(seed, 0))
			results := map[string]int{}
			if b == BackendPebble {
				flips /= 4 // opening is more expensive
			}
			for range flips {
				copied := place{backend: b, dir: t.TempDir()}
				must(t, os.CopyFS(copied.dir, os.DirFS(p.dir)))
				where := flipRandomBit(t, copied.dir, rnd)
				results[checkFlipped(t, copied, where)]++
				os.RemoveAll(copied.dir)
			}
			t.Log(results)
		})
	}
}

func flipRandomBit(t *testing.T, dir string, rnd *rand.Rand) string {
	var files []string
	var sizes []int64
	var sum int64
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		files, sizes = append(files, path), append(sizes, info.Size())
		sum += info.Size()
		return err
	}))
	at := rnd.Int64N(sum)
	i := 0
	for at >= sizes[i] {
		at -= sizes[i]
		i++
	}
	f, err := os.OpenFile(files[i], os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	must(t, err)
	b[0] ^= 1 << rnd.IntN(8)
	_, err = f.WriteAt(b[:], at)
	must(t, err)
	return fmt.Sprintf("%s at %d of %d", filepath.Base(files[i]), at, sizes[i])
}

// checkFlipped opens a damaged copy and returns the result.
func checkFlipped(t *testing.T, p place, where string) string {
	t.Helper()
	var c corruptions
	cfg := p.config()
	cfg.noSync = true
	c.on(&cfg)
	l, err := Open(cfg)
	if err != nil {
		return "refused"
	}
	defer l.Close()
	unreported := []string{}
	for n := uint32(1); n <= 4; n++ {
		g := l.Group(n)
		first, err1 := g.FirstIndex()
		last, err2 := g.LastIndex()
		if err := errors.Join(err1, err2); err == nil && (first != 11 || last != 40) {
			unreported = append(unreported, fmt.Sprintf("group %d holds %d to %d", n, first, last))
		} else if err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: group %d: %v", where, n, err)
		}
		for i := uint64(11); i <= 40; i++ {
			var e raft.Log
			err := g.GetLog(i, &e)
			switch {
			case err == nil && !sameEntry(&e, noisy(n, i, 1, 300)):
				t.Fatalf("%s: group %d entry %d is served and false", where, n, i)
			case err == raft.ErrLogNotFound:
				unreported = append(unreported, fmt.Sprintf("group %d entry %d", n, i))
			case err != nil && !errors.Is(err, ErrCorrupt):
				t.Errorf("%s: group %d entry %d: %v", where, n, i, err)
			}
		}
		v, err := l.Meta().Get(fmt.Append(nil, n))
		if err == nil && !bytes.Equal(v, noise(n, 0, 50)) {
			t.Fatalf("%s: meta %d is served and false", where, n)
		} else if err == ErrNotFound {
			unreported = append(unreported, fmt.Sprintf("meta %d", n))
		}
		// Writing must not end the process either; it may fail.
		if err := g.StoreLog(noisy(n, 41, 1, 300)); err == nil {
			wantEntry(t, g, noisy(n, 41, 1, 300))
		}
	}
	switch {
	case len(unreported) > 0 && len(c.list) == 0:
		t.Errorf("%s: missing without a word: %v", where, unreported)
		return "lost silently"
	case len(c.list) > 0:
		return "corruptions"
	default:
		return "harmless"
	}
}

// The write of the last transaction is torn: earlier transactions are there, and the log continues. For Bolt the
// newest meta page makes a transaction effective, for Pebble the tail of the write-ahead log.
func TestTornLastWrite(t *testing.T) {
	t.Run(BackendBolt, func(t *testing.T) {
		for _, cut := range []int{1, 20, 40, 63} {
			p := tornLog(t, BackendBolt)
			path := filepath.Join(p.dir, boltFile)
			data, err := os.ReadFile(path)
			must(t, err)
			at := newestMeta(data)
			for i := at + cut; i < at+boltMetaSize; i++ {
				data[i] = 0xff
			}
			must(t, os.WriteFile(path, data, 0o600))
			var c corruptions
			l := p.open(t, c.on)
			checkTorn(t, l)
			if !c.has(MaxGroups, 0) {
				t.Error("the torn page was not reported")
			}
		}
	})
	t.Run(BackendPebble, func(t *testing.T) {
		for _, change := range []func([]byte) []byte{
			func(b []byte) []byte { return b[:len(b)-1] },
			func(b []byte) []byte { return b[:len(b)-100] },
			func(b []byte) []byte { copy(b[len(b)-80:], make([]byte, 80)); return b },
			func(b []byte) []byte { copy(b[len(b)-80:], noise(1, 1, 80)); return b },
		} {
			p := tornLog(t, BackendPebble)
			logs, err := filepath.Glob(filepath.Join(p.dir, pebbleFolder, "*.log"))
			must(t, err)
			path := slices.Max(logs)
			data, err := os.ReadFile(path)
			must(t, err)
			must(t, os.WriteFile(path, change(data[:contentEnd(data)]), 0o600))
			checkTorn(t, p.open(t))
		}
	})
}

// tornLog stores 30 entries in three transactions, the last of which has 21 to 30, and returns a copy of the files
// before the log was closed.
func tornLog(t *testing.T, backend string) place {
	p, copied := newPlace(t, backend), newPlace(t, backend)
	l := p.open(t)
	for i := uint64(1); i <= 30; i += 10 {
		must(t, l.Group(1).StoreLogs(entries(1, i, i+9, 1)))
	}
	must(t, os.CopyFS(copied.dir, os.DirFS(p.dir)))
	must(t, l.Close())
	return copied
}

func checkTorn(t *testing.T, l *Log) {
	t.Helper()
	g := l.Group(1)
	wantBounds(t, g, 1, 20)
	must(t, g.Verify())
	for i := uint64(1); i <= 20; i++ {
		wantEntry(t, g, entry(1, i, 1, 64))
	}
	must(t, g.StoreLogs(entries(1, 21, 30, 2)))
	wantEntry(t, g, entry(1, 30, 2, 64))
}

func newestMeta(data []byte) int {
	a, b := boltPageHeader, os.Getpagesize()+boltPageHeader
	if binary.LittleEndian.Uint64(data[a+48:]) > binary.LittleEndian.Uint64(data[b+48:]) {
		return a
	}
	return b
}

// contentEnd returns the length without trailing zeros.
func contentEnd(data []byte) int { return len(bytes.TrimRight(data, "\x00")) }

// A truncated Bolt file is refused, whatever its length.
func TestTruncatedFile(t *testing.T) {
	p := newPlace(t, BackendBolt)
	l := p.open(t, noSync)
	for i := uint64(1); i <= 200; i++ {
		must(t, l.Group(1).StoreLog(noisy(1, i, 1, 3000)))
	}
	must(t, l.Close())
	path := filepath.Join(p.dir, boltFile)
	data, err := os.ReadFile(path)
	must(t, err)
	used := int(binary.LittleEndian.Uint64(data[newestMeta(data)+40:])) * os.Getpagesize()
	for _, size := range []int{1, 17, 4095, 4096, 8192, 8193, used / 2, used - 4096, used - 1} {
		must(t, os.WriteFile(path, data[:size], 0o600))
		l, err := Open(p.config())
		if err == nil {
			l.Close()
			t.Fatalf("cut to %d of %d bytes, the file was opened", size, used)
		}
		if !errors.Is(err, ErrDamagedFile) {
			t.Errorf("cut to %d bytes: %v", size, err)
		}
	}
	must(t, os.WriteFile(path, data, 0o600))
	must(t, p.open(t).Group(1).Verify())
}

// Pebble on a file system that loses random unsynced data: everything acknowledged before the power failure is there.
func TestPowerLossOnPebble(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	mem := vfs.NewCrashableMem()
	cfg := Config{Dir: t.TempDir(), Backend: BackendPebble, MinFree: -1, pebbleFS: mem}
	var stored [6]uint64
	for range 15 {
		l, err := Open(cfg)
		must(t, err)
		var wg sync.WaitGroup
		var mu sync.Mutex // guards now, acks and clone
		var acks int
		var clone *vfs.MemFS
		now, before := stored, stored
		at, unsynced := 1+rnd.IntN(250), rnd.IntN(101)
		forget := rand.New(rand.NewPCG(rnd.Uint64(), 0))
		crash := func() {
			stored = now
			clone = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: unsynced, RNG: forget})
		}
		for n := range before {
			g := l.Group(uint32(n))
			next, err := g.LastIndex()
			must(t, err)
			if next < before[n] {
				t.Fatalf("group %d ends at %d, %d was acknowledged", n, next, before[n])
			}
			must(t, g.Verify())
			steps := rnd.IntN(60)
			wg.Go(func() {
				for range steps {
					next++
					if err := g.StoreLog(entry(uint32(n), next, 1, 200)); err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					now[n] = next
					if acks++; acks == at { // others have writes in progress
						crash()
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if clone == nil {
			crash()
		}
		must(t, l.Close())
		mem, cfg.pebbleFS = clone, clone
	}
	t.Logf("acknowledged: %v", stored)
}
