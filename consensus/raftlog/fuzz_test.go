package raftlog

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// FuzzRecord opens records as they may be read from a damaged disk. A record that opens encodes to the same bytes; no
// prefix, no other key and no other kind opens.
func FuzzRecord(f *testing.F) {
	rec, err := encodeEntry(7, &raft.Log{Index: 7, Term: 3, Data: []byte("data"), Extensions: []byte("ext"), AppendedAt: time.Unix(1, 2)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint64(7), rec)
	f.Add(stateKey(1), appendRecord(nil, stateKey(1), kindState, (&groupState{held: runSet{{1, 9}}}).encode()))
	f.Add(entryKey(metaGroup, 1), appendRecord(nil, entryKey(metaGroup, 1), kindMeta, encodeSlot([]byte("k"), []byte("v"))))
	f.Add(uint64(0), []byte{})
	f.Fuzz(func(t *testing.T, key uint64, rec []byte) {
		for kind := range byte(5) {
			body, err := openRecord(rec, key, kind)
			if err != nil {
				continue
			}
			if again := appendRecord(nil, key, kind, body); !bytes.Equal(again, rec) {
				t.Fatalf("%x encodes to %x", rec, again)
			}
			for n := range rec {
				if _, err := openRecord(rec[:n], key, kind); err == nil {
					t.Fatalf("%d of %d bytes open", n, len(rec))
				}
			}
			if _, err := openRecord(rec, key+1, kind); err == nil {
				t.Fatal("opens under another key")
			}
			if _, err := openRecord(rec, key, kind+1); err == nil {
				t.Fatal("opens as another kind")
			}
		}
		var e raft.Log
		if decodeEntry(key, rec, &e) != nil {
			return
		}
		if again, err := encodeEntry(key, &e); err != nil || !bytes.Equal(again, rec) {
			t.Fatalf("entry %x encodes to %x, %v", rec, again, err)
		}
	})
}

// FuzzEntry decodes entries whose checksum is valid.
func FuzzEntry(f *testing.F) {
	rec, err := encodeEntry(1, &raft.Log{Index: 1, Term: 9, Type: raft.LogConfiguration, Data: []byte("d"), Extensions: []byte("e")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(rec[recordHeader:])
	f.Fuzz(func(t *testing.T, body []byte) {
		var e raft.Log
		if decodeEntryBody(body, 1, &e) != nil {
			return
		}
		again, err := encodeEntry(1, &e)
		if err != nil || !bytes.Equal(again[recordHeader:], body) {
			t.Fatalf("%x encodes to %x, %v", body, again, err)
		}
		for n := range min(len(body), entryHeader+len(e.Extensions)) {
			if decodeEntryBody(body[:n], 1, &e) == nil {
				t.Fatalf("%d of %d bytes decode", n, len(body))
			}
		}
	})
}

// FuzzState decodes state records whose checksum is valid.
func FuzzState(f *testing.F) {
	st := &groupState{held: runSet{{1, 9}, {100, 200}}, garbage: runSet{{10, 20}}}
	f.Add(st.set([]byte("CurrentTerm"), []byte("12345678")).set([]byte("empty"), nil).encode())
	f.Add((&groupState{}).encode())
	f.Fuzz(func(t *testing.T, body []byte) {
		st, err := decodeState(body)
		if err != nil {
			return
		}
		if again := st.encode(); !bytes.Equal(again, body) {
			t.Fatalf("%x encodes to %x", body, again)
		}
		for n := range body {
			if _, err := decodeState(body[:n]); err == nil {
				t.Fatalf("%d of %d bytes decode", n, len(body))
			}
		}
	})
}

// FuzzSlot decodes records of the node's own area whose checksum is valid.
func FuzzSlot(f *testing.F) {
	f.Add(encodeSlot([]byte("conversation"), []byte("group 7")))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		key, value, err := decodeSlot(body)
		if err != nil || len(key) == 0 {
			return
		}
		if again := encodeSlot(key, value); !bytes.Equal(again, body) {
			t.Fatalf("%x encodes to %x", body, again)
		}
		for n := 1; n < 4+len(key); n++ {
			if _, _, err := decodeSlot(body[:n]); err == nil {
				t.Fatalf("%d of %d bytes decode", n, len(body))
			}
		}
	})
}

// FuzzBoltWalk walks files that bbolt did not write.
func FuzzBoltWalk(f *testing.F) {
	dir := f.TempDir()
	l, err := Open(Config{Dir: dir, noSync: true})
	if err == nil {
		err = errors.Join(l.Group(1).StoreLogs(entries(1, 1, 30, 1)), l.Close())
	}
	if err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, boltFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint16(0), []byte{})
	f.Add(uint16(8192), []byte{2, 0, 0, 0})
	f.Add(uint16(0), bytes.Repeat([]byte{0xff}, 8192))
	path := filepath.Join(f.TempDir(), "fuzzed")
	f.Fuzz(func(t *testing.T, at uint16, change []byte) {
		data := bytes.Clone(whole)
		copy(data[min(int(at), len(data)):], change)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		// The changes may produce a valid file; then the keys are in order.
		last := uint64(0)
		_, err := walkBolt(path, func(key uint64) uint64 {
			if key < last {
				t.Fatalf("key %d after %d", key, last)
			}
			last = key
			return key + 1
		})
		if err != nil && !errors.Is(err, ErrDamagedFile) {
			t.Fatal(err)
		}
	})
}

// FuzzWAL searches for damage in write-ahead logs with arbitrary content.
func FuzzWAL(f *testing.F) {
	f.Add([]byte("short"))
	f.Add(append(make([]byte, walBlock-5), 1, 2, 3, 4, 5, 6, 7))
	f.Fuzz(func(t *testing.T, data []byte) {
		at, err := damagedChunk(bytes.NewReader(data), 4)
		if err != nil || at < -1 || at >= int64(len(data)) {
			t.Fatal(at, err)
		}
	})
}
