package demo

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
)

// coreDemo shows mlscore alone: a group across three organizations whose messages travel by function calls, and a
// server without keys that follows the group.
type coreDemo struct {
	out    io.Writer
	suite  mlscore.CipherSuite
	people []*demoPerson
	server *mlscore.PublicState
}

type demoPerson struct {
	name   string
	client *mlscore.Client
	id     mlscore.Identity
	group  *mlscore.Group
}

func (d *coreDemo) run() error {
	fmt.Fprintf(d.out, "cipher suite %v\n\n", d.suite)
	for _, step := range []struct {
		title string
		do    func() (string, error)
	}{
		{"alice, bob and carol make keys", d.enrol},
		{"alice creates a conversation", d.create},
		{"alice adds bob and carol", d.add},
		{"all three talk", d.talk},
		{"bob and carol commit at the same time", d.race},
		{"carol's device restarts from its store", d.restart},
		{"alice removes carol", d.remove},
		{"carol tries to read on", d.locked},
		{"carol comes back by herself", d.rejoin},
		{"all three talk again", d.talk},
		{"compare", d.compare},
	} {
		start := time.Now()
		report, err := step.do()
		if err != nil {
			return fmt.Errorf("%s: %w", step.title, err)
		}
		fmt.Fprintf(d.out, "%-40s %8s  %s\n", step.title, time.Since(start).Round(10*time.Microsecond), report)
	}
	return nil
}

// enrol creates a client and a signature key for each member.
func (d *coreDemo) enrol() (string, error) {
	for _, name := range []string{"alice@a.example", "bob@b.example", "carol@c.example"} {
		client, err := mlscore.NewClient(mlscore.Config{Auth: mlscore.TrustBasic{}, Store: mlscore.NewMemoryStore(), Now: time.Now})
		if err != nil {
			return "", err
		}
		key, _, err := mlscore.GenerateSignatureKey(nil, d.suite)
		if err != nil {
			return "", err
		}
		id := mlscore.Identity{CipherSuite: d.suite, Credential: mlscore.BasicCredential([]byte(name)), SignatureKey: key}
		d.people = append(d.people, &demoPerson{name: name, client: client, id: id})
	}
	return "one organization each", nil
}

func (d *coreDemo) create() (_ string, err error) {
	alice := d.people[0]
	opts := mlscore.CreateOptions{GroupOptions: mlscore.GroupOptions{PublicHandshakes: true, Padding: mlscore.Padme()}}
	if alice.group, err = alice.client.CreateGroup(alice.id, nil, opts); err != nil {
		return "", err
	}
	info, err := alice.group.GroupInfo(mlscore.GroupInfoOptions{Tree: true})
	if err != nil {
		return "", err
	}
	d.server, err = mlscore.NewPublicState(info, nil, mlscore.PublicConfig{Auth: mlscore.TrustBasic{}})
	return fmt.Sprintf("epoch 0, group %x…; a server without keys follows it", alice.group.GroupID()[:4]), err
}

// accept acts as the delivery service: the server checks a commit, and all members process it.
func (d *coreDemo) accept(commit []byte) (err error) {
	if d.server, _, err = d.server.Process(commit); err != nil {
		return fmt.Errorf("the server refuses: %w", err)
	}
	for _, p := range d.people {
		if p.group == nil {
			continue
		}
		received, err := p.group.Process(commit)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if err := p.group.Merge(received.Commit); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if !p.group.Active() {
			p.group = nil
		}
	}
	return nil
}

