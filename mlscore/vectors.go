package mlscore

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// VectorCase is the outcome of one case of a file of test vectors.
type VectorCase struct {
	Index int         // in the file, from 0
	Suite CipherSuite // 0 where the format names none
	Err   error       // what differed; nil if the case passed
}

// VectorTally sums up the cases of one cipher suite.
type VectorTally struct {
	Suite          CipherSuite // 0 where the format names none
	Passed, Failed int
	First          []VectorCase // the first failures, at most three
}

// VectorReport is the outcome of a file of test vectors.
type VectorReport struct {
	File   string
	Format string
	Suites []VectorTally // ascending by suite
}

// Passed counts the cases that passed.
func (r *VectorReport) Passed() (n int) {
	for _, t := range r.Suites {
		n += t.Passed
	}
	return n
}

// Failed counts the cases that failed.
func (r *VectorReport) Failed() (n int) {
	for _, t := range r.Suites {
		n += t.Failed
	}
	return n
}

// firstFailures is how many failures of a suite a report quotes.
const firstFailures = 3

func (r *VectorReport) count(c VectorCase) {
	at, found := slices.BinarySearchFunc(r.Suites, c.Suite, func(t VectorTally, id CipherSuite) int { return int(t.Suite) - int(id) })
	if !found {
		r.Suites = slices.Insert(r.Suites, at, VectorTally{Suite: c.Suite})
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

// vectorFormat is one of the formats of the MLS working group's test vectors, and how its cases are
// verified and made.
type vectorFormat struct {
	prefix string // with which the names of its files begin
	suites bool   // each case is for a cipher suite
	verify func(raw json.RawMessage, s *suite) error
	// open is in place of verify for formats whose cases refer to others.
	open func(*vectorSet) (func(at int, s *suite) error, error)
}

// vectorFormats lists the formats. No prefix begins another. It is a function so that programs which
// verify no vectors link none of this.
func vectorFormats() []vectorFormat {
	return []vectorFormat{
		{"peer-messages", true, nil, openPeerMessages},
		{"peer-objects", true, nil, openPeerObjects},
		{"refused-peer-messages", true, nil, openRefusedMessages},
		{"scripts", true, nil, openScripts},
		{"crypto-basics", true, verifier((*cryptoBasicsCase).verify), nil},
		{"deserialization", false, verifier((*deserializationCase).verify), nil},
		{"key-schedule", true, verifier((*keyScheduleCase).verify), nil},
		{"message-protection", true, verifier((*protectionCase).verify), nil},
		{"messages", false, verifier((*messagesCase).verify), nil},
		{"passive-client", true, verifier((*passiveCase).verify), nil},
		{"psk_secret", true, verifier((*pskSecretCase).verify), nil},
		{"secret-tree", true, verifier((*secretTreeCase).verify), nil},
		{"transcript-hashes", true, verifier((*transcriptCase).verify), nil},
		{"tree-math", false, verifier((*treeMathCase).verify), nil},
		{"tree-operations", true, verifier((*treeOperationCase).verify), nil},
		{"tree-validation", true, verifier((*treeValidationCase).verify), nil},
		{"treekem", true, verifier((*treeKEMCase).verify), nil},
		{"welcome", true, verifier((*welcomeCase).verify), nil},
	}
}

// verifier reads a case strictly and checks it.
func verifier[T any](check func(*T, *suite) error) func(json.RawMessage, *suite) error {
	return func(raw json.RawMessage, s *suite) error {
		var v T
		if err := decodeVector(raw, &v); err != nil {
			return err
		}
		return check(&v, s)
	}
}

func vectorFormatOf(file string) (*vectorFormat, error) {
	name := file[strings.LastIndexAny(file, `/\`)+1:]
	for _, f := range vectorFormats() {
		if strings.HasPrefix(name, f.prefix) {
			return &f, nil
		}
	}
	return nil, fail(ErrUnsupported, "", file, "its name does not begin with that of a format of test vectors, like crypto-basics")
}

// VerifyVectors checks a file of the MLS working group's test vectors: every case, by the code that
// groups use. The format is told by how the file's name begins, like "treekem". progress hears of each
// case as it is done; it may be nil.
//
// An error means that the file could not be read as test vectors: ErrUnsupported if its name is that of
// no format, ErrMalformed if it is not a JSON array with a case in it. What is wrong with a case stands
// in the report, a cipher suite that is not known included.
//
// Files of the recorded groups that refer to others need those, too: see VerifyVectorFile.
func VerifyVectors(file string, data []byte, progress func(VectorCase)) (VectorReport, error) {
	return verifyVectors(file, data, nil, progress)
}

// VerifyVectorFile is VerifyVectors for a file of a folder, whose other files it may refer to: the
// application messages of recorded groups (peer-messages), and what happens in them (scripts).
func VerifyVectorFile(folder fs.FS, file string, progress func(VectorCase)) (VectorReport, error) {
	read := func(name string) ([]byte, error) { return fs.ReadFile(folder, name) }
	data, err := read(file)
	if err != nil {
		return VectorReport{}, &Error{Kind: ErrMissing, Object: file, Detail: "cannot be read", Err: err}
	}
	return verifyVectors(file, data, read, progress)
}

func verifyVectors(file string, data []byte, read func(string) ([]byte, error), progress func(VectorCase)) (VectorReport, error) {
	format, err := vectorFormatOf(file)
	if err != nil {
		return VectorReport{}, err
	}
	var cases []json.RawMessage
	if err := json.Unmarshal(data, &cases); err != nil {
		return VectorReport{}, &Error{Kind: ErrMalformed, Object: file, Detail: "is no JSON array of cases", Err: err}
	}
	if len(cases) == 0 {
		return VectorReport{}, fail(ErrMalformed, "", file, "holds no case")
	}
	if format.open != nil {
		verify, err := format.open(&vectorSet{cases, read})
		if err != nil {
			return VectorReport{}, within(file, ErrMalformed, err)
		}
		at := -1
		format.verify = func(_ json.RawMessage, s *suite) error { return verify(at, s) }
		run := format.run
		return tally(file, format.prefix, cases, func(raw json.RawMessage) VectorCase { at++; return run(raw) }, progress), nil
	}
	return tally(file, format.prefix, cases, format.run, progress), nil
}

// tally verifies the cases in their order.
func tally(file, format string, cases []json.RawMessage, run func(json.RawMessage) VectorCase, progress func(VectorCase)) VectorReport {
	r := VectorReport{File: file, Format: format}
	for i, raw := range cases {
		c := run(raw)
		c.Index = i
		r.count(c)
		if progress != nil {
			progress(c)
		}
	}
	return r
}

// run verifies one case.
func (f *vectorFormat) run(raw json.RawMessage) (c VectorCase) {
	if !f.suites {
		c.Err = f.verify(raw, nil)
		return c
	}
	var named struct {
		Suite *CipherSuite `json:"cipher_suite"`
	}
	if err := json.Unmarshal(raw, &named); err != nil || named.Suite == nil {
		c.Err = &Error{Kind: ErrMalformed, Object: "cipher_suite", Detail: "is not there, or no number of 16 bits", Err: err}
		return c
	}
	c.Suite = *named.Suite
	s, err := suiteOf(c.Suite)
	if err != nil {
		c.Err = err
		return c
	}
	c.Err = f.verify(raw, s)
	return c
}

// String says which case it is and what differed.
func (c VectorCase) String() string {
	if c.Err == nil {
		return fmt.Sprintf("case %d passed", c.Index)
	}
	return fmt.Sprintf("case %d: %v", c.Index, c.Err)
}
