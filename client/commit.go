package client

import (
	"crypto/sha256"
	"errors"
	"slices"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// statement is the authenticated_data of a Commit: claims of the committer that members compare with what they know.
type statement struct {
	Binding wire.Hash      `cbor:"1,keyasint"` // wire.CommitBundle.Binding
	Last    SequenceNumber `cbor:"2,keyasint"` // the last entry that the committer had taken in
	Order   wire.Hash      `cbor:"3,keyasint"` // the order hash up to it
	// Evidence holds revocation lists, which prove that the removed devices were revoked.
	Evidence [][]byte `cbor:"4,keyasint,omitempty"`
	// Readers is the node's answer about the delivery list, as the committer reports it: see readers_report.go.
	Readers *readersReport `cbor:"5,keyasint,omitempty"`
}

// Check refuses more evidence than a commit may carry, and an invalid report.
func (s *statement) Check() error {
	size := 0
	for _, e := range s.Evidence {
		size += len(e)
	}
	if size > MaxEvidence {
		return wire.Errorf(wire.TooLarge, "commit", "revocation lists of %d bytes, at most %d", size, MaxEvidence)
	}
	if s.Readers != nil {
		return s.Readers.Check()
	}
	return nil
}

const maxStatement = MaxEvidence + 4096

// deliveryChange returns the change of the delivery list that a commit makes: each member's leaf names its address.
func deliveryChange(e *mlscore.Effects, after *mlscore.PublicState) (wire.DeliveryChange, error) {
	added := slices.Clone(e.Added)
	if e.External {
		m, ok := after.Member(e.Committer)
		if !ok {
			return wire.DeliveryChange{}, wire.Errorf(wire.Invalid, "commit", "external committer has no leaf")
		}
		added = append(added, m)
	}
	return changeOf(added, e.Removed)
}

func changeOf(added, removed []mlscore.Member) (c wire.DeliveryChange, err error) {
	if c.Add, err = addresses(added); err != nil {
		return c, err
	}
	if c.Remove, err = addresses(removed); err != nil {
		return c, err
	}
	stays := func(list []wire.Address) func(wire.Address) bool {
		return func(a wire.Address) bool { return slices.Contains(list, a) }
	}
	add := slices.Clone(c.Add)
	c.Add = slices.DeleteFunc(c.Add, stays(c.Remove))
	c.Remove = slices.DeleteFunc(c.Remove, stays(add))
	return c, nil
}

func addresses(members []mlscore.Member) ([]wire.Address, error) {
	var list []wire.Address
	for _, m := range members {
		a, err := addressOf(m)
		if err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	slices.SortFunc(list, wire.Address.Compare)
	return slices.Compact(list), nil
}

func equalChange(a, b wire.DeliveryChange) bool {
	return slices.Equal(a.Add, b.Add) && slices.Equal(a.Remove, b.Remove)
}

// expectedChange returns the change that a commit will probably make. Only the finished commit shows which of the
// waiting proposals it includes, but its authenticated_data must be known before.
func (t *conversation) expectedChange(c *change) (wire.DeliveryChange, error) {
	return changeOf(t.comingAndGoing(c))
}

// comingAndGoing returns the members that a change and the waiting proposals add and remove.
func (t *conversation) comingAndGoing(c *change) (added, removed []mlscore.Member) {
	var list []mlscore.Proposal
	for _, p := range t.group.Public().Pending() {
		list = append(list, p.Proposal)
	}
	for _, p := range append(list, c.proposals...) {
		switch p.Type {
		case mlscore.ProposalAdd:
			leaf := p.Add.LeafNode
			added = append(added, mlscore.Member{Credential: leaf.Credential, Extensions: leaf.Extensions})
		case mlscore.ProposalRemove:
			if m, ok := t.group.Public().Member(p.Remove); ok && p.Remove != t.group.Self() {
				removed = append(removed, m)
			}
		}
	}
	return added, removed
}

// commit makes a commit whose statement names the change of the delivery list that the commit makes.
func (t *conversation) commit(c *change) (*mlscore.Commit, wire.DeliveryChange, error) {
	revoked, err := t.d.evidence(c.evidence)
	if err != nil {
		return nil, wire.DeliveryChange{}, err
	}
	t.setPolicy(revoked)
	if c, err = t.succession(c); err != nil {
		return nil, wire.DeliveryChange{}, err
	}
	delivery, err := t.expectedChange(c)
	if err != nil {
		return nil, delivery, err
	}
	for range 3 {
		made, err := t.commitOnce(c, delivery)
		if err != nil {
			return nil, delivery, err
		}
		actual, err := deliveryChange(made.Staged.Effects(), made.Staged.Public())
		if err != nil {
			return nil, delivery, err
		}
		if equalChange(actual, delivery) {
			return made, delivery, nil
		}
		delivery = actual
	}
	return nil, delivery, wire.Errorf(wire.Internal, "commit", "the proposals of a commit for %v do not settle", t.id)
}

func (t *conversation) commitOnce(c *change, delivery wire.DeliveryChange) (*mlscore.Commit, error) {
	said, err := t.statement(c, delivery)
	if err != nil {
		return nil, err
	}
	reported, err := t.readersExtension()
	if err != nil {
		return nil, err
	}
	room, err := t.roomExtension()
	if err != nil {
		return nil, err
	}
	reported = append(reported, room...)
	return t.group.Commit(mlscore.CommitOptions{
		Proposals: c.proposals, Leaf: c.leaf, AuthenticatedData: said,
		GroupInfo:   mlscore.GroupInfoOptions{External: t.public()},
		WelcomeInfo: mlscore.GroupInfoOptions{Tree: true, Extensions: reported},
	})
}

func (t *conversation) statement(c *change, delivery wire.DeliveryChange) ([]byte, error) {
	binding, err := (&wire.CommitBundle{Delivery: delivery}).Binding()
	if err != nil {
		return nil, err
	}
	s := &statement{Binding: binding, Last: t.rec.Position.Last, Order: t.rec.Position.Order, Evidence: c.evidence}
	if s.Readers, err = t.reportReaders(); err != nil {
		return nil, err
	}
	if err := s.Check(); err != nil {
		return nil, err
	}
	return wire.Encode(s)
}

func (t *conversation) public() bool { return wire.Handshakes(t.rec.Policy) == wire.HandshakesPublic }

// orderEnvelope stores a commit for c as the pending envelope, together with the group's state, in this turn.
func (t *conversation) orderEnvelope(c *change, opNumber uint64) error {
	made, delivery, err := t.commit(c)
	if err != nil {
		return err
	}
	key, err := submissionKey(made.Staged)
	if err != nil {
		return err
	}
	pending := &pendingRecord{Version: recordVersion, Operation: opNumber + 1}
	bundle := &wire.CommitBundle{Commit: made.Message, Key: publicKey(key), Delivery: delivery, Contest: t.rec.Failed.At > 0}
	welcome := made.Welcome
	if c.founding != nil {
		if welcome, err = c.founding(made.Staged); err != nil {
			return err
		}
	}
	if bundle.Welcome, err = t.payload(pending, welcome); err != nil {
		return err
	}
	if err := t.publish(pending, bundle, made); err != nil {
		return err
	}
	if err := t.moveRest(pending, bundle, made.Staged.Public()); err != nil {
		return err
	}
	e := t.envelope(wire.KindCommit)
	e.Commit = bundle
	return t.sendOut(e, pending)
}

// publish adds the data that an external join needs. External joins are possible only with public handshakes:
// otherwise servers accept no PublicMessage, and the tree would reveal the members to them.
func (t *conversation) publish(p *pendingRecord, b *wire.CommitBundle, made *mlscore.Commit) error {
	if !t.public() {
		return nil
	}
	tree, err := made.Staged.Public().Tree()
	if err != nil {
		return err
	}
	if b.Info, err = t.payload(p, made.GroupInfo); err != nil {
		return err
	}
	b.Tree, err = t.payload(p, tree)
	return err
}

// payload puts content into the entry, or into a separate blob if the content is large. nil stays nil.
func (t *conversation) payload(p *pendingRecord, content []byte) (*wire.Payload, error) {
	switch {
	case len(content) == 0:
		return nil, nil
	case len(content) <= t.d.opts.Limits.Inline:
		return &wire.Payload{Inline: content}, nil
	case len(content) > wire.MaxBlob:
		return nil, wire.Errorf(wire.TooLarge, "commit", "Welcome or tree of %d bytes, at most %d", len(content), wire.MaxBlob)
	}
	ref := t.addBlob(p, content)
	return &wire.Payload{Blob: &ref}, nil
}

// addBlob stores content to be uploaded as a blob before the submission that names it.
func (t *conversation) addBlob(p *pendingRecord, content []byte) wire.BlobRef {
	ref := wire.BlobRef{Hash: sha256.Sum256(content), Size: uint64(len(content))}
	t.u.put(t.blobKey(ref), content)
	p.Blobs = append(p.Blobs, ref)
	return ref
}

func (t *conversation) blobKey(ref wire.BlobRef) []byte {
	return recordKey(recordBlob, idPart(t.id), ref.Hash[:])
}

// envelope starts a submission for the present epoch.
func (t *conversation) envelope(kind wire.Kind) *wire.Envelope {
	return &wire.Envelope{
		Version: wire.EnvelopeVersion, Conversation: t.id, Kind: kind,
		Epoch: wire.Epoch(t.group.Epoch()), Parent: t.rec.Position.Parent,
	}
}

// sendOut gives an envelope its id, signs it, and stores it as the pending envelope.
func (t *conversation) sendOut(e *wire.Envelope, p *pendingRecord) (err error) {
	if e.Submission, err = t.d.newSubmission(); err != nil {
		return err
	}
	key, err := submissionKey(t.group)
	if err != nil {
		return err
	}
	if err := e.Sign(key); err != nil {
		return err
	}
	if err := e.Check(); err != nil {
		return err
	}
	if p.Envelope, err = wire.Encode(e); err != nil {
		return err
	}
	if len(p.Envelope) > wire.MaxEntry-4096 {
		return wire.Errorf(wire.TooLarge, "commit", "submission of %d bytes does not fit an entry of %d: change less at once; in a large group each device that was added and has not committed yet makes every commit longer, until it changes its keys", len(p.Envelope), wire.MaxEntry)
	}
	t.kick(handshakes(t.id))
	return t.u.putRecord(t.pendingKey(), p)
}

func (t *conversation) pendingKey() []byte { return recordKey(recordPending, idPart(t.id)) }

// pending returns the envelope that is being submitted, or nil if there is none.
func (t *conversation) pending() (*pendingRecord, *wire.Envelope, error) {
	p := new(pendingRecord)
	ok, err := t.u.getRecord(t.pendingKey(), p)
	if err != nil || !ok {
		return nil, nil, err
	}
	e := new(wire.Envelope)
	return p, e, wire.Decode(p.Envelope, maxRecord, e)
}

// dropPending forgets the pending envelope and the own commit in it, except for its id.
func (t *conversation) dropPending() error {
	if err := t.noteDropped(); err != nil {
		return err
	}
	t.u.delete(t.pendingKey())
	t.u.deleteAll(recordKey(recordBlob, idPart(t.id)))
	if t.group == nil {
		return nil
	}
	err := t.group.Abandon()
	if errors.Is(err, mlscore.ErrGroupEnded) {
		return nil
	}
	return err
}
