package node

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/mlsfed/mlsfed/gateway"
	"github.com/mlsfed/mlsfed/internal/clock"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/wire"
)

// feeds gives sessions the streams of the mailbox. A stream knows a device by its tokens.
type feeds struct {
	box     mailbox.Box
	readers *readers
	clock   *clock.Clock
}

var _ gateway.Feeds = (*feeds)(nil)

// Open returns a feed that reads for a device.
func (m *feeds) Open(ctx context.Context, d wire.DeviceID) (gateway.Feed, error) {
	f := &feed{m: m, device: d, sub: m.box.Subscribe(), by: make(map[mailbox.Stream][]gateway.Stream)}
	m.readers.open(d, f) // before the list is read, so that a stream which comes meanwhile is not missed
	list, err := m.readers.kept.Of(ctx, d)
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

// inbox makes sure that a device has an inbox.
func (m *feeds) inbox(ctx context.Context, d wire.DeviceID) error {
	at, err := m.box.ReaderStates(ctx, mailbox.Reader{Stream: mailbox.Inbox(d), Token: mailbox.Owner()})
	if err != nil || at[0].Known {
		return err
	}
	return m.box.Change(ctx, mailbox.Inbox(d), []wire.Token{mailbox.Owner()}, nil)
}

// Acknowledge records what devices have read.
func (m *feeds) Acknowledge(ctx context.Context, list []gateway.Acknowledgement) []error {
	errs := make([]error, len(list))
	acks, of, apart := make([]mailbox.Ack, 0, len(list)), make([]int, 0, len(list)), []int(nil)
	for i := range list {
		if r, known := m.readerOf(&list[i]); known {
			acks, of = append(acks, mailbox.Ack{Reader: r, Sequence: list[i].Sequence}), append(of, i)
		} else {
			apart = append(apart, i)
		}
	}
	if len(acks) > 0 && m.box.Acknowledge(ctx, acks...) != nil {
		apart = append(apart, of...) // each call returns the refusal of its own acknowledgement
	}
	// These run together, and the mailbox writes many of them at once. Otherwise one device with refused
	// acknowledgements would delay those of all others.
	var all sync.WaitGroup
	places := make(chan struct{}, maxApart)
	for _, i := range apart {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			errs[i] = m.acknowledge(ctx, &list[i])
		})
	}
	all.Wait()
	return errs
}

// maxApart is the number of acknowledgements that are stored individually at the same time.
const maxApart = 32

// acknowledge stores one acknowledgement.
func (m *feeds) acknowledge(ctx context.Context, a *gateway.Acknowledgement) error {
	r, known := m.readerOf(a)
	if !known {
		if _, err := m.readers.since(ctx, a.Device, store.Reader{Conversation: *a.Conversation, Token: a.Token}); err != nil {
			return err
		}
	}
	return m.box.Acknowledge(ctx, mailbox.Ack{Reader: r, Sequence: a.Sequence})
}

// readerOf returns the reader that a device acknowledges as. known reports that an open session of the device reads the
// stream, so that no look-up on disk is needed.
func (m *feeds) readerOf(a *gateway.Acknowledgement) (r mailbox.Reader, known bool) {
	if a.Conversation == nil {
		return mailbox.Reader{Stream: mailbox.Inbox(a.Device), Token: mailbox.Owner()}, true
	}
	of := store.Reader{Conversation: *a.Conversation, Token: a.Token}
	return inStream(of), m.readers.reading(a.Device, of)
}

// feed holds the streams that one session reads.
type feed struct {
	m      *feeds
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
func (f *feed) add(r store.Reader) {
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

// has reports whether the feed reads a stream.
func (f *feed) has(r store.Reader) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(f.by[mailbox.Conversation(r.Conversation)], gateway.Stream{Conversation: r.Conversation, Token: r.Token})
}

// Ready returns a channel that receives when Streams has streams to return.
func (f *feed) Ready() <-chan struct{} { return f.sub.C }

// Streams returns the streams with new items.
func (f *feed) Streams(ctx context.Context) []gateway.Stream {
	names := f.sub.Ready()
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []gateway.Stream
	for _, name := range names {
		if len(f.by[name]) > 1 {
			f.order(ctx, name)
		}
		list = append(list, f.by[name]...)
	}
	return list
}

// order sorts the addresses under which a device reads a conversation by where they end, the one that does not end
// last: a device that was removed and added again needs what came in one membership before what came in the next. The
// caller holds mu.
func (f *feed) order(ctx context.Context, name mailbox.Stream) {
	list := f.by[name]
	readers := make([]mailbox.Reader, len(list))
	for i, s := range list {
		readers[i] = mailbox.Reader{Stream: name, Token: s.Token}
	}
	at, err := f.m.box.ReaderStates(ctx, readers...)
	ends := make(map[gateway.Stream]uint64)
	for i, s := range list {
		if ends[s] = ^uint64(0); err == nil && at[i].Until > 0 {
			ends[s] = at[i].Until
		}
	}
	slices.SortStableFunc(list, func(a, b gateway.Stream) int { return cmp.Compare(ends[a], ends[b]) })
}

// Read returns what follows a sequence, or the device's cursor.
func (f *feed) Read(ctx context.Context, s gateway.Stream, after uint64, limit gateway.Limit) (gateway.Page, error) {
	name, token := mailbox.Inbox(f.device), mailbox.Owner()
	if s != (gateway.Stream{}) {
		name, token = mailbox.Conversation(s.Conversation), s.Token
	}
	page, err := f.read(ctx, name, token, after, limit)
	if wire.CodeOf(err) == wire.UnknownConversation {
		err = f.left(ctx, s, err)
	}
	return page, err
}

func (f *feed) read(ctx context.Context, name mailbox.Stream, token wire.Token, after uint64, limit gateway.Limit) (gateway.Page, error) {
	if after == 0 {
		at, err := f.m.box.ReaderStates(ctx, mailbox.Reader{Stream: name, Token: token})
		if err != nil {
			return gateway.Page{}, err
		}
		after = at[0].Acknowledged // 0 for an unknown reader: Read refuses it
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

// left forgets a stream that the device no longer reads, since the device has acknowledged its last item.
func (f *feed) left(ctx context.Context, s gateway.Stream, cause error) error {
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
	if err := f.m.readers.gone(ctx, f.device, store.Reader{Conversation: s.Conversation, Token: s.Token}); err != nil {
		return err
	}
	return cause
}

// Close ends the feed.
func (f *feed) Close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.m.readers.close(f.device, f)
	f.sub.Close()
}
