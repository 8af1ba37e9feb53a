package audit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, cfg Config) *Log {
	t.Helper()
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// fill appends n records and returns their marks.
func fill(t *testing.T, l *Log, n int) (marks []Mark) {
	t.Helper()
	for i := range n {
		m, _, err := l.Append(DeviceEnrolled, "operator:ops", fmt.Sprintf("mimi://a.example/d/alice/%d", i), map[string]string{"by": "an invitation"})
		if err != nil {
			t.Fatal(err)
		}
		marks = append(marks, m)
	}
	return marks
}

func TestChain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	if _, err := Verify(dir, nil); err == nil {
		t.Error("a log that is not there is verified")
	}
	marks := fill(t, open(t, Config{Dir: dir}), 3)
	marks = append(marks, fill(t, open(t, Config{Dir: dir}), 2)...) // another process
	var seen []uint64
	report, err := Verify(dir, func(r *Record) error {
		seen = append(seen, r.Number)
		if r.What != DeviceEnrolled || r.Who != "operator:ops" || r.With["by"] != "an invitation" || time.Since(r.Time) > time.Hour {
			t.Errorf("record %+v", r)
		}
		return nil
	}, marks...)
	if err != nil || !slices.Equal(seen, []uint64{1, 2, 3, 4, 5}) || report.Head != marks[4] || report.First != marks[0] || report.Records != 5 || report.Files != 1 {
		t.Fatalf("%+v, %v, records %d", report, err, seen)
	}
	for path, mode := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, currentFile): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}

// TestTamperingIsFound changes a log in each way that leaves lines behind.
func TestTamperingIsFound(t *testing.T) {
	dir := t.TempDir()
	marks := fill(t, open(t, Config{Dir: dir}), 5)
	path := filepath.Join(dir, currentFile)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(whole, []byte("\n"))[:5]
	join := func(list ...[]byte) []byte { return bytes.Join(list, nil) }
	for name, c := range map[string]struct {
		text []byte
		line int // of the first fault; 0 where only a mark shows it
	}{
		"a word changed":       {bytes.Replace(whole, []byte("alice/1"), []byte("alice/7"), 1), 3},
		"a line removed":       {join(lines[0], lines[1], lines[3], lines[4]), 3},
		"a line twice":         {join(lines[0], lines[1], lines[1], lines[2], lines[3], lines[4]), 3},
		"two lines exchanged":  {join(lines[0], lines[2], lines[1], lines[3], lines[4]), 2},
		"an empty line":        {join(lines[0], []byte("\n"), lines[1], lines[2], lines[3], lines[4]), 2},
		"a further key":        {bytes.Replace(whole, []byte(`"n":2`), []byte(`"m":0,"n":2`), 1), 2},
		"the last line cut":    {whole[:len(whole)-3], 5},
		"the last line gone":   {join(lines[:4]...), 0},
		"the last one changed": {bytes.Replace(whole, []byte("alice/4"), []byte("alice/8"), 1), 5},
		"nothing left":         {nil, 0},
	} {
		if err := os.WriteFile(path, c.text, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Verify(dir, nil, marks[4])
		var broken *Broken
		if err == nil || errors.As(err, &broken) != (c.line > 0) || c.line > 0 && broken.Line != c.line {
			t.Errorf("%s: %v, wanted a fault in line %d", name, err, c.line)
		}
	}
	if err := os.WriteFile(path, join(lines[1:]...), 0o600); err != nil { // as if older files had been removed
		t.Fatal(err)
	}
	if report, err := Verify(dir, nil, marks...); err != nil || report.First != marks[1] {
		t.Errorf("without the first record: %+v, %v", report, err)
	}
}

// TestCrash: a line that is half there is removed by the next record, which says so.
func TestCrash(t *testing.T) {
	dir := t.TempDir()
	fill(t, open(t, Config{Dir: dir}), 2)
	path := filepath.Join(dir, currentFile)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"n":3,"ti`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := Verify(dir, nil); err == nil {
		t.Error("a cut line is verified")
	}
	fill(t, open(t, Config{Dir: dir}), 1)
	var acts []Act
	if _, err := Verify(dir, func(r *Record) error { acts = append(acts, r.What); return nil }); err != nil {
		t.Fatal(err)
	}
	if want := []Act{DeviceEnrolled, DeviceEnrolled, LogRepaired, DeviceEnrolled}; !slices.Equal(acts, want) {
		t.Errorf("acts %v, wanted %v", acts, want)
	}
}

