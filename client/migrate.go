package client

import (
	"context"
	"slices"
	"strings"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// MigrateOptions configures the conversation that succeeds another one. Name, rules and members stay the same.
type MigrateOptions struct {
	// Suite is the new cipher suite; it must have the signature scheme of the members' keys.
	Suite   CipherSuite
	Voters  uint8  // Policy; 0 keeps the number of the conversation
	Witness Domain // Policy; "" keeps the witness of the conversation
	// NoWitness drops the conversation's witness.
	NoWitness bool
}

// migrateAttempts is how often Migrate tries again when members came or left meanwhile.
const migrateAttempts = 3

// foundedMark takes the place of an operation's number: with it Migrate waits for the successor.
const foundedMark = ^uint64(0)

// Migrate moves a conversation to another cipher suite: a ReInit (RFC 9420 §11.2) closes its group, and the
// conversation continues as another one with the same members, rules and history. Migrate returns the new id once
// this device is in the new conversation; calls to this device still accept the old id. Only admins may migrate.
//
// No group is closed before every device of the members has given a KeyPackage of the suite: [NoneLeft] names the
// devices that have none. If ctx ends first, the migration continues. Messages that are sent meanwhile arrive, but a
// sender's last messages of the old conversation may come after its first message of the new one.
func (d *Device) Migrate(ctx context.Context, id ConversationID, o MigrateOptions) (ConversationID, error) {
	if err := d.carryOver(ctx, id, &o); err != nil {
		return "", err
	}
	for attempt := 1; ; attempt++ {
		next, err := d.migrateOnce(ctx, id, o)
		if wire.CodeOf(err) != wire.StaleEpoch || attempt == migrateAttempts {
			return next, err
		}
	}
}

func (d *Device) migrateOnce(ctx context.Context, id ConversationID, o MigrateOptions) (ConversationID, error) {
	var members []DeviceID
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.migratable(u, id, o)
		if err != nil {
			return err
		}
		members, err = t.otherDevices()
		return err
	})
	if err != nil {
		return "", err
	}
	claimed, err := d.claimAll(ctx, id, members, o.Suite)
	if err != nil {
		return "", err
	}
	list, err := d.sameKeys(ctx, id, claimed, false)
	if err != nil {
		return "", err
	}
	for _, a := range claimed {
		if !slices.ContainsFunc(list, func(b addition) bool { return a.Device == b.Device }) {
			return "", wire.Errorf(wire.Invalid, "migrate", "%s shows another key than as a member: it was enrolled again, so remove it first", a.Device)
		}
	}
	next, token, err := d.chooseConversation(ctx)
	if err != nil {
		return "", err
	}
	var op operation
	var closed, founded <-chan error
	err = d.turn(ctx, func(u *unit) error {
		t, err := d.migratable(u, id, o)
		if err != nil {
			return err
		}
		if err := t.prepare(next, token, list, o); err != nil {
			return err
		}
		n, err := t.enqueue(&operationRecord{Kind: opReInit, Next: []byte(next), Add: list})
		if err == nil {
			op = operation{t.id, n}
			closed, founded = d.waiters.add(op), d.waiters.add(operation{next, foundedMark})
		}
		return err
	})
	if err != nil {
		return "", err
	}
	defer d.waiters.drop(operation{next, foundedMark}, founded)
	if err := d.await(ctx, op, closed); err != nil {
		return "", err
	}
	return next, d.await(ctx, operation{next, foundedMark}, founded)
}

// migratable returns the conversation if this device may migrate it.
func (d *Device) migratable(u *unit, id ConversationID, o MigrateOptions) (*conversation, error) {
	t, err := d.usableConversation(u, id)
	if err != nil {
		return nil, err
	}
	if t.rec.State != StateActive {
		return nil, wire.Errorf(wire.Unavailable, "migrate", "%v is still being created: try again in a moment", t.id)
	}
	rules, err := t.rules()
	if err != nil {
		return nil, err
	}
	if !rules.Admin(d.self.Device.User()) {
		return nil, wire.Errorf(wire.Invalid, "migrate", "only admins migrate %v", t.id)
	}
	if o.Suite == t.suite() {
		return nil, wire.Errorf(wire.Invalid, "migrate", "%v has %v already", t.id, o.Suite)
	}
	if _, err := d.self.identityIn(o.Suite); err != nil {
		return nil, err
	}
	return t, t.eachOperation(func(_ uint64, op *operationRecord) error {
		if op.Kind == opReInit {
			return wire.Errorf(wire.Exists, "migrate", "%v is about to be migrated already", t.id)
		}
		return nil
	})
}

