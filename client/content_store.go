package client

import (
	"bytes"
	"crypto/sha256"
	"fmt"

	"github.com/mlsfed/mlsfed/content/timeline"
	"github.com/mlsfed/mlsfed/wire"
)

// Records about contents. Each key has the id of the oldest conversation in the line: see conversation.oldest.
const (
	recordState     = 'M' // conversation, ContentID → timeline.State
	recordLink      = 'L' // conversation, ContentID, user's hash, ContentID of a reaction → linkRecord
	recordWaits     = 'W' // conversation, user's hash, number → waitsRecord
	recordContents  = 'J' // conversation → contentsRecord
	recordUnindexed = 'F' // conversation → number of the next message that gets a state
	recordEnds      = 'E' // time in seconds, conversation, ContentID → 1: something ends then
	recordEnding    = 'D' // conversation, number → ContentID of an unread message that ends some time after reading
)

// contentsRecord exists once a conversation has contents that concern others. From then on each message has a state.
type contentsRecord struct {
	Version uint8  `cbor:"1,keyasint"`
	Waits   uint64 `cbor:"2,keyasint,omitempty"` // the number of the next waitsRecord
	Posting uint64 `cbor:"3,keyasint,omitempty"` // own messages end so many seconds after reading; 0 for never
	Indexed bool   `cbor:"4,keyasint,omitempty"` // messages get states
}

// linkRecord is a timeline.Link.
type linkRecord struct {
	_      struct{} `cbor:",toarray"`
	Sender string
	Via    ContentID
}

// waitsRecord says that contents of a user wait for a message that has not come.
type waitsRecord struct {
	_      struct{} `cbor:",toarray"`
	Sender string
	On     ContentID
	Size   uint64
}

// Bounds of the contents of one user that wait for messages which have not come. A new member gets edits of messages
// from before it joined, and these wait in vain: a further content displaces the oldest one.
const (
	maxWaits     = 64
	maxWaitBytes = 1 << 20
)

// states implements timeline.Store for one conversation in one turn.
type states struct {
	t    *conversation
	root ConversationID
}

func (t *conversation) states() (*states, error) {
	root, err := t.oldest()
	return &states{t: t, root: root}, err
}

func userHash(user string) []byte {
	sum := sha256.Sum256([]byte(user))
	return sum[:8]
}

func (s *states) stateKey(id ContentID) []byte { return recordKey(recordState, idPart(s.root), id[:]) }

func (s *states) linkKey(target ContentID, l timeline.Link) []byte {
	return recordKey(recordLink, idPart(s.root), target[:], userHash(l.Sender), l.ID[:])
}

// Load implements timeline.Store.
func (s *states) Load(id ContentID) (timeline.State, error) {
	var have timeline.State
	_, err := s.t.u.getRecord(s.stateKey(id), &have)
	return have, err
}

// Save implements timeline.Store. It also erases the message of the history, and notes when something ends.
func (s *states) Save(id ContentID, have *timeline.State) error {
	if have == nil {
		s.t.u.delete(s.stateKey(id))
		return nil
	}
	if have.Erased && have.Place > 0 {
		if err := s.t.eraseMessage(have.Place - 1); err != nil {
			return err
		}
		s.t.u.delete(recordKey(recordEnding, idPart(s.root), number(have.Place-1)))
	}
	if due := have.Due(); due > 0 {
		s.t.u.put(recordKey(recordEnds, number(due), idPart(s.root), id[:]), []byte{1})
		s.t.u.then(func() { s.t.d.queues.kick(queueContents) })
	}
	return s.t.u.putRecord(s.stateKey(id), have)
}

// Links implements timeline.Store.
func (s *states) Links(target ContentID, sender string) (list []timeline.Link, err error) {
	prefix := recordKey(recordLink, idPart(s.root), target[:])
	part := prefix
	if sender != "" {
		part = append(bytes.Clone(prefix), userHash(sender)...)
	}
	return list, s.t.u.Scan(part, func(key, value []byte) error {
		var r linkRecord
		if err := wire.Decode(value, maxRecord, &r); err != nil {
			return err
		}
		id := key[len(prefix)+8:]
		if len(id) != len(ContentID{}) {
			return fmt.Errorf("record of a reaction with a key of %d bytes", len(key))
		}
		if sender == "" || r.Sender == sender {
			list = append(list, timeline.Link{ID: ContentID(id), Sender: r.Sender, Via: r.Via})
		}
		return nil
	})
}

// PutLink implements timeline.Store.
func (s *states) PutLink(target ContentID, l timeline.Link) error {
	return s.t.u.putRecord(s.linkKey(target, l), &linkRecord{Sender: l.Sender, Via: l.Via})
}

// DropLink implements timeline.Store.
func (s *states) DropLink(target ContentID, l timeline.Link) error {
	s.t.u.delete(s.linkKey(target, l))
	return nil
}

func (s *states) contents() (*contentsRecord, error) {
	r := &contentsRecord{Version: recordVersion}
	_, err := s.t.u.getRecord(recordKey(recordContents, idPart(s.root)), r)
	return r, err
}

func (s *states) putContents(r *contentsRecord) error {
	return s.t.u.putRecord(recordKey(recordContents, idPart(s.root)), r)
}

// hold counts a content of a user that waits for a message, and drops the user's oldest ones beyond the bounds.
func (s *states) hold(sender string, on ContentID, size int) error {
	c, err := s.contents()
	if err != nil {
		return err
	}
	type waiting struct {
		key []byte
		waitsRecord
	}
	var list []waiting
	total := uint64(size)
	prefix := recordKey(recordWaits, idPart(s.root), userHash(sender))
	err = s.t.u.Scan(prefix, func(key, value []byte) error {
		w := waiting{key: bytes.Clone(key)}
		if err := wire.Decode(value, maxRecord, &w.waitsRecord); err != nil {
			return err
		}
		list = append(list, w)
		total += w.Size
		return nil
	})
	if err != nil {
		return err
	}
	for len(list) > 0 && (len(list) >= maxWaits || total > maxWaitBytes) {
		if err := timeline.Drop(s, list[0].On, list[0].Sender); err != nil {
			return err
		}
		s.t.u.delete(list[0].key)
		total -= list[0].Size
		list = list[1:]
	}
	key := append(prefix, number(c.Waits)...)
	c.Waits++
	if err := s.putContents(c); err != nil {
		return err
	}
	return s.t.u.putRecord(key, &waitsRecord{Sender: sender, On: on, Size: uint64(size)})
}

// eraseMessage erases the content of a message of the history. The record remains, so that numbers stay the same.
func (t *conversation) eraseMessage(n uint64) error {
	rec, key, err := t.messageAt(n)
	if err != nil || rec == nil || len(rec.Content) == 0 {
		return err
	}
	rec.Content = []byte{}
	return t.u.putRecord(key, rec)
}
