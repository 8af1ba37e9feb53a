package client

import (
	"context"
	"slices"

	"github.com/mlsfed/mlsfed/wire"
)

// Policy returns the policy with which a conversation was created, according to the node: servers order entries by
// it. It returns [Version] if the node is of an earlier release.
func (d *Device) Policy(ctx context.Context, id ConversationID) (Policy, error) {
	var now ConversationID
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.knownConversation(u, id)
		if err == nil {
			now = t.id
		}
		return err
	})
	if err != nil {
		return Policy{}, err
	}
	return d.askPolicy(ctx, &wire.PolicyRequest{Conversation: &now})
}

// ProposedPolicy returns the policy that the device's organization proposes for new conversations: Create takes its
// Witness. It returns [Version] if the node is of an earlier release.
func (d *Device) ProposedPolicy(ctx context.Context) (Policy, error) {
	return d.askPolicy(ctx, &wire.PolicyRequest{})
}

func (d *Device) askPolicy(ctx context.Context, q *wire.PolicyRequest) (Policy, error) {
	ok, err := d.supports(ctx, wire.FeaturePolicy)
	if err == nil && !ok {
		err = wire.Errorf(wire.Version, "policy", "the node is of an earlier release and does not name policies")
	}
	if err != nil {
		return Policy{}, err
	}
	var a wire.PolicyAnswer
	err = d.call(ctx, wire.MethodPolicy, q, &a)
	return a.Policy, err
}

// witness returns the witness of a new conversation: the requested one, or else the one that ask proposes.
func witness(wanted Domain, none bool, ask func() (Policy, error)) (Domain, error) {
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
func (d *Device) checkWitness(ctx context.Context, w Domain) error {
	if w == "" {
		return nil
	}
	found := false
	if _, err := d.eachOrganization(ctx, wire.Hash{}, func(list []wire.Organization) (bool, error) {
		found = slices.ContainsFunc(list, func(o wire.Organization) bool { return o.Domain == w })
		return !found, nil
	}); err != nil {
		return err
	}
	if !found {
		return wire.Errorf(wire.NotAdmitted, "create", "%s is not in the allow-list of this organization, and cannot be a witness", w)
	}
	return nil
}

// carryOver completes the options of a migration with the policy of the migrated conversation.
func (d *Device) carryOver(ctx context.Context, id ConversationID, o *MigrateOptions) error {
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
	o.Witness, err = witness(o.Witness, o.NoWitness, func() (Policy, error) { return policy, nil })
	return err
}
