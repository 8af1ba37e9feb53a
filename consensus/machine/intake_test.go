package machine

import (
	"bytes"
	"crypto/sha256"
	"io"
	"testing"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/wire"
)

// countingReader counts the bytes of its reads.
type countingReader struct {
	r io.Reader
	n int64
}

// Read implements io.Reader.
func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

// TestStateKeepsNoMoreThanItsPolicy checks that a snapshot from another node with more entries, or larger ones, than
// its policy keeps is refused before the entries are read: they would be in memory, encoded and decoded, at once.
func TestStateKeepsNoMoreThanItsPolicy(t *testing.T) {
	const talk = wire.ConversationID("conversation-one")
	entry, err := wire.Encode(&wire.Entry{Version: 1, Time: 1, Proposer: "n1.a.example", Envelope: author.Create(talk, author.Submission(1), wire.Policy{}, author.Addresses(1, "a.example"))})
	if err != nil {
		t.Fatal(err)
	}
	big := len(entry)
	for name, c := range map[string]struct {
		policy wire.Policy
		recent uint32
		most   int // entries that are read
	}{
		"bytes":                         {wire.Policy{Handshakes: wire.HandshakesPrivate, RecentCount: 4096, RecentBytes: uint32(10 * big)}, 1000, 12},
		"count":                         {wire.Policy{Handshakes: wire.HandshakesPrivate, RecentCount: 10}, 1000, 0},
		"a policy that nobody can have": {wire.Policy{Handshakes: wire.HandshakesPrivate, RecentCount: 4096, RecentBytes: 1 << 31}, 1000, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			w := &recordWriter{w: &out, sum: sha256.New()}
			w.raw([]byte(snapshotMagic))
			w.record(&imageHeader{ID: talk, Created: true, Policy: c.policy, Sequence: 2000, Heads: 1, Recent: c.recent})
			w.record(&imageHead{Sequence: 1})
			begins := out.Len()
			for range c.recent {
				w.record(&imageKept{Time: 1, Entry: entry})
			}
			w.raw(w.sum.Sum(nil))
			if w.err != nil {
				t.Fatal(w.err)
			}
			in := &countingReader{r: &out}
			m := New(talk, nil)
			if err := m.read(&recordReader{r: in, sum: sha256.New()}); err == nil {
				t.Fatal("taken")
			} else {
				t.Log(err)
			}
			if most := int64(begins + c.most*(big+100)); in.n > most {
				t.Errorf("%d bytes were read, at most %d are needed to refuse it", in.n, most)
			}
		})
	}
}