// otherDevices returns the members other than this device.
func (t *conversation) otherDevices() (list []DeviceID, err error) {
	t.group.Public().Members(func(m mlscore.Member) bool {
		var device DeviceID
		if device, err = deviceOf(m.Credential); err != nil {
			return false
		}
		if m.Leaf != t.group.Self() {
			list = append(list, device)
		}
		return true
	})
	return list, err
}

// claimAll takes a KeyPackage of a suite for each device. [NoneLeft] names all devices that have none.
func (d *Device) claimAll(ctx context.Context, id ConversationID, devices []DeviceID, suite CipherSuite) ([]addition, error) {
	asked := make(map[UserID]bool)
	have := make(map[DeviceID]addition)
	for _, device := range devices {
		if asked[device.User()] {
			continue
		}
		asked[device.User()] = true
		list, err := d.claim(ctx, id, device.User(), suite, 0)
		if code := wire.CodeOf(err); err != nil && code != wire.NoneLeft && code != wire.NotFound {
			return nil, err
		}
		for _, a := range list {
			have[a.Device] = a
		}
	}
	var list []addition
	var lack []string
	for _, device := range devices {
		if a, ok := have[device]; ok {
			list = append(list, a)
		} else {
			lack = append(lack, string(device))
		}
	}
	if len(lack) > 0 {
		slices.Sort(lack)
		return nil, wire.Errorf(wire.NoneLeft, "migrate", "no KeyPackage of %v from %s: they have to be upgraded and online once, or removed", suite, strings.Join(lack, ", "))
	}
	return list, nil
}

// prepare creates the successor, with this device alone in it, and its create, whose delivery list has all members.
// So their organizations have a replica, and their devices a stream, before the old group is closed.
func (t *conversation) prepare(id ConversationID, token wire.Token, list []addition, o MigrateOptions) error {
	shape := CreateOptions{
		Name: t.rec.Title, PublicHandshakes: t.public(), Padding: t.rec.Padding, Voters: o.Voters, Witness: o.Witness, Suite: o.Suite,
	}
	next, err := t.d.newConversation(t.u, id, token, shape)
	if err != nil {
		return err
	}
	next.rec.Line.From = []byte(t.id)
	if err := next.create(t.group.Public().Context().Extensions); err != nil {
		return err
	}
	var others []wire.Address
	for _, a := range list {
		others = append(others, wire.Address{Organization: a.Device.Organization(), Token: a.Token})
	}
	_, err = next.sendCreate(shape, others)
	return err
}

// successorWaits reports whether the successor is still being created.
func (t *conversation) successorWaits(op *operationRecord) (bool, error) {
	next, err := t.d.findConversation(t.u, wire.ConversationID(op.Next))
	return next != nil && next.rec.State == StateCreating, err
}

// beginReInit closes the group, and founds its successor in the same entry.
func (t *conversation) beginReInit(op *operationRecord, n uint64) error {
	next, err := t.d.findConversation(t.u, wire.ConversationID(op.Next))
	if err != nil {
		return err
	}
	if next == nil || next.rec.State != StateFounding {
		return wire.Errorf(wire.Unavailable, "migrate", "the successor of %v could not be created: try again", t.id)
	}
	if len(t.group.Public().Pending()) > 0 { // a ReInit must be the only proposal of its commit (RFC 9420 §12.2)
		return t.begin(&operationRecord{Kind: opCommit}, 0, false)
	}
	members, err := t.otherDevices()
	if err != nil {
		return err
	}
	same := len(members) == len(op.Add)
	for _, a := range op.Add {
		same = same && slices.Contains(members, a.Device)
	}
	if !same {
		return wire.Errorf(wire.StaleEpoch, "migrate", "members of %v came or went meanwhile: try again", t.id)
	}
	context := t.group.Public().Context()
	closing := mlscore.ReInitProposal(mlscore.ReInit{
		GroupID: op.Next, Version: mlscore.MLS10, CipherSuite: next.suite(), Extensions: context.Extensions,
	})
	return t.orderEnvelope(&change{
		proposals: []mlscore.Proposal{closing},
		founding:  func(s *mlscore.StagedCommit) ([]byte, error) { return next.found(s, op.Add) },
	}, n)
}

// founding is sent with a ReInit instead of a Welcome. It holds the first commit of the successor, as an envelope
// that any member may submit with the same bytes, and the blobs that the envelope names.
type founding struct {
	Envelope []byte   `cbor:"1,keyasint"`
	Blobs    [][]byte `cbor:"2,keyasint,omitempty"`
}

