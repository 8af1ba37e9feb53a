package mlscore

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
)

// crashKind is the kind of failure of a write.
type crashKind int

const (
	writeRefused crashKind = iota // nothing is stored, and the process continues
	diesBefore                    // nothing is stored, and the process ends
	diesAfter                     // everything is stored, and the process ends before Apply returns
)

func (k crashKind) String() string {
	return [...]string{"the write is refused", "crash before the write", "crash after the write"}[k]
}

var errCrash = errors.New("the store is gone")

// crashStore fails at one write. It queues the messages in Batch.Output.
type crashStore struct {
	*MemoryStore
	at    int // the number of the failing write, from 1; 0 for none
	kind  crashKind
	count int
	sent  [][]byte
}

func (s *crashStore) Apply(b Batch) error {
	s.count++
	if s.count == s.at && s.kind != diesAfter {
		return errCrash
	}
	if b.Output != nil {
		s.sent = append(s.sent, bytes.Clone(b.Output))
	}
	if err := s.MemoryStore.Apply(b); err != nil {
		return err
	}
	if s.count == s.at {
		return errCrash
	}
	return nil
}

// last returns the message that was queued last.
func (s *crashStore) last() []byte {
	if len(s.sent) == 0 {
		return nil
	}
	return s.sent[len(s.sent)-1]
}

// hero is the client with the failing store, in a life with alice and bob.
type hero struct {
	t      *testing.T
	cfg    Config
	client *Client
	store  *crashStore
	id     Identity
	groups map[string]*Group // by group id

	senderData map[string]Secret // by group id and epoch, to decrypt the sender data of sent messages
	returned   [][]byte
}

