package test

import (
	"context"
	"crypto/ed25519"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/node"
	"github.com/mlsfed/mlsfed/wire"
)

// firstRules is the last commit whose build knows one level of the rules only: the build of 25 November 2026.
const firstRules = "f3e2d7f"

// buildOf builds the program of a commit. The test is skipped if the clone lacks the commit.
func buildOf(t *testing.T, commit string) string {
	t.Helper()
	dir := t.TempDir()
	if err := exec.Command("git", "-C", "..", "cat-file", "-e", commit+"^{commit}").Run(); err != nil {
		t.Skipf("the clone lacks commit %s: fetch the whole history", commit)
	}
	shell := exec.CommandContext(t.Context(), "sh", "-ec", `git -C .. archive "$1" | tar x -C "$2" && cd "$2" && go build -trimpath -o "$2/mlsfed" ./cmd/mlsfed`, "sh", commit, dir)
	if out, err := shell.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v: %s", commit, err, out)
	}
	return filepath.Join(dir, "mlsfed")
}

// TestLongUpgrade replaces nodes of a build that knows only the first level of the rules, one at a time, with all
// their data. While builds of both kinds hold replicas of one conversation, the test runs what levels treat
// differently: a contest, changes of replicas, and snapshots. At the end all replicas must be in one state.
func TestLongUpgrade(t *testing.T) {
	if os.Getenv("MLSFED_LONG") == "" {
		t.Skip("builds another commit and takes about two minutes: set MLSFED_LONG")
	}
	k := newCircleOf(t, 10*time.Minute, cluster.Options{Binary: buildOf(t, firstRules)}, client.CreateOptions{Name: "Circle"}, "d.example")
	k.say(k.alice, "all builds are old", k.bob, k.carol, k.dave)
	upgrade := func(d wire.Domain) {
		t.Helper()
		if err := k.Upgrade(k.ctx, d); err != nil {
			t.Fatal(err)
		}
		k.say(k.alice, string(d)+" has the new build", k.bob, k.dave)
	}
	upgrade("a.example")

	k.poison(1)
	k.commits(200)
	for _, d := range []wire.Domain{"a.example", "b.example"} {
		k.snapshotAt(d)
	}
	k.join("d.example", "erin") // by a snapshot of both kinds: the log has been shortened
	upgrade("b.example")
	k.leave("mimi://d.example/u/erin")
	k.commits(10)

	upgrade("c.example")
	k.commits(4) // wake the replicas, of which one raises the level
	k.levelAt("a.example", 2)
	carol := k.takeOver(k.share(k.alice, k.bob, k.carol, k.dave))
	k.poisonBy(carol, 2)
	frank := device(t, k.Cluster, "d.example", "frank", "phone") // of the old build, which does not know that level
	add(k.ctx, t, k.alice, k.id, "mimi://d.example/u/frank")
	k.commits(10)
	if err := k.Upgrade(k.ctx, "d.example"); err != nil {
		t.Fatal(err)
	}
	k.active(frank)
	k.share(k.alice, k.bob, k.carol, k.dave, frank)
	k.say(frank, "all builds are new", k.alice, k.bob, k.dave)
	k.oneState("a.example", "b.example", "c.example", "d.example")
}

// levelAt waits until the rules of the conversation have a level at an organization's node.
func (k *circle) levelAt(d wire.Domain, level uint8) {
	k.t.Helper()
	for !slices.ContainsFunc(k.Node(d).Status().Conversations, func(c node.Conversation) bool { return c.ID == k.id.String() && c.Level >= level }) {
		if !pause(k.ctx, 100*time.Millisecond) {
			k.t.Fatalf("the rules at %s do not have level %d", d, level)
		}
	}
}

// poison orders n commits in a row that no member can process, by carol's device, and continues after them.
func (k *circle) poison(n int) {
	k.t.Helper()
	k.poisonBy(k.takeOver(k.share(k.alice, k.bob, k.carol, k.dave)), n)
}

func (k *circle) poisonBy(r *rogue, n int) {
	k.t.Helper()
	e, _ := r.commit(k.t)
	key := submitter()
	e.Commit.Key = wire.SubmissionKey(key.Public().(ed25519.PublicKey))
	receipt, err := r.update(k.ctx, k.t, e)
	if err != nil {
		k.t.Fatal(err)
	}
	for range n - 1 {
		receipt = k.chain(r, receipt, e.Commit.Commit, key, e.Commit.Key)
	}
	k.carol = k.goOn(r, receipt.Sequence)
}

// commits makes alice and bob change their keys in turn.
func (k *circle) commits(n int) {
	k.t.Helper()
	for i := range n {
		d := []*client.Device{k.alice, k.bob}[i%2]
		if err := d.UpdateKeys(k.ctx, k.id); err != nil {
			k.t.Fatal(err)
		}
	}
}

// snapshotAt waits until an organization's node has shortened its log, which it does only while it is awake.
func (k *circle) snapshotAt(d wire.Domain) {
	k.t.Helper()
	pattern := filepath.Join(k.Config(d).Data, "*", "snapshots", "*.snap")
	for {
		if list, err := filepath.Glob(pattern); err != nil || len(list) > 0 {
			return
		}
		k.commits(2)
		if !pause(k.ctx, time.Second) {
			k.t.Fatalf("%s has taken no snapshot", d)
		}
	}
}

// active waits until a device takes part.
func (k *circle) active(d *client.Device) {
	k.t.Helper()
	if err := cluster.Await(k.ctx, d, func() (bool, error) {
		v, err := d.Conversation(k.ctx, k.id)
		return err == nil && v.State == client.StateActive, ignore(err, wire.UnknownConversation)
	}); err != nil {
		k.t.Fatal(err)
	}
}

// join adds a user of an organization, who sends and receives.
func (k *circle) join(d wire.Domain, user string) {
	k.t.Helper()
	v := device(k.t, k.Cluster, d, user, "phone")
	add(k.ctx, k.t, k.alice, k.id, wire.UserID("mimi://"+string(d)+"/u/"+user))
	k.active(v)
	k.say(v, user+" is here", k.alice, k.bob, k.dave)
	k.say(k.bob, "welcome, "+user, v)
}

// leave removes a user.
func (k *circle) leave(user wire.UserID) {
	k.t.Helper()
	if err := k.alice.Remove(k.ctx, k.id, user); err != nil {
		k.t.Fatal(err)
	}
}

// oneState waits until the replicas of organizations are in one state, which has the last entry.
func (k *circle) oneState(domains ...wire.Domain) {
	k.t.Helper()
	var states map[wire.Hash][]wire.Domain
	ctx, cancel := context.WithTimeout(k.ctx, time.Minute)
	defer cancel()
	for {
		states = make(map[wire.Hash][]wire.Domain)
		for _, d := range domains {
			digest, err := k.Node(d).Digest(k.id)
			if err != nil {
				digest = wire.Hash{}
			}
			states[digest] = append(states[digest], d)
		}
		if _, unknown := states[wire.Hash{}]; len(states) == 1 && !unknown {
			return
		}
		if !pause(ctx, 100*time.Millisecond) {
			k.t.Fatalf("states: %v", states)
		}
	}
}
