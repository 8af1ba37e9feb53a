package client

import (
	"context"
	"errors"
	"time"

	"github.com/mlsfed/mlsfed/content/timeline"
	"github.com/mlsfed/mlsfed/wire"
)

const (
	endBatch   = 64             // messages that end in one turn
	endLongest = 24 * time.Hour // the longest wait for an end; then the clock is looked at again
)

// errEnough ends a scan.
var errEnough = errors.New("enough")

// workContents gives messages their states, and erases what has ended. It returns later if something will end.
func (d *Device) workContents(ctx context.Context) error {
	for more := true; more; {
		err := d.turn(ctx, func(u *unit) (err error) {
			more, err = d.indexContents(u)
			return err
		})
		if err != nil {
			return err
		}
	}
	for {
		wait, more := time.Duration(0), false
		err := d.turn(ctx, func(u *unit) (err error) {
			wait, more, err = d.endContents(u)
			return err
		})
		switch {
		case err != nil:
			return err
		case wait > 0:
			return later(min(wait, endLongest))
		case !more:
			return nil
		}
	}
}

// indexContents gives a batch of messages of one conversation their states.
func (d *Device) indexContents(u *unit) (more bool, err error) {
	prefix := recordKey(recordUnindexed)
	var root ConversationID
	err = u.Scan(prefix, func(key, _ []byte) error {
		root = wire.ConversationID(key[len(prefix)+1:])
		return errEnough
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	if err != nil || root == "" {
		return false, err
	}
	s, err := d.statesOf(u, root)
	if err != nil {
		return false, err
	}
	if s == nil {
		u.delete(recordKey(recordUnindexed, idPart(root)))
		return true, nil
	}
	_, err = s.indexSome()
	return true, err
}

// statesOf returns the states of the line of conversations whose oldest one is root; nil if there is none.
func (d *Device) statesOf(u *unit, root ConversationID) (*states, error) {
	t, err := d.knownConversation(u, root)
	if wire.CodeOf(err) == wire.UnknownConversation {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &states{t: t, root: root}, nil
}

// endContents erases a batch of what has ended. wait is the time until the next end; more reports that other ends have
// passed.
func (d *Device) endContents(u *unit) (wait time.Duration, more bool, err error) {
	type due struct {
		key  []byte
		root ConversationID
		id   ContentID
	}
	now := d.nowSeconds()
	prefix := recordKey(recordEnds)
	var list []due
	err = u.Scan(prefix, func(key, _ []byte) error {
		rest := key[len(prefix):]
		at := parseNumber(rest[:8])
		if at > now {
			wait = time.Duration(min(at-now, uint64(endLongest/time.Second))) * time.Second
			return errEnough
		}
		if more = len(list) == endBatch; more {
			return errEnough
		}
		n := int(rest[8])
		list = append(list, due{append([]byte{}, key...), wire.ConversationID(rest[9 : 9+n]), ContentID(rest[9+n:])})
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return 0, false, err
	}
	for _, e := range list {
		u.delete(e.key)
		s, err := d.statesOf(u, e.root)
		if err != nil {
			return 0, false, err
		}
		if s == nil {
			continue
		}
		if err := s.end(e.id, now); err != nil {
			return 0, false, err
		}
	}
	if len(list) > 0 {
		wait, more = 0, true // erasing may have noted other ends
	}
	return wait, more, nil
}

// end erases what has ended of a message, and reports it.
func (s *states) end(id ContentID, now uint64) error {
	done, err := timeline.Expire(s, id, now)
	if err != nil || !done {
		return err
	}
	have, err := s.Load(id)
	if err != nil {
		return err
	}
	if have.Role == timeline.Reaction {
		root, err := timeline.Root(s, have.Target)
		if err != nil {
			return err
		}
		return s.t.changed(s, root, ChangeUnreaction, "")
	}
	return s.t.changed(s, id, ChangeExpiry, "")
}

// beginEnds makes the messages with numbers below next that end some time after reading end at that time.
func (t *conversation) beginEnds(next uint64) error {
	s, err := t.states()
	if err != nil {
		return err
	}
	prefix := recordKey(recordEnding, idPart(s.root))
	type found struct {
		key []byte
		id  ContentID
	}
	var list []found
	err = t.u.Scan(prefix, func(key, value []byte) error {
		if parseNumber(key[len(prefix):]) >= next {
			return errEnough
		}
		if len(value) == len(ContentID{}) {
			list = append(list, found{append([]byte{}, key...), ContentID(value)})
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	for _, f := range list {
		t.u.delete(f.key)
		if _, err := timeline.Read(s, f.id, t.d.nowSeconds()); err != nil {
			return err
		}
	}
	return nil
}