// TestRotation: the chain goes on over files, and the oldest are removed if Files says so.
func TestRotation(t *testing.T) {
	for _, keep := range []int{0, 2} {
		dir := t.TempDir()
		l := open(t, Config{Dir: dir, Size: 600, Files: keep})
		rotations := 0
		for range 20 {
			_, rotated, err := l.Append(LinkUp, "node:n1.a.example", "n1.b.example", nil)
			if err != nil {
				t.Fatal(err)
			}
			if rotated {
				rotations++
			}
		}
		full, err := fullFiles(dir)
		if err != nil || rotations < 4 || keep > 0 && len(full) != keep || keep == 0 && len(full) != rotations {
			t.Fatalf("%d rotations, files %v, %v", rotations, full, err)
		}
		report, err := Verify(dir, nil)
		if err != nil || report.Head.Number != 20 || (report.First.Number == 1) != (keep == 0) {
			t.Fatalf("%+v, %v", report, err)
		}
		copied := filepath.Join(t.TempDir(), "copy")
		if err := l.Copy(copied); err != nil {
			t.Fatal(err)
		}
		if again, err := Verify(copied, nil); err != nil || again != report {
			t.Fatalf("the copy: %+v, %v", again, err)
		}
		// A file that begins is the edge of an append by another process.
		if err := os.Truncate(filepath.Join(dir, currentFile), 0); err != nil {
			t.Fatal(err)
		}
		before, err := Verify(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		m := fill(t, open(t, Config{Dir: dir}), 1)
		if m[0].Number != before.Head.Number+1 {
			t.Errorf("record %v follows %v", m[0], before.Head)
		}
		if _, err := Verify(dir, nil, m...); err != nil {
			t.Error(err)
		}
		if err := os.Remove(full[1]); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(dir, nil); keep == 0 && err == nil {
			t.Error("a file that is missing in the middle is not noticed")
		}
	}
}

// TestManyWriters appends from several logs at once, as processes do, while the log is verified.
func TestManyWriters(t *testing.T) {
	dir := t.TempDir()
	var all sync.WaitGroup
	for range 4 {
		l := open(t, Config{Dir: dir, Size: 4 << 10})
		all.Go(func() {
			for range 25 {
				if _, _, err := l.Append(UserInvited, "operator:ops", "mimi://a.example/u/alice", nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		var broken *Broken
		if _, err := Verify(dir, nil); errors.As(err, &broken) && !strings.Contains(broken.Why, "cut off") {
			t.Fatal(err)
		}
	}
	if report, err := Verify(dir, nil); err != nil || report.Records != 100 {
		t.Fatalf("%+v, %v", report, err)
	}
}

// TestTextsAreBounded: what others choose the length of cannot make a line that is refused later.
func TestTextsAreBounded(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Dir: dir})
	long := strings.Repeat("\x00é\xff", 4000)
	if _, _, err := l.Append(NodeStarted, long, long, map[string]string{long: long, "a": long}); err != nil {
		t.Fatal(err)
	}
	many := make(map[string]string)
	for i := range maxWith + 1 {
		many[fmt.Sprint(i)] = long
	}
	if _, _, err := l.Append(NodeStarted, "node:", "", many); err == nil {
		t.Error("a record with too many texts is written")
	}
	delete(many, "0")
	if _, _, err := l.Append(NodeStarted, "node:", "", many); err != nil {
		t.Fatal(err)
	}
	fill(t, open(t, Config{Dir: dir}), 1)
	if report, err := Verify(dir, nil); err != nil || report.Records != 3 {
		t.Fatalf("%+v, %v", report, err)
	}
}

// TestNotALog holds that Open refuses a file that is no log, and follows no symbolic link.
func TestNotALog(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, currentFile), []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := open(t, Config{Dir: dir}).Append(NodeStarted, "node:", "", nil); err == nil {
		t.Error("a file that is no log is continued")
	}
	other := t.TempDir()
	if err := os.Symlink(filepath.Join(dir, currentFile), filepath.Join(other, currentFile)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := open(t, Config{Dir: other}).Append(NodeStarted, "node:", "", nil); err == nil {
		t.Error("a symbolic link is followed")
	}
	if _, err := Open(Config{}); err == nil {
		t.Error("a log without a folder is opened")
	}
}

func TestMarks(t *testing.T) {
	m := markOf(7, []byte("x"))
	if back, err := ParseMark(m.String()); err != nil || back != m {
		t.Errorf("%v, %v", back, err)
	}
	for _, s := range []string{"", "7", "7:00", "0:" + m.String()[2:], "x:" + m.String()[2:], m.String() + "0"} {
		if _, err := ParseMark(s); err == nil {
			t.Errorf("%q is a mark", s)
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"n":1,"time":"2026-11-30T20:00:00Z","what":"node.started","who":"node:n1.a.example","previous":""}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := decode(line)
		if err != nil {
			return
		}
		again, err := r.encode()
		if err != nil {
			return // more texts than a record of ours has
		}
		back, err := decode(again)
		if err != nil {
			t.Fatalf("%q became %q: %v", line, again, err)
		}
		if twice, err := back.encode(); err != nil || !bytes.Equal(again, twice) {
			t.Fatalf("%q became %q, then %q (%v)", line, again, twice, err)
		}
	})
}
