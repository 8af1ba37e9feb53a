package mlscore

import (
	"bytes"
	"crypto/sha3"
	"encoding/binary"
	"encoding/json"
	"io"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// vectorFile is a file that makeVectors makes. It has cases for each suite, or cases without a suite.
type vectorFile struct {
	name   string
	suites bool
	make   func(*vectorMaker) ([]any, error)
}

var vectorFiles = []vectorFile{
	{"crypto-basics.json", true, makeCryptoBasics},
	{"deserialization.json", false, makeDeserialization},
	{"key-schedule.json", true, makeKeySchedule},
	{"message-protection.json", true, makeProtection},
	{"messages.json", true, makeMessages},
	{"passive-client-handling-commit.json", true, makePassiveCommits},
	{"passive-client-random.json", true, makePassiveRandom},
	{"passive-client-welcome.json", true, makePassiveWelcomes},
	{"psk_secret.json", true, makePSKSecrets},
	{"secret-tree.json", true, makeSecretTrees},
	{"transcript-hashes.json", true, makeTranscripts},
	{"tree-math.json", false, makeTreeMath},
	{"tree-operations.json", true, makeTreeOperations},
	{"tree-validation.json", true, makeTreeValidations},
	{"treekem.json", true, makeTreeKEMs},
	{"welcome.json", true, makeWelcomes},
}

// makeVectors makes test vectors in all formats, by file name: see vectors.Make.
func makeVectors(seed []byte, suites []CipherSuite) (map[string][]byte, error) {
	if len(suites) == 0 {
		suites = CipherSuites()
	}
	suites = slices.Clone(suites)
	slices.Sort(suites)
	suites = slices.Compact(suites)
	files := map[string][]byte{}
	for _, f := range vectorFiles {
		var cases []any
		for _, id := range suites {
			s, err := suiteOf(id)
			if err != nil {
				return nil, err
			}
			if !f.suites {
				s = nil
			}
			more, err := f.make(newVectorMaker(seed, f.name, s))
			if err != nil {
				return nil, within(f.name+" for "+id.String(), ErrMisuse, err)
			}
			if cases = append(cases, more...); !f.suites {
				break
			}
		}
		data, err := encodeVectors(cases)
		if err != nil {
			return nil, within(f.name, ErrMisuse, err)
		}
		files[f.name] = data
	}
	return files, nil
}

// encodeVectors writes one case per line.
func encodeVectors(cases []any) ([]byte, error) {
	b := bytes.NewBufferString("[\n")
	for i, c := range cases {
		line, err := json.Marshal(c)
		if err != nil {
			return nil, err
		}
		b.Write(line)
		if i < len(cases)-1 {
			b.WriteByte(',')
		}
		b.WriteByte('\n')
	}
	b.WriteString("]\n")
	return b.Bytes(), nil
}

// vectorMaker makes the cases of one file for one suite. Its randomness is a separate stream.
type vectorMaker struct {
	suite *suite // nil where the format has none
	rand  io.Reader
}

func newVectorMaker(seed []byte, file string, s *suite) *vectorMaker {
	name := codec.AppendBytes(nil, seed)
	name = codec.AppendBytes(name, []byte(file))
	if s != nil {
		name = binary.BigEndian.AppendUint16(name, uint16(s.id))
	}
	x := sha3.NewSHAKE256()
	_, _ = x.Write(name) // never fails
	return &vectorMaker{s, x}
}

// bytes draws n random bytes.
func (m *vectorMaker) bytes(n int) []byte {
	b := make([]byte, n)
	_, _ = io.ReadFull(m.rand, b) // SHAKE256 does not end
	return b
}

// hash draws random bytes of the length of a hash.
func (m *vectorMaker) hash() []byte { return m.bytes(m.suite.hashLen()) }

// below draws a number from 0 to n-1. It slightly favours small numbers, which does not matter here.
func (m *vectorMaker) below(n int) int {
	return int(binary.BigEndian.Uint32(m.bytes(4)) % uint32(n))
}

// vectorTime is the present time of the clients of the vectors, and vectorLifetime is the lifetime of their
// KeyPackages, so long that no verifier finds one expired.
func vectorTime() time.Time { return time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC) }

const vectorLifetime = 200 * 365 * 24 * time.Hour

// client makes a client with a new identity.
func (m *vectorMaker) client(name string) (*Client, Identity, error) {
	cfg := vectorConfig()
	cfg.Rand = m.rand
	cfg.Now = vectorTime
	cfg.GREASE = GREASEEverywhere // a verifier must accept GREASE
	c, err := NewClient(cfg)
	if err != nil {
		return nil, Identity{}, err
	}
	key, _, err := m.suite.generateSignatureKey(m.rand)
	return c, Identity{m.suite.id, BasicCredential([]byte(name)), key}, err
}
