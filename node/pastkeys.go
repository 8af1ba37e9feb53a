package node

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/wire"
)

// pastKeys keeps the submission keys of a conversation's epochs, of which the log's state knows the last two
// only: messages that another organization accepted in an epoch before are verified with them. Delivery notes
// each key with the entry that opens its epoch, on disk before that entry is in the stream.
//
// Keys are prefix, conversation with its length before it, epoch, entry; values are submission keys. A record
// without an epoch says that the entries which the log still has were searched: those of before this build.
type pastKeys struct {
	db     *pebble.DB
	prefix []byte
	most   uint64 // epochs of one conversation, the newest
	log    func(id wire.ConversationID) ([]wire.Committed, error)
}

// maxBranches bounds the keys of one epoch: those of the newest branches. Each costs one verification of a
// message of that epoch.
const maxBranches = 8

func (p *pastKeys) of(id wire.ConversationID, numbers ...uint64) []byte {
	key := append(append([]byte{}, p.prefix...), byte(len(id)))
	key = append(key, id...)
	for _, n := range numbers {
		key = binary.BigEndian.AppendUint64(key, n)
	}
	return key
}

// opens is the epoch that an entry opens and its submission key, false for an entry that opens none.
func opens(e *wire.Entry) (wire.Epoch, wire.SubmissionKey, bool) {
	switch {
	case e.Envelope == nil:
	case e.Envelope.Create != nil:
		return 0, e.Envelope.Create.Key, true
	case e.Envelope.Commit != nil:
		return e.Envelope.Epoch + 1, e.Envelope.Commit.Key, true
	}
	return 0, wire.SubmissionKey{}, false
}

// note keeps the key that an entry brings, and forgets what is too old. It does not wait for the disk: what
// is written after it and waits is on disk no earlier.
func (p *pastKeys) note(id wire.ConversationID, seq wire.SequenceNumber, e *wire.Entry) error {
	epoch, key, ok := opens(e)
	if !ok {
		return nil
	}
	b := p.db.NewBatch()
	defer b.Close()
	if epoch == 0 { // this build has all keys of the conversation
		if err := b.Set(p.of(id), nil, nil); err != nil {
			return fmt.Errorf("keys of past epochs: %w", err)
		}
	}
	if err := b.Set(p.of(id, uint64(epoch), uint64(seq)), key[:], nil); err != nil {
		return fmt.Errorf("keys of past epochs: %w", err)
	}
	have, err := p.branches(id, epoch)
	if err == nil && len(have) >= maxBranches {
		err = b.Delete(have[0].key, nil)
	}
	if err == nil && uint64(epoch) >= p.most {
		err = p.prune(b, id, uint64(epoch)-p.most+1)
	}
	if err == nil {
		err = b.Commit(pebble.NoSync)
	}
	if err != nil {
		return fmt.Errorf("keys of past epochs: %w", err)
	}
	return nil
}

// prune stages the removal of keys before an epoch, a few at a time.
func (p *pastKeys) prune(b *pebble.Batch, id wire.ConversationID, before uint64) error {
	it, err := p.db.NewIter(&pebble.IterOptions{LowerBound: p.of(id, 0), UpperBound: p.of(id, before)})
	if err != nil {
		return err
	}
	n := 0
	for it.First(); it.Valid() && n < 4*maxBranches; it.Next() {
		if err := b.Delete(it.Key(), nil); err != nil {
			return errors.Join(err, it.Close())
		}
		n++
	}
	return errors.Join(it.Error(), it.Close())
}

type branch struct {
	key  []byte // of the record
	open wire.SubmissionKey
}

// branches are the keys of one epoch, the oldest first.
func (p *pastKeys) branches(id wire.ConversationID, epoch wire.Epoch) ([]branch, error) {
	prefix := p.of(id, uint64(epoch))
	it, err := p.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return nil, fmt.Errorf("keys of past epochs: %w", err)
	}
	var list []branch
	for it.First(); it.Valid(); it.Next() {
		v := branch{key: append([]byte{}, it.Key()...)}
		if copy(v.open[:], it.Value()) != ed25519.PublicKeySize {
			return nil, errors.Join(fmt.Errorf("keys of past epochs: value of %d bytes", len(it.Value())), it.Close())
		}
		list = append(list, v)
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return nil, fmt.Errorf("keys of past epochs: %w", err)
	}
	return list, nil
}

// verify checks a message of a past epoch. known is false where no key of that epoch is kept.
func (p *pastKeys) verify(m *wire.Message) (known, signed bool, err error) {
	list, err := p.branches(m.Conversation, m.Epoch)
	if err == nil && len(list) == 0 {
		if err = p.search(m.Conversation); err == nil {
			list, err = p.branches(m.Conversation, m.Epoch)
		}
	}
	for i := len(list) - 1; i >= 0 && err == nil && !signed; i-- {
		signed = m.Verify(list[i].open)
	}
	return len(list) > 0, signed, err
}

// search notes the keys of the entries that the log still has, once for a conversation.
func (p *pastKeys) search(id wire.ConversationID) error {
	_, closer, err := p.db.Get(p.of(id))
	if err == nil {
		return closer.Close()
	}
	if !errors.Is(err, pebble.ErrNotFound) {
		return fmt.Errorf("keys of past epochs: %w", err)
	}
	list, err := p.log(id)
	if err != nil {
		return err
	}
	for i := range list {
		e, err := list[i].Open()
		if err == nil {
			err = p.note(id, list[i].Sequence, e)
		}
		if err != nil {
			return err
		}
	}
	if err := p.db.Set(p.of(id), nil, pebble.NoSync); err != nil {
		return fmt.Errorf("keys of past epochs: %w", err)
	}
	return nil
}

// forget drops the keys of one conversation.
func (p *pastKeys) forget(id wire.ConversationID) error {
	if err := p.db.DeleteRange(p.of(id), after(p.of(id)), pebble.NoSync); err != nil {
		return fmt.Errorf("keys of past epochs: %w", err)
	}
	return nil
}

// sweep forgets the keys of conversations that are no longer held here.
func (p *pastKeys) sweep(held []wire.ConversationID) error {
	here := make(map[wire.ConversationID]bool, len(held))
	for _, id := range held {
		here[id] = true
	}
	it, err := p.db.NewIter(&pebble.IterOptions{LowerBound: p.prefix, UpperBound: after(p.prefix)})
	if err != nil {
		return fmt.Errorf("keys of past epochs: %w", err)
	}
	defer it.Close()
	for it.First(); it.Valid(); {
		rest := it.Key()[len(p.prefix):]
		if len(rest) == 0 || len(rest) < 1+int(rest[0]) {
			return fmt.Errorf("keys of past epochs: key of %d bytes", len(it.Key()))
		}
		id := wire.ConversationID(rest[1 : 1+int(rest[0])])
		end := after(p.of(id))
		if !here[id] {
			if err := p.forget(id); err != nil {
				return err
			}
		}
		it.SeekGE(end)
	}
	return it.Error()
}
