package machine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"testing"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/wire"
)

// entriesOf reads kept entries of a machine whose disk does not fail.
func entriesOf(m *Machine, since wire.SequenceNumber, count, bytes int) ([]wire.Committed, bool) {
	kept, gap := m.Entries(since, count, bytes)
	list, err := kept.Read()
	if err != nil {
		panic(err)
	}
	return list, gap
}

// memArchive is a disk: a log, and only the newest snapshot.
type memArchive struct {
	mu    sync.Mutex
	log   map[uint64][]byte
	name  string
	image []byte
	reads int
}

var errGone = errors.New("gone")

func (s *memArchive) Logged(index uint64) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	if s.log[index] == nil {
		return nil, errGone
	}
	return s.log[index], nil
}

func (s *memArchive) Stored(name string) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	if name != s.name {
		return nil, errGone
	}
	if s.reads%2 == 0 {
		return io.NopCloser(struct{ io.Reader }{bytes.NewReader(s.image)}), nil // a reader that cannot seek
	}
	return seekable{bytes.NewReader(s.image)}, nil
}

type seekable struct{ *bytes.Reader }

func (seekable) Close() error { return nil }

// snapshot makes the newest snapshot, as Raft does: the snapshot is on disk, the machine is informed, and the log is
// truncated.
func (s *memArchive) snapshot(t *testing.T, m *Machine, name string) {
	t.Helper()
	img := m.Snapshot()
	var out bytes.Buffer
	if _, err := img.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.name, s.image = name, out.Bytes()
	clear(s.log)
	s.mu.Unlock()
	m.Moved(img, name)
}

// TestArchivedEntries checks that a machine with only its newest entries in memory returns the same entries and
// snapshots as a machine with all of them, while entries move from the log into snapshot after snapshot, and after a
// restore.
func TestArchivedEntries(t *testing.T) {
	policy := wire.Policy{RecentBytes: 4 << 20, RecentCount: 60}
	b, p := newBench(t, policy)
	archive := &memArchive{log: make(map[uint64][]byte)}
	var lean *Machine
	index := uint64(100)
	compare := func() {
		t.Helper()
		one, gap := entriesOf(b.m, 0, math.MaxInt, math.MaxInt)
		two, gap2 := entriesOf(lean, 0, math.MaxInt, math.MaxInt)
		if len(one) != len(two) || gap != gap2 {
			t.Fatalf("%d entries, gap %v; in memory %d, gap %v", len(two), gap2, len(one), gap)
		}
		for i := range one {
			if one[i].Sequence != two[i].Sequence || one[i].Order != two[i].Order || !bytes.Equal(one[i].Entry, two[i].Entry) {
				t.Fatalf("entry %d differs", one[i].Sequence)
			}
		}
		want, err := b.m.Snapshot().Digest()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := lean.Snapshot().Digest(); err != nil || got != want {
			t.Fatalf("other snapshots (%v)", err)
		}
		held := 0
		for i := range lean.recent {
			held += len(lean.recent[i].Entry)
		}
		if last := len(lean.recent[len(lean.recent)-1].Entry); held != lean.held || held > maxHeld+last {
			t.Fatalf("%d bytes in memory, counted %d; the last entry has %d", held, lean.held, last)
		}
	}
	var all bytes.Buffer
	if _, err := b.m.Snapshot().WriteTo(&all); err != nil {
		t.Fatal(err)
	}
	lean, err := Restore(b.m.ID(), nil, bytes.NewReader(all.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	archive.name, archive.image = "first", all.Bytes()
	lean.UseArchive(archive, "first")
	for n := range 150 {
		size := []int{30 << 10, 300, 200 << 10, 5 << 10}[n%4]
		before := b.m.Sequence()
		e := p.Commit(b.id(), size, wire.DeliveryChange{})
		p = author.After(e, b.accept(e))
		raw, _ := entriesOf(b.m, before, 1, 0)
		index++
		archive.log[index] = raw[0].Entry
		if out := lean.ApplyLogged(raw[0].Entry, Known{}, index); out.Err != nil {
			t.Fatal(out.Err)
		}
		if n%5 == 0 {
			compare()
		}
		if n%23 == 7 {
			archive.snapshot(t, lean, fmt.Sprint("snapshot ", n))
			compare()
		}
		if n%61 == 40 { // the conversation falls asleep and is woken
			archive.snapshot(t, lean, fmt.Sprint("asleep ", n))
			if lean, err = Restore(b.m.ID(), nil, bytes.NewReader(archive.image)); err != nil {
				t.Fatal(err)
			}
			lean.UseArchive(archive, archive.name)
			compare()
		}
	}
	if archive.reads == 0 || b.m.Size() < 2*lean.Size() {
		t.Errorf("%d reads; %d bytes, in memory %d", archive.reads, lean.Size(), b.m.Size())
	}
}

// TestArchivedEntryMoved checks that content which has moved or is damaged is not returned, and that an image is not
// written with it.
func TestArchivedEntryMoved(t *testing.T) {
	for name, spoil := range map[string]func(*memArchive){
		"gone":    func(s *memArchive) { clear(s.log) },
		"damaged": func(s *memArchive) { s.log[1] = append([]byte{s.log[1][0] ^ 1}, s.log[1][1:]...) },
		"cut off": func(s *memArchive) { s.log[1] = s.log[1][:10] },
	} {
		t.Run(name, func(t *testing.T) {
			archive := &memArchive{log: make(map[uint64][]byte)}
			m := New("conversation-x", nil)
			m.UseArchive(archive, "")
			e := author.Create("conversation-x", author.Submission(1), wire.Policy{RecentBytes: 8 << 20}, author.Addresses(2, "a.example"))
			p := author.Place{}
			for n := uint64(1); n <= 6; n++ {
				raw, err := wire.Encode(&wire.Entry{Version: wire.EntryVersion, Time: 1, Proposer: "n1.a.example", Envelope: e})
				if err != nil {
					t.Fatal(err)
				}
				archive.log[n] = raw
				out := m.ApplyLogged(raw, Known{}, n)
				if out.Err != nil {
					t.Fatal(out.Err)
				}
				p = author.After(e, out.Receipt)
				e = p.Commit(author.Submission(n+1), maxHeld/2, wire.DeliveryChange{})
			}
			if entriesOf(m, 0, 9, math.MaxInt); archive.reads == 0 {
				t.Fatal("nothing has left memory")
			}
			spoil(archive)
			kept, _ := m.Entries(0, 9, math.MaxInt)
			if _, err := kept.Read(); !errors.Is(err, ErrMoved) {
				t.Errorf("read: %v", err)
			}
			if _, err := m.Snapshot().Digest(); !errors.Is(err, ErrMoved) {
				t.Errorf("snapshot: %v", err)
			}
		})
	}
}
