package mlscore

import (
	"errors"
	"fmt"
	"time"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// pastRecord holds the data of an ended epoch that late messages need.
type pastRecord struct {
	context    []byte // encoded
	height     int    // of the tree
	senderData Secret
	leaves     []leafChange // the leaves of this epoch that differ in the next epoch
	ended      time.Time    // in seconds; zero in records of version 1, which do not have it
}

const pastVersion = 2

func (p *pastRecord) marshal() []byte {
	var w codec.Writer
	if p.ended.IsZero() {
		w.Uint8(stateVersion)
	} else {
		w.Uint8(pastVersion)
	}
	w.Bytes(p.context)
	w.Uint8(uint8(p.height))
	w.Bytes(p.senderData.Bytes())
	w.Vector(func(w *codec.Writer) {
		for _, c := range p.leaves {
			w.Uint32(uint32(c.index))
			w.String(c.body)
		}
	})
	if !p.ended.IsZero() {
		w.Uint64(uint64(p.ended.Unix()))
	}
	return w.Buffer()
}

func parsePastRecord(b []byte) (*pastRecord, error) {
	r := codec.NewReader(b, ownLimits(b))
	version := checkVersion(r, pastVersion)
	p := &pastRecord{context: r.Bytes(), height: readHeight(r), senderData: NewSecret(r.Bytes())}
	r.Vector(func(r *codec.Reader) {
		p.leaves = append(p.leaves, leafChange{LeafIndex(r.Uint32()), string(r.Bytes())})
	})
	if version > stateVersion {
		if p.ended = time.Unix(int64(r.Uint64()), 0); p.ended.IsZero() {
			r.Fail(errors.New("the epoch ended at no time"))
		}
	}
	return p, malformed("stored past epoch", r.Finish())
}

// pendingRecord holds an own commit with the secrets of the epoch that the commit leads to. The public state of that
// epoch is computed again from the commit.
type pendingRecord struct {
	message    []byte // the message that was sent
	content    []byte // AuthenticatedContent
	head       []byte // headRecord of the next epoch
	encryption Secret // root of its secret tree
}

func (p *pendingRecord) marshal() ([]byte, error) {
	var w codec.Writer
	w.Uint8(stateVersion)
	w.Bytes(p.message)
	w.Bytes(p.content)
	w.Bytes(p.head)
	w.Bytes(p.encryption.Bytes())
	b, err := w.Finish()
	return b, malformed("pending commit", err)
}

func parsePendingRecord(b []byte) (*pendingRecord, error) {
	r := codec.NewReader(b, ownLimits(b))
	checkVersion(r, stateVersion)
	p := &pendingRecord{message: r.Bytes(), content: r.Bytes(), head: r.Bytes(), encryption: NewSecret(r.Bytes())}
	return p, malformed("stored commit", r.Finish())
}

func (u *ownUpdate) marshal() []byte {
	var w codec.Writer
	w.Uint8(stateVersion)
	w.Bytes(u.leafKey.Bytes())
	w.Bytes(u.signer.Bytes())
	return w.Buffer()
}

func parseOwnUpdate(b []byte) (*ownUpdate, error) {
	r := codec.NewReader(b, ownLimits(b))
	checkVersion(r, stateVersion)
	u := &ownUpdate{NewSecret(r.Bytes()), NewSecret(r.Bytes())}
	return u, malformed("stored update", r.Finish())
}

func marshalRatchet(secret Secret, generation uint32) []byte {
	var w codec.Writer
	w.Uint32(generation)
	w.Bytes(secret.Bytes())
	return w.Buffer()
}

func parseRatchet(b []byte) (*ratchet, error) {
	r := codec.NewReader(b, ownLimits(b))
	entry := &ratchet{generation: r.Uint32(), secret: NewSecret(r.Bytes()), skipped: map[uint32]messageKey{}}
	return entry, malformed("stored ratchet", r.Finish())
}

// marshal encodes the key without its generation, which is in the record's key.
func (k messageKey) marshal() []byte {
	var w codec.Writer
	w.Bytes(k.key.Bytes())
	w.Bytes(k.nonce.Bytes())
	return w.Buffer()
}

func (s *suite) parseMessageKey(generation uint32, b []byte) (messageKey, error) {
	r := codec.NewReader(b, ownLimits(b))
	k := messageKey{generation, NewSecret(r.Bytes()), NewSecret(r.Bytes())}
	if r.Err() == nil && (k.key.Len() != s.keyLen() || k.nonce.Len() != s.nonceLen()) {
		r.Fail(fmt.Errorf("key of %d bytes and nonce of %d, not %d and %d", k.key.Len(), k.nonce.Len(), s.keyLen(), s.nonceLen()))
	}
	return k, malformed("stored message key", r.Finish())
}

// ownLimits returns limits that allow a record of this client of any size.
func ownLimits(b []byte) codec.Limits { return codec.Limits{Bytes: len(b), Count: len(b)} }

// readHeight reads the height of a tree.
func readHeight(r *codec.Reader) int {
	height := int(r.Uint8())
	if height > heightFor(maxLeaves) {
		r.Fail(fmt.Errorf("tree of height %d", height))
	}
	return height
}

// checkStored refuses a stored secret that does not have the length of a hash: nothing can be derived from it.
func (s *suite) checkStored(what string, secret Secret) error {
	if secret.Len() != s.hashLen() {
		return fail(ErrMalformed, "", what, "%d bytes, not %d", secret.Len(), s.hashLen())
	}
	return nil
}
