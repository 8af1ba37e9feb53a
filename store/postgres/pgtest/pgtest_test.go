package pgtest

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
)

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

// TestKill checks that no process of a server is left after Kill, so that the server can start on its data again.
func TestKill(t *testing.T) {
	s := Own(t)
	for range 50 { // each has a process of the server
		c, err := pgx.Connect(t.Context(), s.URL("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(t.Context())
	}
	list, err := s.processes()
	if err != nil || len(list) < 50 {
		t.Fatalf("processes %v, %v", list, err)
	}
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(list, runs); i >= 0 {
		t.Errorf("process %s still runs", list[i])
	}
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := s.Exec("postgres", "SELECT 1"); err != nil {
		t.Fatal(err)
	}
}
