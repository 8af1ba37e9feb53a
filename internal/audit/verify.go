package audit

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Report is what Verify has found.
type Report struct {
	Files       int
	Records     uint64
	First, Head Mark // Head's number is 0 for an empty log
}

// Broken says where a chain is broken.
type Broken struct {
	File string
	Line int // from 1
	Why  string
}

// Error implements error.
func (b *Broken) Error() string { return fmt.Sprintf("%s, line %d: %s", b.File, b.Line, b.Why) }

// Verify reads the whole log in a folder, the oldest record first, and calls do with each, which may be nil. It returns
// a *Broken for the first line that does not continue the chain: what is before it is as it was written, and what is
// behind it may not be. marks are records that were noted elsewhere: one that is in the log's range must be in the log.
// The log may be appended to meanwhile.
func Verify(dir string, do func(*Record) error, marks ...Mark) (Report, error) {
	v := &verifier{do: do, marks: make(map[uint64]Mark)}
	for _, m := range marks {
		v.marks[m.Number] = m
	}
	if err := v.files(dir); err != nil {
		return v.report, err
	}
	for n, m := range v.marks {
		if n > v.report.Head.Number {
			return v.report, fmt.Errorf("audit: the log ends with record %d, and %v was noted elsewhere: its end was cut off", v.report.Head.Number, m)
		}
		if n >= v.report.First.Number {
			return v.report, fmt.Errorf("audit: record %d is missing, and was noted elsewhere", n)
		}
	}
	return v.report, nil
}

type verifier struct {
	do     func(*Record) error
	marks  map[uint64]Mark // that have not been met
	report Report
}

// files reads all files. The current one is opened first: if it is renamed meanwhile, it is in the list too.
func (v *verifier) files(dir string) error {
	current, err := os.Open(filepath.Join(dir, currentFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("audit: %w", err)
	}
	none := err != nil
	if !none {
		defer current.Close()
	}
	list, err := fullFiles(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("audit: %w", err)
	}
	if none && len(list) == 0 {
		return fmt.Errorf("audit: there is no log in %s", dir)
	}
	for _, path := range list {
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		if same, err := sameFile(f, current); err != nil || same {
			if err := errors.Join(err, f.Close()); err != nil {
				return fmt.Errorf("audit: %w", err)
			}
			break
		}
		err = v.file(f)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	if none {
		return nil // between a rotation's rename and the new file
	}
	return v.file(current)
}

func sameFile(f, current *os.File) (bool, error) {
	if current == nil {
		return false, nil
	}
	a, err := f.Stat()
	if err != nil {
		return false, err
	}
	b, err := current.Stat()
	return err == nil && os.SameFile(a, b), err
}

func (v *verifier) file(f *os.File) error {
	path := f.Name()
	v.report.Files++
	in := bufio.NewReaderSize(f, maxLine+2)
	for number := 1; ; number++ {
		line, err := in.ReadSlice('\n')
		broken := func(format string, args ...any) error {
			return &Broken{path, number, fmt.Sprintf(format, args...)}
		}
		switch {
		case errors.Is(err, io.EOF) && len(line) == 0:
			return nil
		case errors.Is(err, io.EOF):
			return broken("it is cut off: a crash may have done so, and the next record repairs it")
		case errors.Is(err, bufio.ErrBufferFull):
			return broken("it has more than %d bytes", maxLine)
		case err != nil:
			return fmt.Errorf("audit: %w", err)
		}
		if err := v.line(line[:len(line)-1], broken); err != nil {
			return err
		}
	}
}

func (v *verifier) line(line []byte, broken func(string, ...any) error) error {
	r, err := decode(line)
	if err != nil {
		return broken("%v", err)
	}
	head := v.report.Head
	switch {
	case head.Number == 0 && r.Number == 1 && r.Previous != "":
		return broken("the first record names one before it")
	case head.Number > 0 && r.Number != head.Number+1:
		return broken("record %d follows record %d: others were removed or inserted", r.Number, head.Number)
	case head.Number > 0 && r.Previous != hex.EncodeToString(head.Hash[:]):
		return broken("record %d does not continue record %d: one of them was changed", r.Number, head.Number)
	}
	m := markOf(r.Number, line)
	if noted, ok := v.marks[r.Number]; ok {
		if noted != m {
			return broken("record %d is not the one that was noted elsewhere", r.Number)
		}
		delete(v.marks, r.Number)
	}
	if head.Number == 0 {
		v.report.First = m
	}
	v.report.Head, v.report.Records = m, v.report.Records+1
	if v.do == nil {
		return nil
	}
	return v.do(r)
}
