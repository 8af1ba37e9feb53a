// Package vectors verifies and makes test vectors in the formats of the MLS working group
// (github.com/mlswg/mls-implementations), with the code of package mlscore that groups use. Applications do not need
// it.
package vectors

import (
	"fmt"
	"io/fs"
	"slices"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/mlscore/internal/bridge"
)

var maker = bridge.Inside.(interface {
	MakeVectors(seed []byte, suites []mlscore.CipherSuite) (map[string][]byte, error)
})

var verifier = bridge.Inside.(interface {
	VerifyVectors(file string, data []byte, read func(string) ([]byte, error), each func(at int, cs mlscore.CipherSuite, err error)) (format string, err error)
})

// Case is the outcome of one case of a file of test vectors.
type Case struct {
	Index int                 // in the file, from 0
	Suite mlscore.CipherSuite // 0 where the format names none
	Err   error               // the difference; nil if the case passed
}

// String returns the case and the difference.
func (c Case) String() string {
	if c.Err == nil {
		return fmt.Sprintf("case %d passed", c.Index)
	}
	return fmt.Sprintf("case %d: %v", c.Index, c.Err)
}

// Tally sums up the cases of one cipher suite.
type Tally struct {
	Suite          mlscore.CipherSuite // 0 where the format names none
	Passed, Failed int
	First          []Case // the first failures, at most three
}

// Report is the outcome of a file of test vectors.
type Report struct {
	File   string
	Format string
	Suites []Tally // ascending by suite
}

// Passed counts the cases that passed.
func (r *Report) Passed() (n int) {
	for _, t := range r.Suites {
		n += t.Passed
	}
	return n
}

// Failed counts the cases that failed.
func (r *Report) Failed() (n int) {
	for _, t := range r.Suites {
		n += t.Failed
	}
	return n
}

// firstFailures is the number of failures of a suite that a report quotes.
const firstFailures = 3

func (r *Report) count(c Case) {
	at, found := slices.BinarySearchFunc(r.Suites, c.Suite, func(t Tally, id mlscore.CipherSuite) int { return int(t.Suite) - int(id) })
	if !found {
		r.Suites = slices.Insert(r.Suites, at, Tally{Suite: c.Suite})
	}
	t := &r.Suites[at]
	if c.Err == nil {
		t.Passed++
		return
	}
	t.Failed++
	if len(t.First) < firstFailures {
		t.First = append(t.First, c)
	}
}

// Verify checks every case of a file of test vectors. The beginning of the file's name, like "treekem", selects the
// format. progress is called after each case; it may be nil.
//
// An error means that the file could not be read as test vectors: mlscore.ErrUnsupported if its name belongs to no
// format, mlscore.ErrMalformed if the file is not a JSON array with at least one case. The report contains the
// failures of cases, including those with an unknown cipher suite.
//
// Files of recorded groups that refer to other files need those files, too: see VerifyFile.
func Verify(file string, data []byte, progress func(Case)) (Report, error) {
	return verify(file, data, nil, progress)
}

// VerifyFile is Verify for a file that may refer to other files of its folder: the application messages of recorded
// groups (peer-messages), and the summaries of their events (scripts). It returns mlscore.ErrMissing if the file
// cannot be read.
func VerifyFile(folder fs.FS, file string, progress func(Case)) (Report, error) {
	read := func(name string) ([]byte, error) { return fs.ReadFile(folder, name) }
	data, err := read(file)
	if err != nil {
		return Report{}, &mlscore.Error{Kind: mlscore.ErrMissing, Object: file, Detail: "cannot be read", Err: err}
	}
	return verify(file, data, read, progress)
}

func verify(file string, data []byte, read func(string) ([]byte, error), progress func(Case)) (Report, error) {
	r := Report{File: file}
	format, err := verifier.VerifyVectors(file, data, read, func(at int, cs mlscore.CipherSuite, err error) {
		c := Case{Index: at, Suite: cs, Err: err}
		r.count(c)
		if progress != nil {
			progress(c)
		}
	})
	if err != nil {
		return Report{}, err
	}
	r.Format = format
	return r, nil
}

// Make makes test vectors in all formats of the MLS working group, by file name. They hold cases for the given cipher
// suites, by default those of RFC 9420. The same seed gives the same bytes, and a suite's cases do not depend on the
// other suites. It returns mlscore.ErrUnsupported for an unknown suite.
//
// The vectors hold private keys that anybody who knows the seed can compute. Never use a key of a vector for anything
// else.
func Make(seed []byte, suites []mlscore.CipherSuite) (map[string][]byte, error) {
	return maker.MakeVectors(seed, suites)
}
