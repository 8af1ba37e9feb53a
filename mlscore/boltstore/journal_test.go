package boltstore

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/mlscore"
)

// TestFirstFormat reads a file that an earlier release wrote, before and after the first batch, which adds a journal.
func TestFirstFormat(t *testing.T) {
	f, err := os.Open(filepath.Join("testdata", "format1.db.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	file, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for i := range 120 {
		want = append(want, fmt.Sprintf("k%03d=%s", i, strings.Repeat("v", i)))
	}
	for _, opts := range []Options{{}, {VerifyLater: true}} {
		path := newPath(t)
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 { // opening writes nothing
			s := openTest(t, path, opts)
			expect(t, s, "k", want...)
			mustClose(t, s)
		}
		s := openTest(t, path, opts)
		apply(t, s, put("l", "new"))
		for i := range 300 {
			apply(t, s, put("k000", ""), put("l", fmt.Sprint(i)))
		}
		expect(t, s, "", append(slices.Clone(want), "l=299")...)
		mustClose(t, s)
		s = openTest(t, path, opts)
		expect(t, s, "", append(slices.Clone(want), "l=299")...)
		if s.header.format != formatJournal || s.journal.entries == 0 {
			t.Errorf("format %d, %d entries: want a journal", s.header.format, s.journal.entries)
		}
		mustClose(t, s)
		s = openTest(t, path, Options{Salvage: true})
		expect(t, s, "l", "l=299")
		mustClose(t, s)
	}
}

// TestSmallBatchesAreAppended checks that the cost of a batch is about its own size, independently of the size of the
// file, and that a full journal is folded.
func TestSmallBatchesAreAppended(t *testing.T) {
	path := newPath(t)
	s := openTest(t, path, Options{})
	model := map[string]string{}
	for i := range 40 {
		var writes []mlscore.Write
		for j := range 100 {
			writes = append(writes, put(fmt.Sprintf("m%04d", 100*i+j), strings.Repeat("v", 300)))
		}
		apply(t, s, writes...)
		follow(model, writes)
	}
	fold(t, s)
	generation := s.journal.generation
	for i := range 1000 {
		writes := []mlscore.Write{put(fmt.Sprintf("n%04d", i), strings.Repeat("v", 300)), put("counter", fmt.Sprint(i)), del(fmt.Sprintf("m%04d", i))}
		apply(t, s, writes...)
		follow(model, writes)
	}
	if folds := s.journal.generation - generation; folds < 1 || folds > 4 {
		t.Errorf("%d folds for 1000 batches of 600 bytes", folds)
	}
	var want []string
	for _, k := range slices.Sorted(maps.Keys(model)) {
		want = append(want, k+"="+model[k])
	}
	expect(t, s, "", want...)
	mustClose(t, s)
	expect(t, openTest(t, path, Options{VerifyLater: true}), "", want...)
}

// powerCut returns a file in which some sectors were written and others were not.
func powerCut(random *rand.Rand, before, after []byte) []byte {
	const sector = 512
	cut := bytes.Clone(after)
	for at := 0; at < len(before); at += sector {
		if random.IntN(2) == 0 {
			copy(cut[at:min(at+sector, len(cut))], before[at:])
		}
	}
	return cut
}

// TestPowerCut checks that a power failure leaves all synced batches, and of the batches that were not synced some of
// the first ones, each as a whole. The result does not depend on how far the erasure of replaced records got.
func TestPowerCut(t *testing.T) {
	random := rand.New(rand.NewPCG(21, 22))
	path := newPath(t)
	s := openTest(t, path, Options{journal: 32 << 10})
	model := map[string]string{}
	state := func() string {
		var b strings.Builder
		for _, k := range slices.Sorted(maps.Keys(model)) {
			b.WriteString(k + "=" + model[k] + "\n")
		}
		return b.String()
	}
	check := func(when string, file []byte, states []string) {
		t.Helper()
		other := newPath(t)
		if err := os.WriteFile(other, file, 0o600); err != nil {
			t.Fatal(err)
		}
		o, err := Open(other, testKey(1), Options{VerifyLater: random.IntN(2) == 0})
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		defer mustClose(t, o)
		for n := range 2 {
			var got strings.Builder
			for _, r := range content(t, o, "") {
				if !strings.HasPrefix(r, "after=") {
					got.WriteString(r + "\n")
				}
			}
			if !slices.Contains(states, got.String()) {
				t.Fatalf("%s: the store is in none of %d states that it was in", when, len(states))
			}
			apply(t, o, put("after", fmt.Sprint(n)))
			states = []string{got.String()}
		}
	}
	image := func() []byte { return must(os.ReadFile(path)) }
	cut := 0
	for round := range long(25, 150, 1000) {
		synced, states := image(), []string{state()}
		generation := s.journal.generation
		for range random.IntN(5) {
			b := mlscore.Batch{Relaxed: true, Writes: []mlscore.Write{put("round", fmt.Sprint(round, len(states))), put("large", strings.Repeat("x", random.IntN(1500)))}}
			for range random.IntN(4) {
				b.Writes = append(b.Writes, randomWrite(random))
			}
			if err := s.Apply(b); err != nil {
				t.Fatal(err)
			}
			follow(model, b.Writes)
			states = append(states, state())
		}
		written := image()
		if s.journal.generation == generation { // otherwise a fold has synced
			cut++
			for range 3 {
				check(fmt.Sprintf("round %d, not synced", round), powerCut(random, synced, written), states)
			}
		}
		apply(t, s, put("synced", fmt.Sprint(round)))
		follow(model, []mlscore.Write{put("synced", fmt.Sprint(round))})
		erased := image()
		check(fmt.Sprintf("round %d, synced", round), erased, []string{state()})
		if s.journal.generation == generation { // the entry of the last batch is on the disk
			at := s.journal.region + markerSize
			copy(written[at:], erased[at:at+int64(s.journal.size)-markerSize])
			for range 3 {
				check(fmt.Sprintf("round %d, erased in part", round), powerCut(random, written, erased), []string{state()})
			}
		}
	}
	if cut == 0 {
		t.Error("every round had a fold")
	}
}

// TestJournalDamage checks that an unreadable entry that was on the disk is reported as damage and not taken for the
// end of the journal: the last entry of a closed store, and any other entry also after a crash.
func TestJournalDamage(t *testing.T) {
	path := newPath(t)
	s := openTest(t, path, Options{journal: 8 << 10})
	for i := range 20 {
		apply(t, s, put(fmt.Sprintf("k%02d", i), strings.Repeat("v", 50)))
	}
	crashed := must(os.ReadFile(path))
	region, end := int(s.journal.region), int(s.journal.region)+s.journal.end
	mustClose(t, s)
	closed := must(os.ReadFile(path))
	for name, file := range map[string][]byte{"closed": closed, "crashed": crashed} {
		noticed, ended := 0, 0
		for at := region + markerSize; at < end; at += long(11, 1, 1) {
			bad := bytes.Clone(file)
			bad[at] ^= 0x40
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := Open(path, testKey(1), Options{})
			if errors.Is(err, ErrDamaged) {
				noticed++
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			var d *DamagedError
			last := 20
			for i := 19; i >= 0; i-- {
				v, ok, err := s.Get([]byte(fmt.Sprintf("k%02d", i)))
				switch {
				case errors.As(err, &d):
					noticed++
				case err == nil && !ok && i == last-1 && name == "crashed":
					last = i
				case err != nil || string(v) != strings.Repeat("v", 50):
					t.Errorf("%s, byte %d: record %d: %q, %v, %v", name, at, i, v, ok, err)
				}
			}
			if last < 19 {
				t.Errorf("%s, byte %d: entries from %d on are gone without a word", name, at, last)
			}
			if last < 20 {
				ended++
			}
			mustClose(t, s)
		}
		if most := (end-region)/20 + 1; noticed == 0 || name == "closed" && ended > 0 || ended > most {
			t.Errorf("%s: %d of %d damaged files were noticed, %d lost the last entry", name, noticed, end-region, ended)
		}
	}
}

// FuzzJournal changes a journal in two places. The entries that are read must equal the first entries that were
// written.
func FuzzJournal(f *testing.F) {
	k, err := deriveKeys(testKey(1), make([]byte, saltSize))
	if err != nil {
		f.Fatal(err)
	}
	region := make([]byte, 4096)
	copy(region, k.marker(3, 1))
	at, last := markerSize, k.journalStart(3)
	var want []*entry
	for n := range uint64(6) {
		e := &entry{generation: 3, number: n + 1, durable: n / 2, before: last}
		for i := range n {
			key := fmt.Sprintf("key%d", i)
			box, err := k.seal(rand.NewChaCha8([32]byte{byte(n), byte(i)}), []byte(key), bytes.Repeat([]byte("v"), int(5*n)))
			if err != nil {
				f.Fatal(err)
			}
			if i == 2 {
				box = nil
			}
			e.records = append(e.records, change{key: key, box: box})
		}
		b, mac := e.marshal(k, at)
		at, last = at+copy(region[at:], b), mac
		want = append(want, e)
	}
	f.Add(uint16(0), uint64(0), uint16(100), uint64(0))
	f.Add(uint16(markerSize), uint64(1), uint16(900), uint64(1<<40))
	f.Fuzz(func(t *testing.T, a uint16, av uint64, b uint16, bv uint64) {
		bad := bytes.Clone(region)
		for at, v := range map[uint16]uint64{a: av, b: bv} {
			i := int(at) % (len(bad) - 8)
			order.PutUint64(bad[i:], order.Uint64(bad[i:])^v)
		}
		r, err := replay(k, bad, 3)
		if bytes.Equal(bad, region) && (err != nil || len(r.entries) != len(want)) {
			t.Fatalf("%d entries of %d: %v", len(r.entries), len(want), err)
		}
		if err == nil && len(r.entries) < 1 {
			t.Error("the marker names an entry that is not there")
		}
		for i, e := range r.entries {
			var before [32]byte
			copy(before[:], e.before[:])
			if e.number != want[i].number || before != want[i].before || len(e.records) != len(want[i].records) {
				t.Fatalf("entry %d is another one", i)
			}
			for n, c := range e.records {
				w := want[i].records[n]
				if c.key != w.key || (c.box == nil) != (w.box == nil) || c.at != w.at || len(c.box) != len(w.box) {
					t.Fatalf("entry %d, record %d: %v", i, n, c.key)
				}
			}
			if again, _ := e.marshal(k, 0); bytes.Equal(bad, region) && !bytes.Equal(again, bad[r.end-len(again):r.end]) && i == len(r.entries)-1 {
				t.Error("an entry encodes to other bytes than it was read from")
			}
		}
	})
}