func (d *coreDemo) add() (string, error) {
	var adds []mlscore.Proposal
	for _, p := range d.people[1:] {
		kp, err := p.client.NewKeyPackage(p.id, mlscore.KeyPackageOptions{})
		if err != nil {
			return "", err
		}
		adds = append(adds, mlscore.AddProposal(kp))
	}
	c, err := d.people[0].group.Commit(mlscore.CommitOptions{Proposals: adds, WelcomeInfo: mlscore.GroupInfoOptions{Tree: true}})
	if err != nil {
		return "", err
	}
	if err := d.accept(c.Message); err != nil {
		return "", err
	}
	for _, p := range d.people[1:] {
		if p.group, err = p.client.Join(c.Welcome, mlscore.JoinOptions{GroupOptions: mlscore.GroupOptions{PublicHandshakes: true}}); err != nil {
			return "", fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return fmt.Sprintf("epoch %d, commit %d B, Welcome %d B", c.Staged.Effects().Epoch, len(c.Message), len(c.Welcome)), nil
}

// talk makes each member send a message that all other members read.
func (d *coreDemo) talk() (string, error) {
	sent, read := 0, 0
	for _, from := range d.people {
		text := []byte("hello from " + from.name)
		msg, err := from.group.Protect(text, mlscore.MessageOptions{})
		if err != nil {
			return "", err
		}
		sent += len(msg)
		for _, to := range d.people {
			if to == from {
				continue
			}
			received, err := to.group.Process(msg)
			if err != nil {
				return "", fmt.Errorf("%s: %w", to.name, err)
			}
			if m := received.Application; !bytes.Equal(m.Data, text) || string(m.Sender.Credential.Identity) != from.name {
				return "", fmt.Errorf("%s read %q from %s", to.name, m.Data, m.Sender.Credential.Identity)
			}
			read++
		}
	}
	return fmt.Sprintf("%d messages, %d B, read %d times", len(d.people), sent, read), nil
}

// race makes two members commit in one epoch. The first commit to arrive wins.
func (d *coreDemo) race() (string, error) {
	bob, carol := d.people[1], d.people[2]
	winner, err := bob.group.Commit(mlscore.CommitOptions{})
	if err != nil {
		return "", err
	}
	loser, err := carol.group.Commit(mlscore.CommitOptions{})
	if err != nil {
		return "", err
	}
	if err := d.accept(winner.Message); err != nil {
		return "", err
	}
	if _, _, err := d.server.Process(loser.Message); !errors.Is(err, mlscore.ErrStale) {
		return "", fmt.Errorf("the second commit of one epoch: got %v, want it refused as stale", err)
	}
	return fmt.Sprintf("epoch %d, bob's wins with %d B, carol's is refused as stale", winner.Staged.Effects().Epoch, len(winner.Message)), nil
}

func (d *coreDemo) restart() (_ string, err error) {
	carol := d.people[2]
	epoch := carol.group.Epoch()
	if carol.group, err = carol.client.LoadGroup(carol.group.GroupID()); err != nil {
		return "", err
	}
	if carol.group.Epoch() != epoch {
		return "", fmt.Errorf("was at epoch %d, is at %d", epoch, carol.group.Epoch())
	}
	return fmt.Sprintf("at epoch %d, as before", epoch), nil
}

func (d *coreDemo) remove() (string, error) {
	alice, carol := d.people[0], d.people[2]
	leaf, ok := alice.group.ByIdentity([]byte(carol.name))
	if !ok {
		return "", errors.New("carol is not in the group")
	}
	c, err := alice.group.Commit(mlscore.CommitOptions{
		Proposals: []mlscore.Proposal{mlscore.RemoveProposal(leaf)},
		GroupInfo: mlscore.GroupInfoOptions{Tree: true, External: true},
	})
	if err != nil {
		return "", err
	}
	if err := d.accept(c.Message); err != nil {
		return "", err
	}
	return fmt.Sprintf("epoch %d, commit %d B, %d members left", alice.group.Epoch(), len(c.Message), alice.group.Public().Size()), nil
}

func (d *coreDemo) locked() (string, error) {
	if d.people[2].group != nil {
		return "", errors.New("carol still has the group")
	}
	if _, err := d.people[2].client.LoadGroup(d.people[0].group.GroupID()); !errors.Is(err, mlscore.ErrMissing) {
		return "", fmt.Errorf("carol's store: got %v, want nothing there", err)
	}
	return "her keys of the group are gone", nil
}

func (d *coreDemo) rejoin() (string, error) {
	alice, carol := d.people[0], d.people[2]
	info, err := alice.group.GroupInfo(mlscore.GroupInfoOptions{Tree: true, External: true})
	if err != nil {
		return "", err
	}
	x, err := carol.client.ExternalJoin(carol.id, info, mlscore.ExternalOptions{GroupOptions: mlscore.GroupOptions{PublicHandshakes: true}})
	if err != nil {
		return "", err
	}
	if err := d.accept(x.Message); err != nil {
		return "", err
	}
	if carol.group, err = x.Complete(); err != nil {
		return "", err
	}
	return fmt.Sprintf("epoch %d, external commit %d B", carol.group.Epoch(), len(x.Message)), nil
}

// compare ends the demo. All members must be in one state.
func (d *coreDemo) compare() (string, error) {
	first := d.people[0].group
	for _, p := range d.people[1:] {
		if !bytes.Equal(p.group.EpochAuthenticator(), first.EpochAuthenticator()) {
			return "", fmt.Errorf("%s and %s disagree: authenticators %x and %x", d.people[0].name, p.name, first.EpochAuthenticator(), p.group.EpochAuthenticator())
		}
	}
	if d.server.Epoch() != first.Epoch() || !bytes.Equal(d.server.Context().TreeHash, first.Public().Context().TreeHash) {
		return "", fmt.Errorf("the server is at epoch %d with another tree", d.server.Epoch())
	}
	return fmt.Sprintf("epoch %d, authenticator %x… at all members; the server has their tree", first.Epoch(), first.EpochAuthenticator()[:8]), nil
}
