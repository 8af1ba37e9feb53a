package blob

import (
	"bytes"
	"errors"
	"testing"
)

func TestReadAt(t *testing.T) {
	s, err := Open(t.TempDir(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	content := []byte("0123456789")
	ref, err := s.Put(t.Context(), bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		offset uint64
		n      int
		want   string
	}{{0, 4, "0123"}, {4, 4, "4567"}, {8, 4, "89"}, {10, 4, ""}, {0, 100, "0123456789"}, {3, 0, ""}, {3, -1, ""}} {
		if got, err := s.ReadAt(ref, c.offset, c.n); err != nil || string(got) != c.want {
			t.Errorf("%d bytes at %d: %q, %v, wanted %q", c.n, c.offset, got, err, c.want)
		}
	}
	if _, err := s.ReadAt(ref, 11, 1); !errors.Is(err, ErrBadRef) {
		t.Errorf("behind the end: %v", err)
	}
	if err := s.Delete(ref); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadAt(ref, 0, 1); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted: %v", err)
	}
}
