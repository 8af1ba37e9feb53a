package mlscore

import (
	"encoding/json"
	"strings"
)

// vectorFormat is one of the formats of the MLS working group's test vectors, with the functions that verify and make
// its cases.
type vectorFormat struct {
	prefix string // prefix of the names of its files
	suites bool   // each case has a cipher suite
	verify func(raw json.RawMessage, s *suite) error
	// open replaces verify in formats whose cases refer to others.
	open func(*vectorSet) (func(at int, s *suite) error, error)
}

// vectorFormats lists the formats. No prefix is the beginning of another. vectorFormats is a function so that
// programs that verify no vectors do not link this code.
func vectorFormats() []vectorFormat {
	return []vectorFormat{
		{prefix: "peer-messages", suites: true, open: openPeerMessages},
		{prefix: "peer-objects", suites: true, open: openPeerObjects},
		{prefix: "refused-peer-messages", suites: true, open: openRefusedMessages},
		{prefix: "scripts", suites: true, open: openScripts},
		{prefix: "crypto-basics", suites: true, verify: verifier((*cryptoBasicsCase).verify)},
		{prefix: "deserialization", verify: verifier((*deserializationCase).verify)},
		{prefix: "key-schedule", suites: true, verify: verifier((*keyScheduleCase).verify)},
		{prefix: "message-protection", suites: true, verify: verifier((*protectionCase).verify)},
		{prefix: "messages", verify: verifier((*messagesCase).verify)},
		{prefix: "passive-client", suites: true, verify: verifier((*passiveCase).verify)},
		{prefix: "psk_secret", suites: true, verify: verifier((*pskSecretCase).verify)},
		{prefix: "secret-tree", suites: true, verify: verifier((*secretTreeCase).verify)},
		{prefix: "transcript-hashes", suites: true, verify: verifier((*transcriptCase).verify)},
		{prefix: "tree-math", verify: verifier((*treeMathCase).verify)},
		{prefix: "tree-operations", suites: true, verify: verifier((*treeOperationCase).verify)},
		{prefix: "tree-validation", suites: true, verify: verifier((*treeValidationCase).verify)},
		{prefix: "treekem", suites: true, verify: verifier((*treeKEMCase).verify)},
		{prefix: "welcome", suites: true, verify: verifier((*welcomeCase).verify)},
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

// verifyVectors checks every case of a file and calls each with its outcome: see vectors.Verify. read reads the other
// files of the folder; nil if there are none. verifyVectors returns the name of the format.
func verifyVectors(file string, data []byte, read func(string) ([]byte, error), each func(at int, cs CipherSuite, err error)) (string, error) {
	format, err := vectorFormatOf(file)
	if err != nil {
		return "", err
	}
	var cases []json.RawMessage
	if err := json.Unmarshal(data, &cases); err != nil {
		return "", &Error{Kind: ErrMalformed, Object: file, Detail: "is no JSON array of cases", Err: err}
	}
	if len(cases) == 0 {
		return "", fail(ErrMalformed, "", file, "holds no case")
	}
	verify := func(at int, s *suite) error { return format.verify(cases[at], s) }
	if format.open != nil {
		if verify, err = format.open(&vectorSet{cases, read}); err != nil {
			return "", within(file, ErrMalformed, err)
		}
	}
	for at, raw := range cases {
		id, s, err := format.suiteOf(raw)
		if err == nil {
			err = verify(at, s)
		}
		each(at, id, err)
	}
	return format.prefix, nil
}

// suiteOf returns the cipher suite of a case; 0 and nil where the format has none.
func (f *vectorFormat) suiteOf(raw json.RawMessage) (CipherSuite, *suite, error) {
	if !f.suites {
		return 0, nil, nil
	}
	var named struct {
		Suite *CipherSuite `json:"cipher_suite"`
	}
	if err := json.Unmarshal(raw, &named); err != nil || named.Suite == nil {
		return 0, nil, &Error{Kind: ErrMalformed, Object: "cipher_suite", Detail: "is missing, or not a number of 16 bits", Err: err}
	}
	s, err := suiteOf(*named.Suite)
	return *named.Suite, s, err
}