func newHero(t *testing.T, at int, kind crashKind) *hero {
	t.Helper()
	h := &hero{
		t:          t,
		store:      &crashStore{MemoryStore: NewMemoryStore(), at: at, kind: kind},
		groups:     map[string]*Group{},
		senderData: map[string]Secret{},
	}
	h.cfg = Config{Auth: TrustBasic{}, Store: h.store, Now: testNow}
	var err error
	if h.client, err = NewClient(h.cfg); err != nil {
		t.Fatal(err)
	}
	key, _, err := GenerateSignatureKey(nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	h.id = Identity{1, BasicCredential([]byte("hero")), key}
	return h
}

// restart replaces the client after the end of the process: the new client has only the store.
func (h *hero) restart() {
	h.t.Helper()
	h.store = &crashStore{MemoryStore: h.store.Clone(), sent: h.store.sent, count: h.store.count}
	h.cfg.Store = h.store
	var err error
	if h.client, err = NewClient(h.cfg); err != nil {
		h.t.Fatal(err)
	}
	ids, err := h.client.Groups()
	if err != nil {
		h.t.Fatal(err)
	}
	clear(h.groups)
	for _, id := range ids {
		g, err := h.client.LoadGroup(id)
		if err != nil {
			h.t.Fatalf("group %s is lost: %v", id, err)
		}
		h.groups[string(id)] = g
	}
}

// do makes one operation, whose write may fail. After a crash, known reports whether the operation took effect; if
// not, do makes the operation again, which must succeed.
func (h *hero) do(what string, op func() error, known func() bool) {
	h.t.Helper()
	before, records, writes := h.describe(), h.records(), h.store.count
	err := op()
	if err == nil {
		if writes < h.store.at && h.store.at <= h.store.count {
			h.t.Fatalf("%s: the write went wrong, and nothing is said of it", what)
		}
		h.note()
		return
	}
	if !errors.Is(err, errCrash) || !errors.Is(err, ErrStore) {
		h.t.Fatalf("%s: %v", what, err)
	}
	if h.store.kind != diesAfter && !maps.Equal(records, h.records()) {
		h.t.Fatalf("%s: refused, and the store has changed", what)
	}
	switch h.store.kind {
	case writeRefused:
		if after := h.describe(); after != before {
			h.t.Fatalf("%s: refused, and the groups in memory have changed from\n%s\nto\n%s", what, before, after)
		}
	case diesBefore:
		h.restart()
		if after := h.describe(); after != before {
			h.t.Fatalf("%s: never written, and after the restart the groups have changed from\n%s\nto\n%s", what, before, after)
		}
	case diesAfter:
		h.restart()
		if maps.Equal(records, h.records()) {
			h.t.Fatalf("%s: written, and the store is as before", what)
		}
		if known() {
			h.note()
			return
		}
	}
	if err := op(); err != nil {
		h.t.Fatalf("%s, for the second time: %v", what, err)
	}
	h.note()
}

// again is the known function of operations that can always be made again.
func again() bool { return false }

func (h *hero) records() map[string]string {
	out := map[string]string{}
	for k, v := range h.store.records {
		out[k] = string(v.Bytes())
	}
	return out
}

func (h *hero) describe() string {
	var b bytes.Buffer
	for _, id := range slices.Sorted(maps.Keys(h.groups)) {
		fmt.Fprintf(&b, "group %s:\n%s\n", id, describeGroup(h.groups[id]))
	}
	return b.String()
}

// note records the sender data secrets of all epochs.
func (h *hero) note() {
	for id, g := range h.groups {
		if !g.state.removed {
			h.senderData[fmt.Sprint(id, g.Epoch())] = g.state.secrets.senderData.Clone()
		}
	}
}

// message makes an operation whose result is a message. In every case the message that the store took is the message
// that is sent.
func (h *hero) message(what string, make func() ([]byte, error)) []byte {
	h.t.Helper()
	var msg []byte
	sent := len(h.store.sent)
	h.do(what, func() (err error) {
		msg, err = make()
		return err
	}, func() bool {
		if len(h.store.sent) != sent+1 {
			h.t.Fatalf("%s: %d messages are queued after the crash, %d before it", what, len(h.store.sent), sent)
		}
		msg = h.store.last()
		return true
	})
	if !bytes.Equal(msg, h.store.last()) {
		h.t.Fatalf("%s: returned another message than the one that the store was given", what)
	}
	h.returned = append(h.returned, bytes.Clone(msg))
	return msg
}

// checkGenerations checks that no key encrypts two messages (RFC 9420 §9.1), over all messages that were queued or
// returned.
func (h *hero) checkGenerations() {
	h.t.Helper()
	used := map[string][]byte{}
	private := 0
	for _, msg := range append(slices.Clone(h.store.sent), h.returned...) {
		m, err := parseMessage(msg, h.cfg.Limits.Codec)
		if err != nil {
			h.t.Fatal(err)
		}
		if m.private == nil {
			continue
		}
		private++
		secret, ok := h.senderData[fmt.Sprint(string(m.private.groupID), m.private.epoch)]
		if !ok {
			h.t.Fatalf("no sender data secret for group %s, epoch %d", m.private.groupID, m.private.epoch)
		}
		d, err := suites[0].openSenderData(m.private, secret)
		if err != nil {
			h.t.Fatal(err)
		}
		key := fmt.Sprintf("group %s, epoch %d, %v, generation %d", m.private.groupID, m.private.epoch,
			ratchetFor(d.leaf, m.private.kind), d.generation)
		if other, twice := used[key]; twice && !bytes.Equal(other, msg) {
			h.t.Fatalf("%s: one key for two messages", key)
		}
		used[key] = msg
	}
	if private < 5 {
		h.t.Fatalf("only %d messages were looked at", private)
	}
}

// TestCrashes runs the life of a group once for every write in it and every kind of failure of that write.
func TestCrashes(t *testing.T) {
	for _, public := range []bool{false, true} {
		t.Run(fmt.Sprintf("public=%v", public), func(t *testing.T) {
			writes := crashLife(t, public, 0, writeRefused)
			t.Logf("%d writes", writes)
			if writes < 35 {
				t.Fatalf("%d writes: the life does not have what it should", writes)
			}
			for _, kind := range []crashKind{writeRefused, diesBefore, diesAfter} {
				t.Run(kind.String(), func(t *testing.T) {
					for at := 1; at <= writes; at++ {
						if step := crashStep(t, public); at%step != 0 {
							continue
						}
						t.Run(fmt.Sprint(at), func(t *testing.T) { crashLife(t, public, at, kind) })
					}
				})
			}
		})
	}
}

// crashStep returns the step between the writes that are tried: with public handshakes, which differ little, every
// third write, unless MLSFED_LONG is set.
func crashStep(t *testing.T, public bool) int {
	switch {
	case longRun(t) != "":
		return 1
	case testing.Short():
		return 5
	case public:
		return 3
	}
	return 1
}
