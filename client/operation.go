package client

import (
	"bytes"
	"context"
	"slices"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// opKind is the kind of change that an operation makes to a group.
type opKind uint8

const (
	opCommit  opKind = iota + 1 // commits the waiting proposals, and gives this device new keys
	opAdd                       // Add
	opRemove                    // Users, Devices
	opRules                     // Rules
	opLeave                     // proposes the removal of this device
	opRevoked                   // removes the Devices that Evidence proves to be revoked
	opClose                     // ends the conversation
	opCreate                    // waits for the create
	opRenew                     // puts the new certificate into the own leaf
	opRejoin                    // waits for the external commit
	opReInit                    // closes the group in favour of Next, with the KeyPackages in Add
)

// opReason is why a device makes an opCommit by itself.
type opReason uint8

const (
	reasonKeys      opReason = iota + 1 // new keys: an operation that loses waits for another time
	reasonProposals                     // proposals of others: pointless once another member has committed them
	reasonAnswer                        // of opRules: an accepted offer, which the user's other devices learn from the commit
)

func operationKey(id ConversationID, n uint64) []byte {
	return recordKey(recordOperation, idPart(id), number(n))
}

// enqueue stores an operation and returns its number.
func (t *conversation) enqueue(op *operationRecord) (uint64, error) {
	waiting := 0
	err := t.u.Scan(recordKey(recordOperation, idPart(t.id)), func(_, _ []byte) error { waiting++; return nil })
	if err != nil {
		return 0, err
	}
	if most := t.d.opts.Limits.Operations; waiting >= most {
		return 0, wire.Errorf(wire.Quota, "change", "%d changes of %v wait already: wait for them", most, t.id)
	}
	op.Version = recordVersion
	n := t.rec.Counters.Operation
	t.rec.Counters.Operation++
	if err := t.u.putRecord(operationKey(t.id, n), op); err != nil {
		return 0, err
	}
	t.kick(handshakes(t.id))
	return n, t.save()
}

// enqueueOwn stores an operation that the device makes by itself, unless one of the same kind waits.
func (t *conversation) enqueueOwn(op *operationRecord) error {
	found := false
	err := t.eachOperation(func(_ uint64, have *operationRecord) error {
		found = found || have.Kind == op.Kind
		return nil
	})
	if err != nil || found {
		return err
	}
	op.Own = true
	_, err = t.enqueue(op)
	return err
}

func (t *conversation) eachOperation(visit func(uint64, *operationRecord) error) error {
	prefix := recordKey(recordOperation, idPart(t.id))
	return t.u.Scan(prefix, func(key, value []byte) error {
		op := new(operationRecord)
		if err := wire.Decode(value, maxRecord, op); err != nil {
			return err
		}
		return visit(parseNumber(key[len(prefix):]), op)
	})
}

// errStop ends a scan early.
var errStop = wire.Errorf(wire.Internal, "scan", "stopped")

// firstOperation returns the next operation, or nil if there is none.
func (t *conversation) firstOperation() (n uint64, op *operationRecord, err error) {
	err = t.eachOperation(func(at uint64, have *operationRecord) error {
		n, op = at, have
		return errStop
	})
	if err == error(errStop) {
		err = nil
	}
	return n, op, err
}

// finish ends an operation and reports the outcome to the waiting calls. If a requested operation failed and no call
// waits for it, an event reports the failure.
func (t *conversation) finish(n uint64, op *operationRecord, outcome error) {
	t.u.delete(operationKey(t.id, n))
	if op.Kind == opReInit {
		t.kick(handshakes(wire.ConversationID(op.Next))) // the successor, given up if this has failed
	}
	t.u.then(func() {
		waited := t.d.waiters.done(operation{t.id, n}, outcome)
		if outcome != nil && !waited {
			t.d.emit(Event{Type: EventFailed, Conversation: t.id, Err: outcome})
		}
	})
}

// failOperations ends all waiting operations.
func (t *conversation) failOperations(why error) error {
	return t.eachOperation(func(n uint64, op *operationRecord) error {
		t.finish(n, op, why)
		return nil
	})
}

// queued finds the last operation in the queue if it requests the same change: a call that gave up has left it, and a
// repeated call waits for its outcome.
func (t *conversation) queued(op *operationRecord) (n uint64, found bool, err error) {
	err = t.eachOperation(func(at uint64, have *operationRecord) error {
		if have.Own {
			return nil
		}
		same, err := op.same(have)
		n, found = at, same
		return err
	})
	return n, found, err
}

// same reports whether two requested operations are the same change. Operations for new keys are never the same,
// since each call wants its own keys.
func (op *operationRecord) same(have *operationRecord) (bool, error) {
	switch {
	case op.Kind != have.Kind || len(op.Add)+len(have.Add) > 0:
		return false, nil
	case op.Kind == opLeave || op.Kind == opClose:
		return true, nil
	case op.Kind == opRemove:
		return slices.Equal(op.Users, have.Users) && slices.Equal(op.Devices, have.Devices), nil
	case op.Kind != opRules:
		return false, nil
	}
	a, err := wire.Encode(op.Rules)
	if err != nil {
		return false, err
	}
	b, err := wire.Encode(have.Rules)
	return bytes.Equal(a, b), err
}

// perform stores an operation and waits for its outcome. If ctx ends first, the operation continues.
func (d *Device) perform(ctx context.Context, id ConversationID, op *operationRecord) error {
	var outcome <-chan error
	var o operation
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.usableConversation(u, id)
		if err != nil {
			return err
		}
		if err := t.mustAnswer(op); err != nil {
			return err
		}
		n, waits, err := t.queued(op)
		if err == nil && !waits {
			n, err = t.enqueue(op)
		}
		if err != nil {
			return err
		}
		o = operation{t.id, n}
		outcome = d.waiters.add(o)
		return nil
	})
	if err != nil {
		return err
	}
	return d.await(ctx, o, outcome)
}

