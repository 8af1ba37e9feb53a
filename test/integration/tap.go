//go:build integration

package integration

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

// A tap is between a device and its session and records the frames. The history of submissions is therefore what was
// really sent, with the times of a client, and the log is what devices received.

// submission is one handshake, with all its tries.
type submission struct {
	device   wire.DeviceID
	client   int
	envelope wire.Envelope // without the payload
	call     time.Time
	ret      time.Time
	receipt  wire.Receipt
	code     wire.Code // of a final refusal; "" for accepted
	open     bool      // no final answer: it may have been accepted, or may still be
	refusals []refusal // answers after which it was tried again
}

type refusal struct {
	at   time.Time
	code wire.Code
	text string
	lack []wire.NodeID // the nodes that a majority lacks
}

// shown is an entry as a device received it.
type shown struct {
	order    wire.Hash
	digest   [sha256.Size]byte // of the entry
	entry    []byte            // nil if it is large
	size     int               // of the entry in bytes
	envelope *wire.Envelope    // without the payload; nil for a change of replicas
	contest  bool
	at       time.Time // when the first device saw it
}

// history holds what all taps have recorded.
type history struct {
	mu     sync.Mutex // guards what follows
	ops    map[wire.SubmissionID]*submission
	list   []*submission
	logs   map[wire.ConversationID]map[wire.SequenceNumber]*shown
	faults []string // different entries that two devices received
	unread map[wire.DeviceID][]string
}

func newHistory() *history {
	return &history{
		ops: make(map[wire.SubmissionID]*submission), logs: make(map[wire.ConversationID]map[wire.SequenceNumber]*shown),
		unread: make(map[wire.DeviceID][]string),
	}
}

// bare returns an envelope without its payload.
func bare(e *wire.Envelope) wire.Envelope {
	return wire.Envelope{Conversation: e.Conversation, Submission: e.Submission, Kind: e.Kind, Epoch: e.Epoch, Parent: e.Parent}
}

func (h *history) called(d wire.DeviceID, n int, e *wire.Envelope, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ops[e.Submission] != nil {
		return
	}
	op := &submission{device: d, client: n, envelope: bare(e), call: at, open: true}
	h.ops[e.Submission] = op
	h.list = append(h.list, op)
}

func (h *history) accepted(id wire.SubmissionID, r wire.Receipt, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if op := h.ops[id]; op != nil && op.open {
		op.open, op.ret, op.receipt = false, at, r
	}
}

func (h *history) refused(id wire.SubmissionID, e *wire.Error, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	op := h.ops[id]
	if op == nil || !op.open {
		return
	}
	switch e.Code {
	case wire.NoQuorum, wire.Busy, wire.Unavailable, wire.Internal, wire.UnknownConversation, wire.NotReplica, wire.Quota, wire.BlobMissing:
		op.refusals = append(op.refusals, refusal{at: at, code: e.Code, text: e.Text, lack: e.Nodes}) // it is tried again, and may have been accepted
		return
	case wire.StaleEpoch:
		if e.Stale != nil && e.Stale.OwnPast {
			return // accepted before
		}
	}
	op.open, op.ret, op.code = false, at, e.Code
}

func (h *history) saw(d wire.DeviceID, id wire.ConversationID, c *wire.Committed, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	log := h.logs[id]
	if log == nil {
		log = make(map[wire.SequenceNumber]*shown)
		h.logs[id] = log
	}
	digest := sha256.Sum256(c.Entry)
	if have := log[c.Sequence]; have != nil {
		if have.order != c.Order || have.digest != digest {
			h.faults = append(h.faults, fmt.Sprintf("%s was shown another entry %d of %v than others", d, c.Sequence, id))
		}
		return
	}
	s := &shown{order: c.Order, digest: digest, at: at, size: len(c.Entry)}
	if len(c.Entry) <= 64<<10 {
		s.entry = slices.Clone(c.Entry)
	}
	e, err := c.Open()
	if err != nil {
		h.faults = append(h.faults, fmt.Sprintf("%s was shown an entry %d of %v that cannot be read: %v", d, c.Sequence, id, err))
		return
	}
	if e.Envelope != nil {
		b := bare(e.Envelope)
		s.envelope, s.contest = &b, e.Envelope.Commit != nil && e.Envelope.Commit.Contest
	}
	log[c.Sequence] = s
}

func (h *history) note(d wire.DeviceID, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unread[d] = append(h.unread[d], text)
}

// commits counts the accepted commits of a conversation that were answered since a time, and returns the time of the
// first of them.
func (h *history) commits(id wire.ConversationID, since time.Time, by ...wire.Domain) (count int, first time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, op := range h.list {
		if op.envelope.Conversation != id || op.envelope.Kind != wire.KindCommit || op.open || op.code != "" || op.ret.Before(since) {
			continue
		}
		if len(by) > 0 && !slices.Contains(by, op.device.Organization()) {
			continue
		}
		if count++; first.IsZero() || op.ret.Before(first) {
			first = op.ret
		}
	}
	return count, first
}

// refusals returns the refusals that the devices of an organization got for a conversation since a time.
func (h *history) refusals(id wire.ConversationID, org wire.Domain, since time.Time) []refusal {
	h.mu.Lock()
	defer h.mu.Unlock()
	var found []refusal
	for _, op := range h.list {
		if op.envelope.Conversation == id && op.device.Organization() == org {
			for _, r := range op.refusals {
				if r.at.After(since) {
					found = append(found, r)
				}
			}
		}
	}
	return found
}

