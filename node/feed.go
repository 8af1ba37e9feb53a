package node

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/mlsfed/mlsfed/clock"
	"github.com/mlsfed/mlsfed/gateway"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// mail hands the streams of the mailbox to sessions. A device is known to a stream by its tokens.
type mail struct {
	box     *mailbox.Mailbox
	streams *streams
	clock   *clock.Clock
}

var _ gateway.Mail = (*mail)(nil)

// Open begins to read for a device.
func (m *mail) Open(ctx context.Context, d wire.DeviceID) (gateway.Feed, error) {
	f := &feed{m: m, device: d, sub: m.box.Subscribe(), by: make(map[mailbox.Stream][]gateway.Stream)}
	m.streams.open(d, f) // before the list is read, so that what comes meanwhile is not missed
	list, err := m.streams.of(d)
	if err == nil {
		err = m.inbox(ctx, d)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	f.addInbox()
	for _, r := range list {
		f.add(r)
	}
	return f, nil
}

// inbox makes sure that a device has one.
func (m *mail) inbox(ctx context.Context, d wire.DeviceID) error {
	_, _, err := m.box.Cursor(ctx, mailbox.Inbox(d), mailbox.Owner())
	if wire.CodeOf(err) == wire.UnknownConversation {
		return m.box.Change(ctx, mailbox.Inbox(d), []wire.Token{mailbox.Owner()}, nil)
	}
	return err
}

// Acknowledge takes what a device has read.
func (m *mail) Acknowledge(ctx context.Context, d wire.DeviceID, a wire.Ack) error {
	if a.Conversation == nil {
		return m.box.Acknowledge(ctx, mailbox.Inbox(d), mailbox.Owner(), a.Sequence)
	}
	r := reader{*a.Conversation, a.Token}
	if _, err := m.streams.since(d, r); err != nil {
		return err
	}
	return m.box.Acknowledge(ctx, mailbox.Conversation(r.Conversation), r.Token, a.Sequence)
}

// feed is what one session reads.
type feed struct {
	m      *mail
	device wire.DeviceID
	sub    *mailbox.Subscription

	mu     sync.Mutex // guards what follows
	by     map[mailbox.Stream][]gateway.Stream
	closed bool
}

func (f *feed) addInbox() {
	f.mu.Lock()
	f.by[mailbox.Inbox(f.device)] = []gateway.Stream{{}}
	f.mu.Unlock()
	f.sub.Add(mailbox.Inbox(f.device))
}

// add begins to watch a stream. Adding twice is adding once.
func (f *feed) add(r reader) {
	name := mailbox.Conversation(r.Conversation)
	s := gateway.Stream{Conversation: r.Conversation, Token: r.Token}
	f.mu.Lock()
	known := f.closed
	for _, have := range f.by[name] {
		known = known || have == s
	}
	again := !known && len(f.by[name]) > 0
	if !known {
		f.by[name] = append(f.by[name], s)
	}
	f.mu.Unlock()
	switch {
	case known:
	case again: // the device reads it under another address already: Add would not signal
		f.sub.Drop(name)
		fallthrough
	default:
		f.sub.Add(name)
	}
}

// Ready receives when Streams has something to say.
func (f *feed) Ready() <-chan struct{} { return f.sub.C }

// Streams are those with something new.
func (f *feed) Streams() []gateway.Stream {
	names := f.sub.Ready()
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []gateway.Stream
	for _, name := range names {
		if len(f.by[name]) > 1 {
			f.order(name)
		}
		list = append(list, f.by[name]...)
	}
	return list
}

// order sorts the addresses under which a device reads a conversation by where they end, the one that does not end last:
// a device that was removed and added again needs what came in one membership before what came in the next. The caller
// holds mu.
func (f *feed) order(name mailbox.Stream) {
	ends := make(map[gateway.Stream]uint64)
	for _, s := range f.by[name] {
		until, err := f.m.box.Until(context.Background(), name, s.Token)
		if err == nil && until > 0 {
			ends[s] = until
		} else {
			ends[s] = ^uint64(0)
		}
	}
	slices.SortStableFunc(f.by[name], func(a, b gateway.Stream) int { return cmp.Compare(ends[a], ends[b]) })
}

// Read returns what follows a sequence, or the device's cursor.
func (f *feed) Read(ctx context.Context, s gateway.Stream, after uint64, limit gateway.Limit) (gateway.Page, error) {
	name, token := mailbox.Inbox(f.device), mailbox.Owner()
	if s != (gateway.Stream{}) {
		name, token = mailbox.Conversation(s.Conversation), s.Token
	}
	page, err := f.read(ctx, name, token, after, limit)
	if wire.CodeOf(err) == wire.UnknownConversation {
		err = f.left(s, err)
	}
	return page, err
}

func (f *feed) read(ctx context.Context, name mailbox.Stream, token wire.Token, after uint64, limit gateway.Limit) (gateway.Page, error) {
	if after == 0 {
		acked, _, err := f.m.box.Cursor(ctx, name, token)
		if err != nil {
			return gateway.Page{}, err
		}
		after = acked
	}
	page, err := f.m.box.Read(ctx, name, token, after, mailbox.Limit{Items: limit.Items, Bytes: limit.Bytes})
	if err != nil {
		return gateway.Page{}, err
	}
	out := gateway.Page{More: page.More, Pushes: make([]wire.Push, 0, len(page.Items)+1)}
	if g := page.Gap; g != nil {
		out.Pushes = append(out.Pushes, wire.Push{Sequence: g.To, GapFrom: g.From})
	}
	for _, i := range page.Items {
		out.Pushes = append(out.Pushes, wire.Push{
			Sequence: i.Sequence, Kind: wire.ItemKind(i.Kind), ID: i.ID, Time: shown(f.m.clock, i.Time), Payload: i.Payload,
		})
	}
	return out, nil
}

// left forgets a stream that the device does not read any longer: it has acknowledged its last item.
func (f *feed) left(s gateway.Stream, cause error) error {
	if s == (gateway.Stream{}) {
		return cause // an inbox without a stream yet
	}
	name := mailbox.Conversation(s.Conversation)
	f.mu.Lock()
	kept := f.by[name][:0]
	for _, have := range f.by[name] {
		if have != s {
			kept = append(kept, have)
		}
	}
	f.by[name] = kept
	if len(kept) == 0 {
		delete(f.by, name)
	}
	f.mu.Unlock()
	if len(kept) == 0 {
		f.sub.Drop(name)
	}
	if err := f.m.streams.gone(f.device, reader{s.Conversation, s.Token}); err != nil {
		return err
	}
	return cause
}

// Close ends the feed.
func (f *feed) Close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.m.streams.close(f.device, f)
	f.sub.Close()
}
