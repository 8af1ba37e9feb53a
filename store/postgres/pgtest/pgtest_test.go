package pgtest

import "testing"

// TestCrash checks that committed rows survive a crash, in the server and in the copy, and that both run.
func TestCrash(t *testing.T) {
	s := Own(t)
	_, name := s.Database(t, "")
	if err := s.Exec(name, "CREATE TABLE x (n int)", "INSERT INTO x VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	after := s.Crash(t)
	for _, on := range []*Server{s, after} {
		if err := on.Exec(name, "INSERT INTO x SELECT 1/count(*) FROM x"); err != nil { // divides by zero if it is empty
			t.Fatal(err)
		}
	}
}
