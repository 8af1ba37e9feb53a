package mlscore

import (
	"bytes"
	"fmt"
	"io"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// A group moves from one store to another in three steps: the new store offers to import one group (OfferImport), the
// old one moves it out to that offer (MoveOut), the new one imports it (ImportGroup). Two copies would use message
// keys twice, so there is never more than one copy: moving out deletes the group in the same write that outputs it,
// and importing consumes the offer's private key. docs/spec/state.md describes the formats.

// moveVersion is the first field of an offer and of a moved group.
const moveVersion = 1

// moveTokenLen is the length of an offer's token, which only the two devices know.
const moveTokenLen = 32

// moveLabel separates the encryption of a moved group from the encryptions of MLS (RFC 9420 §5.1.3).
const moveLabel = "mlsfed moved group"

func checkMoveVersion(r *codec.Reader) {
	if v := r.Uint8(); r.Err() == nil && v != moveVersion {
		r.Fail(fail(ErrUnsupported, "", "", "format version %d, this release reads %d", v, moveVersion))
	}
}

// importOffer is an offer to import one group.
type importOffer struct {
	suite CipherSuite
	token []byte
	pub   []byte // HPKE
}

func (o *importOffer) marshal() []byte {
	var w codec.Writer
	w.Uint8(moveVersion)
	w.Uint16(uint16(o.suite))
	w.Bytes(o.token)
	w.Bytes(o.pub)
	return w.Buffer()
}

func parseImportOffer(b []byte) (*importOffer, error) {
	r := codec.NewReader(b, ownLimits(b))
	checkMoveVersion(r)
	o := &importOffer{CipherSuite(r.Uint16()), r.Bytes(), r.Bytes()}
	if r.Err() == nil && len(o.token) != moveTokenLen {
		r.Fail(fmt.Errorf("token of %d bytes, not %d", len(o.token), moveTokenLen))
	}
	return o, malformed("import offer", r.Finish())
}

// OfferImport makes an offer to import one group of a cipher suite into this client's store, for Group.MoveOut on
// another client. The offer is valid until ImportGroup uses it or WithdrawImport ends it.
//
// The offer is a secret of the two devices. Show it as a QR code or send it over a channel that the devices
// authenticated: an attacker who sees the offer can make a group for this client to import.
func (c *Client) OfferImport(cs CipherSuite) ([]byte, error) {
	s, err := c.suite(cs)
	if err != nil {
		return nil, err
	}
	o := &importOffer{suite: cs, token: make([]byte, moveTokenLen)}
	if _, err := io.ReadFull(c.cfg.Rand, o.token); err != nil {
		return nil, fmt.Errorf("read randomness for an import offer: %w", err)
	}
	priv, pub, err := s.generateKeyPair(c.cfg.Rand)
	if err != nil {
		return nil, err
	}
	defer priv.Erase()
	o.pub = pub
	offer := o.marshal()
	var b Batch
	b.put(offerKey(s.offerRef(offer)), (&offerRecord{offer, priv}).marshal())
	defer b.erase()
	if err := applyBatch(c.cfg.Store, b); err != nil {
		return nil, err
	}
	return offer, nil
}

// WithdrawImport ends an unused offer.
func (c *Client) WithdrawImport(offer []byte) error {
	o, err := parseImportOffer(offer)
	if err != nil {
		return err
	}
	s, err := c.suite(o.suite)
	if err != nil {
		return err
	}
	var b Batch
	b.delete(offerKey(s.offerRef(offer)))
	return applyBatch(c.cfg.Store, b)
}

// offerRef returns the name of an offer in the store and in a group that is moved to it.
func (s *suite) offerRef(offer []byte) []byte { return s.refHash("mlsfed import offer", offer) }

func offerKey(ref []byte) []byte { return append([]byte{'i'}, ref...) }

// offerRecord is the stored record of an offer.
type offerRecord struct {
	offer []byte
	priv  Secret
}

func (o *offerRecord) marshal() []byte {
	var w codec.Writer
	w.Uint8(stateVersion)
	w.Bytes(o.offer)
	w.Bytes(o.priv.Bytes())
	return w.Buffer()
}

func parseOfferRecord(b []byte) (*offerRecord, error) {
	r := codec.NewReader(b, ownLimits(b))
	checkVersion(r, stateVersion)
	o := &offerRecord{r.Bytes(), NewSecret(r.Bytes())}
	return o, malformed("stored import offer", r.Finish())
}

// movedGroup is a group encrypted to an offer.
type movedGroup struct {
	suite  CipherSuite
	ref    []byte // of the offer
	sealed hpkeCiphertext
}

func (m *movedGroup) marshal() ([]byte, error) {
	var w codec.Writer
	w.Uint8(moveVersion)
	w.Uint16(uint16(m.suite))
	w.Bytes(m.ref)
	m.sealed.encode(&w)
	b, err := w.Finish()
	return b, malformed("moved group", err)
}

func parseMovedGroup(b []byte) (*movedGroup, error) {
	r := codec.NewReader(b, ownLimits(b))
	checkMoveVersion(r)
	m := &movedGroup{CipherSuite(r.Uint16()), r.Bytes(), decodeHPKECiphertext(r)}
	return m, malformed("moved group", r.Finish())
}

// movedRecords are all records of a group and of its predecessors.
type movedRecords struct {
	id      []byte
	newest  uint32 // place of the group itself; see groupName
	records []movedRecord
}

type movedRecord struct {
	place uint32
	rest  []byte // of the key, behind groupPrefix
	value []byte
}

func (m *movedRecords) marshal() ([]byte, error) {
	var w codec.Writer
	w.Bytes(m.id)
	w.Uint32(m.newest)
	w.Vector(func(w *codec.Writer) {
		for _, r := range m.records {
			w.Uint32(r.place)
			w.Bytes(r.rest)
			w.Bytes(r.value)
		}
	})
	b, err := w.Finish()
	return b, malformed("moved records", err)
}

// parseMovedRecords decodes b. The result shares the memory of b.
func parseMovedRecords(b []byte) (*movedRecords, error) {
	r := codec.NewReader(b, ownLimits(b))
	m := &movedRecords{id: r.Bytes(), newest: r.Uint32()}
	r.Vector(func(r *codec.Reader) {
		e := movedRecord{r.Uint32(), r.Bytes(), r.Bytes()}
		if r.Err() == nil && (e.place > m.newest || len(e.rest) == 0) {
			r.Fail(fmt.Errorf("a record at place %d of %d, with a key of %d bytes", e.place, m.newest, len(e.rest)))
		}
		m.records = append(m.records, e)
	})
	return m, malformed("moved records", r.Finish())
}

// MoveOut moves the group to the client that made an offer: it returns the whole state of the group, encrypted to the
// offer, for ImportGroup there, and deletes the group here. The state includes resumption PSKs, a pending own commit,
// and the groups of the same id that this group succeeded, but no external PSKs or KeyPackages. The result is also
// the Batch.Output of the write that deletes the group: if the result is lost, only an external commit can enter the
// group again. No other Group of this id may be open.
//
// Errors: ErrInvalid if the offer is for another cipher suite, ErrMisuse if the group has a successor of the same id,
// ErrMalformed if offer is not an offer, ErrStore if the store failed and the group was not moved.
func (g *Group) MoveOut(offer []byte) ([]byte, error) {
	if err := g.usable(); err != nil {
		return nil, err
	}
	o, err := parseImportOffer(offer)
	if err != nil {
		return nil, err
	}
	if o.suite != g.suite.id {
		return nil, fail(ErrInvalid, "", "import offer", "is for %v, the group has %v", o.suite, g.suite.id)
	}
	id := g.public().context.GroupID
	newest, _, err := g.client.newest(id)
	if err != nil {
		return nil, err
	}
	if newest.place != g.place {
		return nil, fail(ErrMisuse, "§11.2", fmt.Sprintf("group %x", id), "has a successor of the same id: move that one")
	}
	m := &movedRecords{id: id, newest: g.place}
	defer m.erase()
	if err := m.collect(g.client.cfg.Store); err != nil {
		return nil, storeError("group", err)
	}
	plain, err := m.marshal()
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	out := &movedGroup{suite: g.suite.id, ref: g.suite.offerRef(offer)}
	out.sealed.kemOutput, out.sealed.ciphertext, err = g.suite.encryptWithLabel(g.client.cfg.Rand, o.pub, moveLabel, offer, plain)
	if err != nil {
		return nil, within("import offer", ErrInvalid, err)
	}
	b := Batch{}
	if b.Output, err = out.marshal(); err != nil {
		return nil, err
	}
	b.deleteGroups(id)
	if err := applyBatch(g.client.cfg.Store, b); err != nil {
		return nil, err
	}
	g.forget()
	g.moved = true
	return b.Output, nil
}

// collect reads all records of the groups of an id.
func (m *movedRecords) collect(s Store) error {
	for place := range m.newest + 1 {
		prefix := groupPrefix(groupName{m.id, place})
		err := s.Scan(prefix, func(key, value []byte) error {
			m.records = append(m.records, movedRecord{place, bytes.Clone(key[len(prefix):]), bytes.Clone(value)})
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *movedRecords) erase() {
	for _, r := range m.records {
		clear(r.value)
	}
}

// ImportGroup imports a group that another client moved to an offer of this client, and consumes the offer: a second
// import fails. The state is checked like a state that is loaded. Errors: ErrNotForUs if the client has no such
// offer, or has used it; ErrForged if the group was encrypted by somebody who does not know the offer; ErrInvalid if
// the client has a group of that id; ErrUnsupported for an unknown format.
func (c *Client) ImportGroup(moved []byte) (*Group, error) {
	m, err := parseMovedGroup(moved)
	if err != nil {
		return nil, err
	}
	s, err := c.suite(m.suite)
	if err != nil {
		return nil, err
	}
	v, ok, err := c.cfg.Store.Get(offerKey(m.ref))
	if err != nil {
		return nil, storeError("import offers", err)
	}
	if !ok {
		return nil, fail(ErrNotForUs, "", "moved group", "is for an import offer that is not in the store: it was used or withdrawn, or another store made it")
	}
	o, err := parseOfferRecord(v)
	if err != nil {
		return nil, err
	}
	defer o.priv.Erase()
	plain, err := s.decryptWithLabel(o.priv.Bytes(), moveLabel, o.offer, m.sealed.kemOutput, m.sealed.ciphertext)
	if err != nil {
		return nil, because(err, ErrForged, "", "moved group", "does not decrypt")
	}
	defer clear(plain)
	list, err := parseMovedRecords(plain)
	if err != nil {
		return nil, err
	}
	return c.importRecords(list, m.ref)
}

// importRecords stores a group, after loading it from a temporary store as a check.
func (c *Client) importRecords(m *movedRecords, ref []byte) (*Group, error) {
	if _, found, err := c.newest(m.id); err != nil {
		return nil, err
	} else if found {
		return nil, taken(m.id)
	}
	var b Batch
	defer b.erase()
	b.deleteGroups(m.id)
	b.put(listKey(m.id), listRecord(m.newest))
	for _, r := range m.records {
		b.put(append(groupPrefix(groupName{m.id, r.place}), r.rest...), bytes.Clone(r.value))
	}
	trial := &Client{c.cfg}
	trial.cfg.Store = NewMemoryStore()
	if err := applyBatch(trial.cfg.Store, b); err != nil {
		return nil, err
	}
	defer func() { _ = trial.cfg.Store.Apply(Batch{Writes: []Write{{Prefix: true}}}) }() // which erases it
	g, err := trial.LoadGroup(m.id)
	if err != nil {
		return nil, within("moved group", ErrMalformed, err)
	}
	if !bytes.Equal(g.public().context.GroupID, m.id) {
		return nil, fail(ErrMalformed, "", "moved group", "is group %x under the id %x", g.public().context.GroupID, m.id)
	}
	b.delete(offerKey(ref))
	if err := applyBatch(c.cfg.Store, b); err != nil {
		g.forget()
		return nil, err
	}
	g.client = c
	return g, nil
}