// startFounding makes the first commit of a successor, which waits until the ReInit has been ordered.
func (t *conversation) found(closing *mlscore.StagedCommit, list []addition) ([]byte, error) {
	if err := t.dropPending(); err != nil { // from a ReInit that lost its epoch
		return nil, err
	}
	var proposals []mlscore.Proposal
	for _, a := range list {
		kp, err := mlscore.ParseKeyPackage(a.KeyPackage)
		if err != nil {
			return nil, err
		}
		proposals = append(proposals, mlscore.AddProposal(kp))
	}
	said, err := t.statement(&change{}, wire.DeliveryChange{})
	if err != nil {
		return nil, err
	}
	t.setPolicy(nil)
	made, err := t.group.CommitSuccessor(closing, mlscore.CommitOptions{
		Proposals: proposals, AuthenticatedData: said,
		GroupInfo: mlscore.GroupInfoOptions{External: t.public()}, WelcomeInfo: mlscore.GroupInfoOptions{Tree: true},
	})
	if err != nil {
		return nil, err
	}
	p := &pendingRecord{Version: recordVersion}
	e, err := t.bundle(made, p)
	if err != nil {
		return nil, err
	}
	if err := t.sendOut(e, p); err != nil {
		return nil, err
	}
	f := &founding{Envelope: p.Envelope}
	for _, ref := range p.Blobs {
		content, _, err := t.u.Get(t.blobKey(ref))
		if err != nil {
			return nil, err
		}
		f.Blobs = append(f.Blobs, content)
	}
	return wire.Encode(f)
}

// wholeFounding is the factor by which a founding inside its entry may be larger than another commit: a founding
// cannot be made again if the servers of the successor refuse to take it as a blob.
const wholeFounding = 3

// bundle returns the envelope of a founding. Its delivery list is that of the create.
func (t *conversation) bundle(made *mlscore.Commit, p *pendingRecord) (*wire.Envelope, error) {
	key, err := submissionKey(made.Staged)
	if err != nil {
		return nil, err
	}
	b := &wire.CommitBundle{Commit: made.Message, Key: publicKey(key)}
	if b.Welcome, err = t.payload(p, made.Welcome); err != nil {
		return nil, err
	}
	if len(b.Commit) > wholeFounding*t.d.opts.Limits.Inline {
		if err := t.moveRest(p, b, made.Staged.Public()); err != nil {
			return nil, err
		}
	}
	e := t.envelope(wire.KindCommit)
	e.Commit = b
	return e, t.publish(p, b, made)
}

// succeeds reports whether the old conversation has been closed in favour of this one.
func (t *conversation) succeeds() (bool, error) {
	from, err := t.d.findConversation(t.u, wire.ConversationID(t.rec.Line.From))
	return from != nil && from.rec.State == StateMoving && string(from.rec.Line.Successor) == string(t.id), err
}

// nextOfFounder decides the founder's next step in the successor: it sends the founding once the old group is closed,
// or closes the successor if that cannot happen any more. wait means that no step is due yet.
func (t *conversation) nextOfFounder() (s *step, wait bool, err error) {
	if moving, err := t.succeeds(); err != nil || moving {
		return nil, false, err
	}
	p, e, err := t.pending()
	if err != nil || p != nil && e.Kind == wire.KindClose {
		return nil, false, err
	}
	from, err := t.d.findConversation(t.u, wire.ConversationID(t.rec.Line.From))
	if err != nil {
		return nil, false, err
	}
	wanted := false
	if from != nil {
		err = from.eachOperation(func(_ uint64, op *operationRecord) error {
			wanted = wanted || op.Kind == opReInit && string(op.Next) == string(t.id)
			return nil
		})
	}
	if err != nil || wanted {
		return nil, true, err
	}
	if err := t.dropPending(); err != nil {
		return nil, false, err
	}
	return &step{again: true}, false, t.sendOut(t.envelope(wire.KindClose), &pendingRecord{Version: recordVersion})
}

// founded takes in the entry of the own founding.
func (t *conversation) founded(env *wire.Envelope) error {
	t.rec.State, t.rec.Joined, t.rec.Keys = StateActive, wire.Epoch(t.group.Epoch()), keyAge{Since: t.d.now()}
	if err := t.endOperation(env.Submission, nil); err != nil {
		return err
	}
	return t.takeOver()
}

// forget deletes a failed successor except for a record that hides it.
func (t *conversation) forget() error {
	t.u.delete(t.pendingKey())
	t.u.deleteAll(recordKey(recordBlob, idPart(t.id)))
	if err := t.eraseGroup(); err != nil {
		return err
	}
	t.group, t.rec.State, t.rec.Line.Erased = nil, StateLeft, true
	return t.save()
}
