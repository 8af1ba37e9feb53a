package node

import (
	"context"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/wire"
)

// readers records which conversations a device reads, and which sessions read for it.
type readers struct {
	kept store.Readers
	now  func() time.Time

	mu    sync.Mutex // guards what follows
	feeds map[wire.DeviceID]map[*feed]bool
}

// inStream returns a reader in the form of the conversation's stream.
func inStream(r store.Reader) mailbox.Reader {
	return mailbox.Reader{Stream: mailbox.Conversation(r.Conversation), Token: r.Token}
}

// settleTime is how long a reader may be known here before its stream knows it: builds before this one wrote the reader
// first.
const settleTime = time.Minute

func newReaders(kept store.Readers, now func() time.Time) *readers {
	return &readers{kept: kept, now: now, feeds: make(map[wire.DeviceID]map[*feed]bool)}
}

// announce notifies the sessions of devices of new streams.
func (s *readers) announce(list []store.Joined) {
	for _, j := range list {
		for _, f := range s.feedsOf(j.Device) {
			f.add(j.Reader)
		}
	}
}

// gone handles a reader that its stream does not know. A reader that is still joining stays.
func (s *readers) gone(ctx context.Context, d wire.DeviceID, r store.Reader) error {
	since, err := s.since(ctx, d, r)
	if err != nil || s.now().Sub(since.Std()) < settleTime {
		return err
	}
	return s.kept.Drop(ctx, d, r)
}

// since returns when a device joined a stream, or wire.UnknownConversation if the device does not read it.
func (s *readers) since(ctx context.Context, d wire.DeviceID, r store.Reader) (wire.Time, error) {
	since, ok, err := s.kept.Since(ctx, d, r)
	if err == nil && !ok {
		err = wire.Errorf(wire.UnknownConversation, "read", "%s does not read %v under this address", d, r.Conversation)
	}
	return since, err
}

// elsewhere reports whether a device reads another conversation under an address.
func (s *readers) elsewhere(ctx context.Context, d wire.DeviceID, token wire.Token, id wire.ConversationID) (bool, error) {
	list, err := s.kept.Of(ctx, d)
	for _, r := range list {
		if r.Token == token && r.Conversation != id {
			return true, err
		}
	}
	return false, err
}

// reading reports whether an open session of a device reads a stream.
func (s *readers) reading(d wire.DeviceID, r store.Reader) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.feeds[d] {
		if f.has(r) {
			return true
		}
	}
	return false
}

func (s *readers) open(d wire.DeviceID, f *feed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.feeds[d] == nil {
		s.feeds[d] = make(map[*feed]bool)
	}
	s.feeds[d][f] = true
}

func (s *readers) close(d wire.DeviceID, f *feed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.feeds[d], f)
	if len(s.feeds[d]) == 0 {
		delete(s.feeds, d)
	}
}

func (s *readers) feedsOf(d wire.DeviceID) []*feed {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*feed
	for f := range s.feeds[d] {
		list = append(list, f)
	}
	return list
}
