package mlscore

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// secretsOf lists all key material of a member's state.
func secretsOf(st *memberState) [][]byte {
	list := [][]byte{st.signer.Bytes()}
	for _, k := range st.keys {
		list = append(list, k.Bytes())
	}
	for _, s := range st.secrets.stored() {
		list = append(list, s.Bytes())
	}
	for _, s := range st.messages.nodes {
		list = append(list, s.Bytes())
	}
	for _, r := range st.messages.ratchets {
		list = append(list, r.secret.Bytes())
		for _, k := range r.skipped {
			list = append(list, k.key.Bytes(), k.nonce.Bytes())
		}
	}
	return slices.DeleteFunc(slices.Clone(list), func(b []byte) bool { return len(b) == 0 })
}

// TestSecretsUnprinted checks that no verb prints key material of a struct, alone or inside another struct.
func TestSecretsUnprinted(t *testing.T) {
	l := newLab(t, false, labOptions{})
	alice, bob, carol := l.people[0], l.people[1], l.people[2]
	// Ratchets that have been used, keys that were skipped, a past epoch, an own Update, a pending commit.
	messages := l.send(alice, 0, 3)
	bob.reads(t, messages, 3)
	l.commit(carol, CommitOptions{})
	l.proposeUpdate(bob)
	kp := l.person("dave").keyPackage(t)
	c := must[*Commit](t)(bob.group.Commit(CommitOptions{Proposals: []Proposal{AddProposal(kp), pskProposal(l.psk("a", l.people...))}}))
	received := must[*Received](t)(alice.group.Process(c.Message))
	loaded := must[*Group](t)(bob.LoadGroup(bob.group.GroupID()))
	info := must[[]byte](t)(alice.group.GroupInfo(GroupInfoOptions{Tree: true, External: true}))
	erin := l.person("erin")
	x := must[*ExternalCommit](t)(erin.ExternalJoin(erin.id, info, ExternalOptions{}))
	g := bob.group
	if len(g.past) == 0 || len(g.updates) == 0 || g.pending == nil || loaded.pending == nil {
		t.Fatalf("%d past epochs, %d updates", len(g.past), len(g.updates))
	}

	var secrets [][]byte
	for _, st := range []*memberState{g.state, c.Staged.next, received.Commit.next, loaded.state, loaded.pending.next, x.group.state} {
		secrets = append(secrets, secretsOf(st)...)
	}
	for _, u := range g.updates {
		secrets = append(secrets, u.leafKey.Bytes(), u.signer.Bytes())
	}
	for _, p := range g.past {
		secrets = append(secrets, p.senderData.Bytes())
	}
	if len(secrets) < 60 {
		t.Fatalf("%d secrets", len(secrets))
	}
	byName := map[string]any{
		"Group":          *g,
		"*Group":         g,
		"Group, loaded":  *loaded,
		"Client":         *bob.Client,
		"Config":         bob.cfg,
		"Identity":       bob.id,
		"StagedCommit":   *c.Staged,
		"Commit":         *c,
		"Received":       *received,
		"staged, loaded": *loaded.pending,
		"ExternalCommit": *x,
		"memberState":    *g.state,
		"PublicState":    *g.public(),
		"epochSecrets":   *g.state.secrets,
		"secretTree":     *g.state.messages,
		"past":           g.past,
		"pastEpoch":      *g.past[0],
		"ownUpdates":     g.updates,
		"pathKeys":       g.state.keys,
		"headRecord":     *g.headOf(g.state),
		"CommitOptions":  CommitOptions{Leaf: LeafUpdate{Identity: &bob.id}},
		"LeafUpdate":     LeafUpdate{Identity: &bob.id},
		"FoundOptions":   FoundOptions{Identity: &bob.id},
		"Founding":       Founding{Group: g},
		"MemoryStore":    bob.store,
	}
	t.Run("state", func(t *testing.T) {
		for name, v := range byName {
			t.Run(name, func(t *testing.T) {
				inside := struct{ v any }{v}
				requireNonePrinted(t, allVerbs, secrets, v, inside, []any{&inside})
			})
		}
	})
	t.Run("Batch", func(t *testing.T) {
		var b Batch
		g.writeEpoch(&b, g.state)
		// A Store must see the values, so fmt can reach them, too: for %p, with which no Batch is printed, fmt
		// ignores methods.
		verbs := strings.ReplaceAll(allVerbs, "p", "")
		requireNonePrinted(t, verbs, secrets, b, &b, b.Writes, b.Writes[0], struct{ B Batch }{b})
	})
	t.Run("treeStep", func(t *testing.T) {
		name := ratchetName{g.Self(), false}
		step := must[*treeStep](t)(g.state.messages.peek(name, 2, RatchetLimits{Ahead: 10, Skipped: 10}))
		list := [][]byte{step.key.key.Bytes(), step.key.nonce.Bytes(), step.secret.Bytes()}
		for s := range maps.Values(step.expanded) {
			list = append(list, s.Bytes())
		}
		for _, k := range step.skipped {
			list = append(list, k.key.Bytes())
		}
		r := reading{messages: g.state.messages, senderData: g.state.secrets.senderData}
		requireNonePrinted(t, allVerbs, append(list, secrets...), *step, step, struct{ s *treeStep }{step}, step.key, r, struct{ r *reading }{&r})
	})
	t.Run("KeyPackage", func(t *testing.T) {
		rec := must[*keyPackageRecord](t)(bob.newKeyPackage(g.suite, bob.id, KeyPackageOptions{}))
		list := [][]byte{rec.initKey.Bytes(), rec.leafKey.Bytes(), rec.signer.Bytes()}
		requireNonePrinted(t, allVerbs, list, *rec, rec, struct{ r *keyPackageRecord }{rec}, bob.id)
	})
	t.Run("path and Welcome", func(t *testing.T) {
		w := (&forgery{by: alice}).value(AddProposal(kp)).committing(t)
		list := [][]byte{w.joiner.Bytes(), w.member.Bytes(), w.path.commit.Bytes(), w.signer.Bytes()}
		for _, s := range w.path.secrets {
			list = append(list, s.Bytes())
		}
		chain := pathSecrets{w.suite, w.path.secrets[0]}
		group := groupSecrets{joiner: w.joiner, pathSecret: &w.path.secrets[0]}
		to := newcomer{kp, &w.path.secrets[0]}
		j := joining{client: alice.Client, secrets: &group, member: w.member, state: w.next}
		requireNonePrinted(t, allVerbs, list, *w, w, *w.path, w.path, chain, group, &group, to, j, &j, struct{ j *joining }{&j}, struct{ w committing }{*w})
	})
}
