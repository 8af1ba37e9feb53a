package directory

import (
	"bytes"
	"context"
	"testing"

	"github.com/mlsfed/mlsfed/store/pebblestore"
	"github.com/mlsfed/mlsfed/store/pebblestore/pebbletest"
)

// Kinds of records in the Pebble store: the first byte of a key.
const (
	kindAddress    = 'a'
	kindBound      = 'A'
	kindClaim      = 'c'
	kindInvitation = 'i'
	kindPairBucket = 'b'
	kindPerson     = 'U'
	kindShared     = 'L'
	kindToken      = 't'
	kindUsed       = 'x'
	kindUserBucket = 'B'
)

// withoutKind opens the directory again on a store that never had records of a kind, as an earlier build left it.
func withoutKind(t testing.TB, disk *pebbletest.Disk, s *pebblestore.Store, kind byte, cfg Config) (*Directory, *pebblestore.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	dropped := 0
	disk.Change(t, func(key, value []byte) []byte {
		if bytes.HasPrefix(key, []byte{'d', kind}) {
			dropped++
			return nil
		}
		return value
	})
	if dropped == 0 {
		t.Fatalf("the store has no record %c", kind)
	}
	s = disk.Open(t)
	return on(t, s.Records(), cfg), s
}

// everyRecord calls do with each record that the store of a directory has on disk.
func everyRecord(t testing.TB, d *Directory, do func(kind byte, key, value []byte)) {
	t.Helper()
	all := d.store.(interface {
		Each(context.Context, func(kind byte, key, value []byte) error) error
	})
	if err := all.Each(t.Context(), func(kind byte, key, value []byte) error { do(kind, key, value); return nil }); err != nil {
		t.Fatal(err)
	}
}

// stored counts the records of a kind.
func stored(t testing.TB, d *Directory, kind byte) (n int) {
	t.Helper()
	everyRecord(t, d, func(k byte, _, _ []byte) {
		if k == kind {
			n++
		}
	})
	return n
}