func (d *Device) await(ctx context.Context, o operation, outcome <-chan error) error {
	select {
	case err := <-outcome:
		return err
	case <-ctx.Done():
		d.waiters.drop(o, outcome)
		return ctx.Err()
	}
}

// change is what an operation does in the present epoch.
type change struct {
	proposals []mlscore.Proposal
	leaf      mlscore.LeafUpdate
	evidence  [][]byte
	pointless bool // nothing is left to do
	// founding makes the founding, which is sent with a ReInit instead of a Welcome.
	founding func(*mlscore.StagedCommit) ([]byte, error)
}

// resolve computes the change that an operation makes in the present epoch.
func (t *conversation) resolve(op *operationRecord) (*change, error) {
	switch op.Kind {
	case opCommit:
		return &change{pointless: op.Reason == reasonProposals && len(t.group.Public().Pending()) == 0}, nil
	case opAdd:
		return t.resolveAdd(op)
	case opRemove, opRevoked:
		return t.resolveRemove(op)
	case opRules:
		return t.resolveRules(op)
	case opRenew:
		id, err := t.identity()
		return &change{leaf: mlscore.LeafUpdate{Identity: &id}}, err
	}
	return nil, wire.Errorf(wire.Internal, "change", "operation of kind %d makes no commit", op.Kind)
}

func (t *conversation) resolveAdd(op *operationRecord) (*change, error) {
	c := &change{}
	rules, err := t.rules()
	if err != nil {
		return nil, err
	}
	for _, a := range op.Add {
		kp, err := mlscore.ParseKeyPackage(a.KeyPackage)
		if err != nil {
			return nil, err
		}
		if leaf, member := t.group.ByIdentity([]byte(a.Device)); member {
			m, _ := t.group.Public().Member(leaf)
			if sameAccount(m.Credential, kp.LeafNode.Credential) != nil {
				return nil, wire.Errorf(wire.Exists, "add", "%s here is a device of an earlier owner of the name, and not of the person who has it now: remove that device first", a.Device)
			}
			continue
		}
		if rules.Admin(a.Device.User()) { // where not all members know accounts, no other check refuses it
			if err := sameAdmin(t.group.Public(), a.Device.User(), accountOf(kp.LeafNode.Credential)); err != nil {
				return nil, err
			}
		}
		c.proposals = append(c.proposals, mlscore.AddProposal(kp))
	}
	c.pointless = len(c.proposals) == 0
	return c, nil
}

