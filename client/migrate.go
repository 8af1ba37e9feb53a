package client

import (
	"context"
	"slices"
	"strings"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// MigrateOptions shape the conversation that succeeds another one. Name, rules and members are the same.
type MigrateOptions struct {
	// Suite is the cipher suite to go to, one with the signature scheme of the members' keys.
	Suite   mlscore.CipherSuite
	Voters  uint8       // wire.Policy; 0 for those of the conversation
	Witness wire.Domain // wire.Policy; "" for that of the conversation
	// NoWitness leaves the conversation's witness behind.
	NoWitness bool
}

// migrateAttempts is how often Migrate begins again when members came or went meanwhile.
const migrateAttempts = 3

// foundedMark stands in for the number of an operation: Migrate waits for the successor by it.
const foundedMark = ^uint64(0)

// Migrate moves a conversation to another cipher suite: its group is closed by a ReInit (RFC 9420 §11.2), and
// goes on as another conversation with the same members, rules and history. It returns that one's id once
// this device is in it; the old id still names it in calls to this device. Only admins may.
//
// Nothing is closed before every device of the members has given a KeyPackage of the suite:
// wire.NoneLeft names those that have none. If ctx ends first, the migration goes on. What is sent meanwhile
// arrives, but a sender's last messages of the old conversation may come behind its first of the new one.
func (d *Device) Migrate(ctx context.Context, id wire.ConversationID, o MigrateOptions) (wire.ConversationID, error) {
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

func (d *Device) migrateOnce(ctx context.Context, id wire.ConversationID, o MigrateOptions) (wire.ConversationID, error) {
	var members []wire.DeviceID
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
	next, token, err := d.newConversation(ctx)
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
	defer d.waiters.drop(operation{next, foundedMark})
	if err := d.await(ctx, op, closed); err != nil {
		return "", err
	}
	return next, d.await(ctx, operation{next, foundedMark}, founded)
}

// migratable is the conversation, if this device may migrate it.
func (d *Device) migratable(u *unit, id wire.ConversationID, o MigrateOptions) (*thread, error) {
	t, err := d.usableThread(u, id)
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

// otherDevices are the members but this one.
func (t *thread) otherDevices() (list []wire.DeviceID, err error) {
	t.group.Public().Members(func(m mlscore.Member) bool {
		var device wire.DeviceID
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

// claimAll takes a KeyPackage of a suite for each of some devices. wire.NoneLeft names all that have none.
func (d *Device) claimAll(ctx context.Context, id wire.ConversationID, devices []wire.DeviceID, suite mlscore.CipherSuite) ([]addition, error) {
	asked := make(map[wire.UserID]bool)
	have := make(map[wire.DeviceID]addition)
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

// prepare makes the successor, with this device alone in it, and its create, whose delivery list has all
// members: so their organizations have a replica, and their devices a stream, before anything is closed.
func (t *thread) prepare(id wire.ConversationID, token wire.Token, list []addition, o MigrateOptions) error {
	shape := CreateOptions{
		Name: t.rec.Title, PublicHandshakes: t.public(), Padding: t.rec.Padding, Voters: o.Voters, Witness: o.Witness, Suite: o.Suite,
	}
	next, err := t.d.newThread(t.u, id, token, shape)
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
func (t *thread) successorWaits(op *operationRecord) (bool, error) {
	next, err := t.d.thread(t.u, wire.ConversationID(op.Next))
	return next != nil && next.rec.State == StateCreating, err
}

// beginReInit closes the group, and founds its successor with the same entry.
func (t *thread) beginReInit(op *operationRecord, n uint64) error {
	next, err := t.d.thread(t.u, wire.ConversationID(op.Next))
	if err != nil {
		return err
	}
	if next == nil || next.rec.State != StateFounding {
		return wire.Errorf(wire.Unavailable, "migrate", "the successor of %v could not be created: try again", t.id)
	}
	if len(t.group.Public().Pending()) > 0 { // a ReInit stands alone in its commit (RFC 9420 §12.2)
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
	return t.submit(&change{
		proposals: []mlscore.Proposal{closing},
		founding:  func(s *mlscore.StagedCommit) ([]byte, error) { return next.found(s, op.Add) },
	}, n)
}

// founding is what goes out with a ReInit, in the place of a Welcome: the first commit of the successor,
// as the envelope that any member may submit, the same bytes for all, and the blobs that it names.
type founding struct {
	Envelope []byte   `cbor:"1,keyasint"`
	Blobs    [][]byte `cbor:"2,keyasint,omitempty"`
}

// found makes the first commit of a successor, which waits until the ReInit has been ordered.
func (t *thread) found(closing *mlscore.StagedCommit, list []addition) ([]byte, error) {
	if err := t.dropPending(); err != nil { // of a ReInit that lost its epoch
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
	t.look(nil)
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

// bundle is the envelope of a founding. Its delivery list is that of the create.
func (t *thread) bundle(made *mlscore.Commit, p *pendingRecord) (*wire.Envelope, error) {
	key, err := submissionKey(made.Staged)
	if err != nil {
		return nil, err
	}
	b := &wire.CommitBundle{Commit: made.Message, Key: publicKey(key)}
	if b.Welcome, err = t.payload(p, made.Welcome); err != nil {
		return nil, err
	}
	e := t.envelope(wire.KindCommit)
	e.Commit = b
	return e, t.publish(p, b, made)
}

// succeeds reports whether the conversation that this one is to succeed has been closed in its favour.
func (t *thread) succeeds() (bool, error) {
	from, err := t.d.thread(t.u, wire.ConversationID(t.rec.Line.From))
	return from != nil && from.rec.State == StateMoving && string(from.rec.Line.Successor) == string(t.id), err
}

// nextOfFounder decides what a founder does in the successor: it sends the founding once the old group is
// closed, and closes the successor if that will not be. wait is to do nothing yet.
func (t *thread) nextOfFounder() (s *step, wait bool, err error) {
	if moving, err := t.succeeds(); err != nil || moving {
		return nil, false, err
	}
	p, e, err := t.pending()
	if err != nil || p != nil && e.Kind == wire.KindClose {
		return nil, false, err
	}
	from, err := t.d.thread(t.u, wire.ConversationID(t.rec.Line.From))
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
func (t *thread) founded(env *wire.Envelope) error {
	t.rec.State, t.rec.Joined, t.rec.Keys = StateActive, wire.Epoch(t.group.Epoch()), keyAge{Since: t.d.now()}
	if err := t.settle(env.Submission, nil); err != nil {
		return err
	}
	return t.takeOver()
}

// forget leaves nothing of a successor that came to nothing but a record that hides it.
func (t *thread) forget() error {
	t.u.delete(t.pendingKey())
	t.u.deleteAll(recordKey(recordBlob, idPart(t.id)))
	if err := t.eraseGroup(); err != nil {
		return err
	}
	t.group, t.rec.State, t.rec.Line.Erased = nil, StateLeft, true
	return t.save()
}
