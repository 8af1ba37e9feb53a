package node

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/wire"
)

// reader is one address of a device in one conversation.
type reader struct {
	Conversation wire.ConversationID
	Token        wire.Token
}

// streams knows which conversations a device reads, and under which address: mailboxes know readers by
// their tokens alone. Keys are prefix, device, a zero byte, token, conversation; values the time since when.
type streams struct {
	db     *pebble.DB
	prefix []byte
	now    func() time.Time

	mu    sync.Mutex // guards what follows
	feeds map[wire.DeviceID]map[*feed]bool
}

// settleTime is how long a reader may be known here before its stream knows it.
const settleTime = time.Minute

func newStreams(db *pebble.DB, prefix []byte, now func() time.Time) *streams {
	return &streams{db: db, prefix: prefix, now: now, feeds: make(map[wire.DeviceID]map[*feed]bool)}
}

func (s *streams) devicePrefix(d wire.DeviceID) []byte {
	return append(append(bytes.Clone(s.prefix), d...), 0)
}

func (s *streams) key(d wire.DeviceID, r reader) []byte {
	return append(append(s.devicePrefix(d), r.Token[:]...), r.Conversation...)
}

// joined is a reader that comes with an entry.
type joined struct {
	device wire.DeviceID
	reader
}

// add records readers, durably, before their streams know them: a reader of no stream does no harm.
func (s *streams) add(list []joined) error {
	if len(list) == 0 {
		return nil
	}
	b := s.db.NewBatch()
	defer b.Close()
	since := binary.BigEndian.AppendUint64(nil, uint64(wire.TimeOf(s.now())))
	for _, j := range list {
		if err := b.Set(s.key(j.device, j.reader), since, nil); err != nil {
			return fmt.Errorf("readers: %w", err)
		}
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("readers: %w", err)
	}
	return nil
}

// announce tells the sessions of devices that they have new streams.
func (s *streams) announce(list []joined) {
	for _, j := range list {
		for _, f := range s.feedsOf(j.device) {
			f.add(j.reader)
		}
	}
}

// drop forgets a reader. A crash may bring it back: then it is dropped again.
func (s *streams) drop(d wire.DeviceID, r reader) error {
	if err := s.db.Delete(s.key(d, r), pebble.NoSync); err != nil {
		return fmt.Errorf("readers: %w", err)
	}
	return nil
}

// gone is told that a stream does not know a reader. One that is still joining stays.
func (s *streams) gone(d wire.DeviceID, r reader) error {
	since, err := s.since(d, r)
	if err != nil || s.now().Sub(since.Std()) < settleTime {
		return err
	}
	return s.drop(d, r)
}

// since is when a device joined a stream; wire.UnknownConversation if it does not read it.
func (s *streams) since(d wire.DeviceID, r reader) (wire.Time, error) {
	v, closer, err := s.db.Get(s.key(d, r))
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, wire.Errorf(wire.UnknownConversation, "read", "%s does not read %v under this address", d, r.Conversation)
	}
	if err != nil {
		return 0, fmt.Errorf("readers: %w", err)
	}
	defer closer.Close()
	if len(v) != 8 {
		return 0, fmt.Errorf("readers: value of %d bytes", len(v))
	}
	return wire.Time(binary.BigEndian.Uint64(v)), nil
}

// of lists what a device reads.
func (s *streams) of(d wire.DeviceID) ([]reader, error) {
	prefix := s.devicePrefix(d)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return nil, fmt.Errorf("readers: %w", err)
	}
	defer it.Close()
	var list []reader
	for it.First(); it.Valid(); it.Next() {
		rest := it.Key()[len(prefix):]
		var r reader
		if n := copy(r.Token[:], rest); n < len(r.Token) {
			return nil, fmt.Errorf("readers: key of %d bytes", len(rest))
		}
		r.Conversation = wire.ConversationID(rest[len(r.Token):])
		list = append(list, r)
	}
	return list, it.Error()
}

// after is the first key behind all that begin with prefix.
func after(prefix []byte) []byte {
	end := bytes.Clone(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// elsewhere reports whether a device reads another conversation under an address.
func (s *streams) elsewhere(d wire.DeviceID, token wire.Token, id wire.ConversationID) (bool, error) {
	list, err := s.of(d)
	for _, r := range list {
		if r.Token == token && r.Conversation != id {
			return true, err
		}
	}
	return false, err
}

func (s *streams) open(d wire.DeviceID, f *feed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.feeds[d] == nil {
		s.feeds[d] = make(map[*feed]bool)
	}
	s.feeds[d][f] = true
}

func (s *streams) close(d wire.DeviceID, f *feed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.feeds[d], f)
	if len(s.feeds[d]) == 0 {
		delete(s.feeds, d)
	}
}

func (s *streams) feedsOf(d wire.DeviceID) []*feed {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*feed
	for f := range s.feeds[d] {
		list = append(list, f)
	}
	return list
}
