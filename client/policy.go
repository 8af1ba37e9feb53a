package client

import (
	"context"
	"slices"

	"github.com/mlsfed/mlsfed/wire"
)

// Policy is what a conversation was created with, as the node says: servers order by it. wire.Version if the node is of an
// earlier release.
func (d *Device) Policy(ctx context.Context, id wire.ConversationID) (wire.Policy, error) {
	var now wire.ConversationID
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.knownThread(u, id)
		if err == nil {
			now = t.id
		}
		return err
	})
	if err != nil {
		return wire.Policy{}, err
	}
	return d.askPolicy(ctx, &wire.PolicyRequest{Conversation: &now})
}

// ProposedPolicy is the policy that the device's organization proposes for new conversations: Create takes its Witness.
// wire.Version if the node is of an earlier release.
func (d *Device) ProposedPolicy(ctx context.Context) (wire.Policy, error) {
	return d.askPolicy(ctx, &wire.PolicyRequest{})
}

func (d *Device) askPolicy(ctx context.Context, q *wire.PolicyRequest) (wire.Policy, error) {
	ok, err := d.supports(ctx, wire.FeaturePolicy)
	if err == nil && !ok {
		err = wire.Errorf(wire.Version, "policy", "the node is of an earlier release and does not name policies")
	}
	if err != nil {
		return wire.Policy{}, err
	}
	var a wire.PolicyAnswer
	err = d.call(ctx, wire.MethodPolicy, q, &a)
	return a.Policy, err
}

// witness is the one of a new conversation: the one that was asked for, or else what ask proposes.
func witness(wanted wire.Domain, none bool, ask func() (wire.Policy, error)) (wire.Domain, error) {
	if wanted != "" || none {
		return wanted, nil
	}
	policy, err := ask()
	if wire.CodeOf(err) == wire.Version {
		return "", nil
	}
	return policy.Witness, err
}

// checkWitness refuses a witness that the own organization has not admitted: it would have no vote.
func (d *Device) checkWitness(ctx context.Context, w wire.Domain) error {
	if w == "" {
		return nil
	}
	var a wire.OrganizationsAnswer
	if err := d.call(ctx, wire.MethodOrganizations, nil, &a); err != nil {
		return err
	}
	if !slices.ContainsFunc(a.Organizations, func(o wire.Organization) bool { return o.Domain == w }) {
		return wire.Errorf(wire.NotAdmitted, "create", "%s is not in the allow-list of this organization, and cannot be a witness", w)
	}
	return nil
}

// carryOver completes the options of a migration by the policy of the conversation that is migrated.
func (d *Device) carryOver(ctx context.Context, id wire.ConversationID, o *MigrateOptions) error {
	if err := d.checkWitness(ctx, o.Witness); err != nil {
		return err
	}
	if o.Voters != 0 && (o.Witness != "" || o.NoWitness) {
		return nil
	}
	policy, err := d.Policy(ctx, id)
	if wire.CodeOf(err) == wire.Version {
		return nil
	}
	if err != nil {
		return err
	}
	if o.Voters == 0 {
		o.Voters = policy.Voters
	}
	o.Witness, err = witness(o.Witness, o.NoWitness, func() (wire.Policy, error) { return policy, nil })
	return err
}
