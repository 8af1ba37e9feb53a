package streams

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/wire"
)

// recountPause is how long the records are not counted again.
const recountPause = time.Minute

// mayBring refuses an item with which its sender would have too much.
func (b *commit) mayBring(p *Put) error {
	m := b.m
	if p.Sender == "" {
		return nil
	}
	have := m.senders.Of(senderTag(p.Sender))
	if have+uint64(len(p.Payload)) <= m.cfg.MaxSender {
		return nil
	}
	m.senders.Recount()
	m.cfg.Count(OverSender, 1)
	return wire.Errorf(wire.Quota, "put", "%s has %d bytes in all streams together that a device has not acknowledged, at most %d: try again when they are read", p.Sender, have, m.cfg.MaxSender)
}

// countSenders counts when the mailbox starts, and when a sender has come to the bound.
func (m *Mailbox) countSenders(ctx context.Context) error {
	for ctx.Err() == nil {
		m.senders.Begin()
		counted, err := m.countRecords(ctx)
		m.senders.End(counted)
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("count what senders have: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-m.cfg.Clock.After(recountPause):
		}
		select {
		case <-ctx.Done():
		case <-m.senders.Full:
		}
	}
	return nil
}

// countRecords reads the records of who brought what.
func (m *Mailbox) countRecords(ctx context.Context) (counted map[uint64]uint64, err error) {
	it, err := m.db.NewIter(&pebble.IterOptions{LowerBound: m.keys.of(keySent), UpperBound: m.keys.of(keySent + 1)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	counted = make(map[uint64]uint64)
	for it.First(); it.Valid(); it.Next() {
		var sender, bytes uint64
		if err := decodeNumbers("sender", it.Key(), it.Value(), &sender, &bytes); err != nil {
			return nil, err
		}
		counted[sender] += bytes
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return counted, it.Error()
}