// resolveRemove finds the leaves of Users and Devices, and the devices in Add, which are to be added again.
func (t *conversation) resolveRemove(op *operationRecord) (*change, error) {
	c := &change{evidence: op.Evidence}
	rules, err := t.rules()
	if err != nil {
		return nil, err
	}
	if op.Kind == opRemove && len(op.Add) == 0 && rules.MembersRemove { // otherwise an admin removes, and stays
		if err := t.lastAdmin(func(v DeviceID) bool {
			return slices.Contains(op.Devices, v) || slices.Contains(op.Users, v.User())
		}); err != nil {
			return nil, err
		}
	}
	var readd []mlscore.Proposal
	for _, a := range op.Add {
		kp, err := mlscore.ParseKeyPackage(a.KeyPackage)
		if err != nil {
			return nil, err
		}
		readd = append(readd, mlscore.AddProposal(kp))
	}
	self := t.group.Self()
	waiting := t.proposedRemovals()
	t.group.Public().Members(func(m mlscore.Member) bool {
		device, err := deviceOf(m.Credential)
		if err != nil || m.Leaf == self || waiting[m.Leaf] {
			return true
		}
		if slices.Contains(op.Devices, device) || slices.Contains(op.Users, device.User()) {
			c.proposals = append(c.proposals, mlscore.RemoveProposal(m.Leaf))
		}
		return true
	})
	c.proposals = append(c.proposals, readd...)
	c.pointless = len(c.proposals) == 0 && len(waiting) == 0
	return c, nil
}

// proposedRemovals returns the leaves whose removal waits for a commit: a commit may remove each leaf once.
func (t *conversation) proposedRemovals() map[mlscore.LeafIndex]bool {
	leaves := make(map[mlscore.LeafIndex]bool)
	for _, p := range t.group.Public().Pending() {
		if p.Type == mlscore.ProposalRemove {
			leaves[p.Remove] = true
		}
	}
	return leaves
}

func (t *conversation) resolveRules(op *operationRecord) (*change, error) {
	old, err := t.rules()
	if err != nil {
		return nil, err
	}
	next := op.Rules.apply(old)
	if err := t.checkAdmins(op.Rules, next); err != nil {
		return nil, err
	}
	x, err := next.extension()
	if err != nil {
		return nil, err
	}
	if old.renames(next) && old.Name == next.Name && op.Reason != reasonAnswer {
		return &change{pointless: true}, nil
	}
	extensions := t.group.Public().Context().Extensions.With(x)
	return &change{proposals: []mlscore.Proposal{mlscore.ExtensionsProposal(extensions)}}, nil
}

// checkAdmins refuses a change that promotes a user outside of the conversation, or that leaves no member as admin.
func (t *conversation) checkAdmins(c *RulesChange, next *Rules) error {
	if len(c.Promote) == 0 && len(c.Demote) == 0 {
		return nil
	}
	here := make(map[UserID]bool)
	t.group.Public().Members(func(m mlscore.Member) bool {
		if device, err := deviceOf(m.Credential); err == nil {
			here[device.User()] = true
		}
		return true
	})
	for _, u := range c.Promote {
		if !here[u] {
			return wire.Errorf(wire.Invalid, "rules", "%s is no member and cannot become an admin", u)
		}
	}
	if err := t.onePerson(c.Promote); err != nil {
		return err
	}
	if len(c.Demote) > 0 && !slices.ContainsFunc(next.Admins, func(u UserID) bool { return here[u] }) {
		return wire.Errorf(wire.Invalid, "rules", "no member would be an admin any more: promote another one first")
	}
	return nil
}
