package boltstore

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/mlsfed/mlsfed/mlscore"
)

// notVerified opens a file as VerifyLater does, and leaves the verification to the caller.
func notVerified(t testing.TB, file []byte) (*Store, error) {
	t.Helper()
	path := newPath(t)
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	s := &Store{path: path, opts: Options{VerifyLater: true, Rand: rand.NewChaCha8([32]byte{1})}}
	err := s.openLater(credential{key: testKey(1)})
	if err != nil && s.db != nil {
		if closeErr := s.closeBolt(); closeErr != nil {
			t.Fatal(closeErr)
		}
	}
	return s, err
}

// readAll compares all records of a store with those that were written. lenient allows missing records.
func readAll(t testing.TB, s *Store, records map[string]string, lenient bool) (failed error) {
	t.Helper()
	for k, want := range records {
		v, ok, err := s.Get([]byte(k))
		switch {
		case err != nil:
			failed = err
		case !ok && !lenient, ok && string(v) != want:
			t.Errorf("get %q: %d bytes, %v; it has %d", k, len(v), ok, len(want))
		}
	}
	seen := 0
	err := s.Scan([]byte("g00"), func(k, v []byte) error {
		if want, ok := records[string(k)]; !ok || string(v) != want {
			t.Errorf("scan gives %q with %d bytes", k, len(v))
		}
		seen++
		return nil
	})
	if err != nil {
		return err
	}
	want := 0
	for k := range records {
		if bytes.HasPrefix([]byte(k), []byte("g00")) {
			want++
		}
	}
	if seen != want && !lenient {
		t.Errorf("scan gives %d records, wanted %d", seen, want)
	}
	return failed
}

// TestVerifyLater checks that a store that is not verified yet returns its records and accepts no batch, and that it
// works normally after that.
func TestVerifyLater(t *testing.T) {
	file, records := damageSample(t)
	s, err := notVerified(t, file)
	if err != nil {
		t.Fatal(err)
	}
	if err := readAll(t, s, records, false); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.Get([]byte("none")); ok || err != nil {
		t.Errorf("a record that is not there: %v, %v", ok, err)
	}
	applied := make(chan struct{})
	go func() {
		defer close(applied)
		apply(t, s, put("new", "value"))
	}()
	s.verify()
	<-applied
	records["new"] = "value"
	if err := readAll(t, s, records, false); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)

	again, err := Open(s.path, testKey(1), Options{VerifyLater: true})
	if err != nil {
		t.Fatal(err)
	}
	apply(t, again, put("newer", "value"))
	mustClose(t, again)
	if _, err := Open(s.path, testKey(2), Options{VerifyLater: true}); !errors.Is(err, ErrWrongKey) {
		t.Errorf("open with another key: %v", err)
	}
	fresh, err := Open(newPath(t), testKey(1), Options{VerifyLater: true})
	if err != nil {
		t.Fatal(err)
	}
	apply(t, fresh, put("a", "b"))
	mustClose(t, fresh)
}

// TestVerifyLaterIsStopped checks that a store that is closed before it was verified writes nothing and leaves the
// file as it was.
func TestVerifyLaterIsStopped(t *testing.T) {
	file, records := damageSample(t)
	s, err := notVerified(t, file)
	if err != nil {
		t.Fatal(err)
	}
	if err := readAll(t, s, records, false); err != nil {
		t.Fatal(err)
	}
	s.later.stop.Store(true)
	s.verify()
	if err := s.Apply(mlscore.Batch{Writes: []mlscore.Write{put("a", "b")}}); !errors.Is(err, ErrClosed) {
		t.Errorf("a batch after the stop: %v, wanted ErrClosed", err)
	}
	mustClose(t, s)
	if now, err := os.ReadFile(s.path); err != nil || !bytes.Equal(now, file) {
		t.Errorf("the file has changed, %v", err)
	}
}

// TestVerifyLaterNoticesWhatIsMissing checks that a record that was removed from the file is reported as absent until
// the file is verified, and that nothing is written after that.
func TestVerifyLaterNoticesWhatIsMissing(t *testing.T) {
	file, records := damageSample(t)
	path := newPath(t)
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	whole := openTest(t, path, Options{})
	fold(t, whole)
	mustClose(t, whole)
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketRecords).Delete([]byte("g00000")) })
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	if _, ok := records["g00000"]; !ok {
		t.Fatal("the sample has no such record")
	}
	s, err := Open(path, testKey(1), Options{VerifyLater: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if err := s.Apply(mlscore.Batch{Writes: []mlscore.Write{put("a", "b")}}); !errors.Is(err, ErrDamaged) {
		t.Errorf("a batch into a file that lacks a record: %v, wanted ErrDamaged", err)
	}
	if _, _, err := s.Get([]byte("g00919")); !errors.Is(err, ErrDamaged) {
		t.Errorf("a read after that: %v, wanted ErrDamaged", err)
	}
}

// TestVerifyLaterSurvivesDamage checks that with any damage, reading a file before it is verified ends and returns no
// value that was not written, and that no batch is accepted.
func TestVerifyLaterSurvivesDamage(t *testing.T) {
	file, records := damageSample(t)
	r := rand.New(rand.NewPCG(3, 4))
	pageSize := os.Getpagesize()
	noticed := 0
	for i := range 300 {
		bad := bytes.Clone(file)
		at := r.IntN(len(bad))
		if i%2 == 0 { // the reader follows headers and the first entries of pages
			at = r.IntN(len(bad)/pageSize)*pageSize + r.IntN(80)
		}
		for k := range 1 + r.IntN(8) {
			if at+k < len(bad) {
				bad[at+k] = byte(r.Uint32())
			}
		}
		s, err := notVerified(t, bad)
		if err != nil {
			noticed++
			continue
		}
		readErr := readAll(t, s, records, true)
		s.verify()
		err = s.Apply(mlscore.Batch{Writes: []mlscore.Write{put("a", "b")}})
		if err != nil {
			noticed++
		} else {
			// A value that does not decrypt is detected when it is read, and does not affect other records.
			for _, err := range []error{readErr, readAll(t, s, records, false)} {
				if d := new(DamagedError); err != nil && (!errors.As(err, &d) || d.Key == nil) {
					t.Errorf("damage at %d: a batch is taken, and reading fails: %v", at, err)
				}
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if noticed == 0 {
		t.Error("no damage was noticed")
	}
	t.Logf("%d of 300 noticed", noticed)
}
