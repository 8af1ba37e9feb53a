package client

import (
	"context"
	"slices"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// CreateOptions configures a new conversation. The zero value is a good default: private handshakes, the creator is
// the admin, and every member may add users.
type CreateOptions struct {
	Name          string
	Admins        []UserID // in addition to the creator
	AdminsAdd     bool     // only admins add users
	MembersRemove bool     // every member may remove users
	MembersRename bool
	// PublicHandshakes lets servers read who takes part, and validate every change (RFC 9420 §6).
	PublicHandshakes bool
	Padding          PaddingMode // for the messages of this device
	// Suite is the cipher suite of the group; it must have the signature scheme of the device's key. The default is
	// the suite of the device.
	Suite   CipherSuite
	Voters  uint8  // Policy
	Witness Domain // Policy; "" for the witness that the organization proposes: see ProposedPolicy
	// NoWitness creates the conversation without a witness, even if the organization proposes one.
	NoWitness bool
}

// Create founds a conversation with this device in it, and returns once its organization has ordered it. If ctx ends
// earlier, the creation continues. Other devices of the user are added soon. The conversation's name becomes the
// user's own name too, if no other conversation has it; Create returns [Invalid] if the name looks like an id.
// Create returns [NotAdmitted] for a Witness that the organization has not admitted.
func (d *Device) Create(ctx context.Context, o CreateOptions) (ConversationID, error) {
	if err := CheckName(o.Name); err != nil {
		return "", err
	}
	if err := d.checkWitness(ctx, o.Witness); err != nil {
		return "", err
	}
	id, token, err := d.chooseConversation(ctx)
	if err != nil {
		return "", err
	}
	if o.Witness, err = witness(o.Witness, o.NoWitness, func() (Policy, error) { return d.ProposedPolicy(ctx) }); err != nil {
		return "", err
	}
	var outcome <-chan error
	var op operation
	err = d.turn(ctx, func(u *unit) error {
		n, err := d.startFounding(u, id, token, o)
		op = operation{id, n}
		if err == nil {
			outcome = d.waiters.add(op)
		}
		return err
	})
	if err != nil {
		return "", err
	}
	if err := d.await(ctx, op, outcome); err != nil {
		return id, err
	}
	d.queues.kick(upkeepOf(id)) // adds the user's other devices
	return id, nil
}

// chooseConversation chooses an id, and creates an address in the conversation that the node knows.
func (d *Device) chooseConversation(ctx context.Context) (id ConversationID, token wire.Token, err error) {
	if token, err = d.newToken(); err != nil {
		return "", token, err
	}
	if err := d.call(ctx, wire.MethodAddress, &wire.AddressRequest{Token: token}, nil); err != nil {
		return "", token, err
	}
	var raw [16]byte
	err = d.random(raw[:])
	return wire.ConversationID(raw[:]), token, err
}

// startFounding creates the group and the create that is submitted.
func (d *Device) startFounding(u *unit, id ConversationID, token wire.Token, o CreateOptions) (uint64, error) {
	self, err := d.enrolled()
	if err != nil {
		return 0, err
	}
	t, err := d.newConversation(u, id, token, o)
	if err != nil {
		return 0, err
	}
	rules := &Rules{
		Version: rulesVersion, Name: o.Name, MembersAdd: !o.AdminsAdd, MembersRemove: o.MembersRemove, MembersRename: o.MembersRename,
		Admins: append(slices.Clone(o.Admins), self.Device.User()),
	}
	slices.Sort(rules.Admins)
	rules.Admins = slices.Compact(rules.Admins)
	x, err := rules.extension()
	if err != nil {
		return 0, err
	}
	required := mlscore.RequiredCapabilities{
		Extensions: []mlscore.ExtensionType{extensionRules, extensionAddress}, Credentials: []mlscore.CredentialType{mlscore.CredentialX509},
	}
	if err := t.create(mlscore.Extensions{required.Extension(), x}); err != nil {
		return 0, err
	}
	if o.Name != "" {
		if err := t.setOwnName(o.Name); err != nil && wire.CodeOf(err) != wire.Exists {
			return 0, err
		}
	}
	return t.sendCreate(o, nil)
}

// newConversation returns a conversation that is about to be created here.
func (d *Device) newConversation(u *unit, id ConversationID, token wire.Token, o CreateOptions) (*conversation, error) {
	t := &conversation{d: d, u: u, id: id, rec: &conversationRecord{
		Version: recordVersion, State: StateCreating, Token: token, Policy: uint8(wire.HandshakesPrivate),
		Keys: keyAge{Since: d.now()}, Padding: o.Padding, Title: o.Name, Line: lineage{Suite: uint16(o.Suite)},
	}}
	if o.PublicHandshakes {
		t.rec.Policy = uint8(wire.HandshakesPublic)
	}
	if o.Suite == 0 {
		t.rec.Line.Suite = d.self.Suite
	}
	var err error
	t.rec.Number, err = d.nextNumber(u)
	return t, err
}

// create creates the group.
func (t *conversation) create(x mlscore.Extensions) error {
	self, err := t.identity()
	if err != nil {
		return err
	}
	t.group, err = t.d.client.CreateGroup(self, []byte(t.id), mlscore.CreateOptions{
		GroupOptions: t.options(), Extensions: x, LeafExtensions: addressExtension(t.rec.Token),
	})
	if err == nil {
		t.d.groups.keep(t.id, t.group, 1)
	}
	return err
}

// sendCreate submits the create, with the addresses of other devices that are in the conversation from its first
// commit on.
func (t *conversation) sendCreate(o CreateOptions, others []wire.Address) (uint64, error) {
	key, err := submissionKey(t.group)
	if err != nil {
		return 0, err
	}
	delivery := append(others, wire.Address{Organization: t.d.self.Device.Organization(), Token: t.rec.Token})
	slices.SortFunc(delivery, wire.Address.Compare)
	e := t.envelope(wire.KindCreate)
	e.Create = &wire.Create{
		Policy:   Policy{Handshakes: wire.Handshakes(t.rec.Policy), Voters: o.Voters, Witness: o.Witness},
		Key:      publicKey(key),
		Delivery: slices.Compact(delivery),
	}
	if t.public() {
		if e.Create.Info, err = t.group.GroupInfo(mlscore.GroupInfoOptions{External: true}); err != nil {
			return 0, err
		}
		if e.Create.Tree, err = t.group.Public().Tree(); err != nil {
			return 0, err
		}
	}
	n, err := t.enqueue(&operationRecord{Kind: opCreate})
	if err != nil {
		return 0, err
	}
	return n, t.sendOut(e, &pendingRecord{Version: recordVersion, Operation: n + 1})
}