// text returns the whole history, for people.
func (h *history) text() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	var b strings.Builder
	for _, fault := range h.faults {
		fmt.Fprintf(&b, "FAULT %s\n", fault)
	}
	for _, op := range h.list {
		e := &op.envelope
		result := fmt.Sprintf("entry %d at %s", op.receipt.Sequence, op.ret.UTC().Format("15:04:05.000"))
		if op.open {
			result = "open"
		} else if op.code != "" {
			result = fmt.Sprintf("%s at %s", op.code, op.ret.UTC().Format("15:04:05.000"))
		}
		fmt.Fprintf(&b, "%s %s %v %v %v epoch %d parent %d → %s\n", op.call.UTC().Format("15:04:05.000"), op.device, e.Conversation, e.Submission, e.Kind, e.Epoch, e.Parent, result)
		for _, r := range op.refusals {
			fmt.Fprintf(&b, "    %s %s: %s %v\n", r.at.UTC().Format("15:04:05.000"), r.code, r.text, r.lack)
		}
	}
	for id, log := range h.logs {
		for _, n := range sortedKeys(log) {
			fmt.Fprintf(&b, "log %v %d %v", id, n, log[n].order)
			if e := log[n].envelope; e != nil {
				fmt.Fprintf(&b, " %v %v epoch %d parent %d contest %v", e.Kind, e.Submission, e.Epoch, e.Parent, log[n].contest)
			}
			b.WriteByte('\n')
		}
	}
	for d, list := range h.unread {
		for _, text := range list {
			fmt.Fprintf(&b, "%s %s\n", d, text)
		}
	}
	return []byte(b.String())
}

func sortedKeys[K wire.SequenceNumber, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// tap is a Transport that records the frames.
type tap struct {
	client.Transport
	history *history
	device  wire.DeviceID
	number  int // of the client in the history
}

// Dial opens a connection whose frames are recorded.
func (t *tap) Dial(ctx context.Context) (client.Conn, error) {
	c, err := t.Transport.Dial(ctx)
	if err != nil {
		return nil, err
	}
	return &tapped{Conn: c, tap: t, updates: make(map[uint64]wire.SubmissionID), entries: make(map[uint64]wire.ConversationID)}, nil
}

// tapped is one connection.
type tapped struct {
	client.Conn
	tap *tap

	mu      sync.Mutex // guards what follows
	updates map[uint64]wire.SubmissionID
	entries map[uint64]wire.ConversationID
}

// Write records the device's requests.
func (c *tapped) Write(ctx context.Context, frame []byte) error {
	f := new(wire.Frame)
	if wire.Decode(frame, wire.MaxSessionFrame, f) == nil && f.Type == wire.FrameRequest {
		c.asked(f)
	}
	return c.Conn.Write(ctx, frame)
}

func (c *tapped) asked(f *wire.Frame) {
	switch f.Method {
	case wire.MethodUpdate:
		e := new(wire.Envelope)
		if wire.Decode(f.Body, wire.MaxSessionFrame, e) != nil {
			return
		}
		c.tap.history.called(c.tap.device, c.tap.number, e, time.Now())
		c.mu.Lock()
		c.updates[f.ID] = e.Submission
		c.mu.Unlock()
	case wire.MethodEntries:
		q := new(wire.EntriesRequest)
		if wire.Decode(f.Body, wire.MaxSessionFrame, q) != nil {
			return
		}
		c.mu.Lock()
		c.entries[f.ID] = q.Conversation
		c.mu.Unlock()
	}
}

// Read records the node's answers and pushes.
func (c *tapped) Read(ctx context.Context) ([]byte, error) {
	b, err := c.Conn.Read(ctx)
	if err != nil {
		return b, err
	}
	f := new(wire.Frame)
	if wire.Decode(b, wire.MaxSessionFrame, f) == nil {
		c.received(f, time.Now())
	}
	return b, nil
}

func (c *tapped) received(f *wire.Frame, now time.Time) {
	if f.Type == wire.FramePush {
		c.pushed(f.Body, now)
		return
	}
	c.mu.Lock()
	update, isUpdate := c.updates[f.ID]
	conversation, isEntries := c.entries[f.ID]
	delete(c.updates, f.ID)
	delete(c.entries, f.ID)
	c.mu.Unlock()
	switch {
	case isUpdate && f.Type == wire.FrameAnswer:
		var r wire.Receipt
		if wire.Decode(f.Body, wire.MaxSessionFrame, &r) == nil {
			c.tap.history.accepted(update, r, now)
		}
	case isUpdate && f.Type == wire.FrameError:
		e := new(wire.Error)
		if wire.Decode(f.Body, wire.MaxError, e) == nil {
			c.tap.history.refused(update, e, now)
		}
	case isEntries && f.Type == wire.FrameAnswer:
		var a wire.EntriesAnswer
		if wire.Decode(f.Body, wire.MaxSessionFrame, &a) == nil {
			for i := range a.Entries {
				c.tap.history.saw(c.tap.device, conversation, &a.Entries[i], now)
			}
		}
	}
}

func (c *tapped) pushed(body []byte, now time.Time) {
	p := new(wire.Push)
	if wire.Decode(body, wire.MaxSessionFrame, p) != nil || p.Kind != wire.ItemEntry || p.Conversation == nil {
		return
	}
	e := new(wire.Committed)
	if err := wire.Decode(p.Payload, wire.MaxSessionFrame, e); err != nil && !errors.Is(err, context.Canceled) {
		c.tap.history.note(c.tap.device, "push cannot be read: "+err.Error())
		return
	}
	c.tap.history.saw(c.tap.device, *p.Conversation, e, now)
}
