package mailbox

import "testing"

// TestCountOfSenders: what is brought while the records are counted is not lost, whether the count succeeds or fails.
func TestCountOfSenders(t *testing.T) {
	s := NewTotals[uint64]()
	s.Add(1, 10)
	s.Begin()
	s.Add(1, 5)
	if n := s.Of(1); n != 15 {
		t.Errorf("%d during a count", n)
	}
	s.End(nil) // it failed
	if n := s.Of(1); n != 15 {
		t.Errorf("%d after a count that failed", n)
	}
	s.Begin()
	s.Add(1, 7)
	s.End(map[uint64]uint64{1: 3}) // the others have been read
	if n := s.Of(1); n != 10 {
		t.Errorf("%d after a count", n)
	}
}
