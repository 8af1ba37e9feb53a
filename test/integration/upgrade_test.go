//go:build integration

package integration

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

// previousBuild is the commit with which TestRollingUpgrade begins, if MLSFED_PREVIOUS names no other: the build of
// 25 November 2026, the last one that knows only one level of the rules.
const previousBuild = "f3e2d7f"

// errNoHistory reports that the commit is not in this clone.
var errNoHistory = errors.New("the clone lacks that commit: fetch the whole history, or let MLSFED_PREVIOUS name another")

// buildCommit builds an image from the sources of a commit.
func (s *suite) buildCommit(ctx context.Context, dir, commit, image string) error {
	git := func(args ...string) ([]byte, error) {
		return exec.CommandContext(ctx, "git", append([]string{"-C", s.root}, args...)...).Output()
	}
	if _, err := git("cat-file", "-e", commit+"^{commit}"); err != nil {
		return fmt.Errorf("%s: %w", commit, errNoHistory)
	}
	sources, err := git("archive", commit)
	if err != nil {
		return fmt.Errorf("git archive %s: %w", commit, err)
	}
	unpack := exec.CommandContext(ctx, "tar", "x", "-C", dir)
	unpack.Stdin = strings.NewReader(string(sources))
	if out, err := unpack.CombinedOutput(); err != nil {
		return fmt.Errorf("unpack %s: %w: %s", commit, err, out)
	}
	return errors.Join(s.report(image), buildImage(ctx, dir, image))
}

// upgrade runs an organization's node with another image and its present data, as an operator would: Compose stops
// the container in order and creates a new one on the same volume. The organizations in older still run the earlier
// build.
func (f *federation) upgrade(org, image string, older ...string) {
	f.t.Helper()
	f.note("%s goes on with %s", org, image)
	f.image = image
	f.must(f.writeEnvironment(nil, older...))
	f.compose("up", "--detach", "--no-build", "--no-deps", org)
	f.waitHealthy(org)
	runs, err := docker(f.ctx, "inspect", "--format", "{{.Config.Image}}", f.container(org))
	f.must(err)
	if runs = strings.TrimSpace(runs); runs != image {
		f.must(fmt.Errorf("the node of %s runs %s, wanted %s", org, runs, image))
	}
}

// TestRollingUpgrade replaces an earlier build by the build of this checkout, one node at a time, under load and with
// all data kept. In between, builds of both kinds have common conversations.
func TestRollingUpgrade(t *testing.T) {
	commit, image := cmp.Or(os.Getenv("MLSFED_PREVIOUS"), previousBuild), the.image+"-previous"
	if err := the.buildCommit(t.Context(), t.TempDir(), commit, image); errors.Is(err, errNoHistory) {
		report(t, "NOT RUN: %v", err)
		t.Skipf("NOT RUN: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	f := start(t, setup{image: image})
	alice, bob, carol := f.enrol("a", "alice", "phone"), f.enrol("b", "bob", "phone"), f.enrol("c", "carol", "phone")
	dave := f.enrol("b", "dave", "phone")
	c := f.converse(client.CreateOptions{Name: "Upgrade"}, alice, bob, carol, dave)
	public := f.converse(client.CreateOptions{Name: "In public", PublicHandshakes: true}, carol, alice, bob)
	for _, d := range c.members {
		c.say(d, "all builds are old")
	}
	c.has(dave, c.say(alice, "dave sleeps over the upgrade"))
	c.judge(exceptions{})
	dave.goOffline()
	present := []*device{alice, bob, carol}
	load := c.busy(100*time.Millisecond, present, present)
	var longest []time.Duration
	for i, org := range f.orgs {
		rest := domains(others(f.orgs, org))
		began := time.Now()
		f.upgrade(org, the.image, f.orgs[i+1:]...)
		c.caughtUp(org, others(f.orgs, org)[0])
		longest = append(longest, f.history.longestGap(c.id, began, rest...))
		upgraded := time.Now()
		f.eventually("commits of all go on with old and new builds", func() error {
			for _, d := range present {
				if n, _ := f.history.commits(c.id, upgraded, domain(d.org)); n < scale(2, 20) {
					return fmt.Errorf("%s has %d commits since %s was upgraded", d.id, n, org)
				}
			}
			return nil
		})
		f.ends("a commit in public", public.begin(bob))
		public.has(carol, public.say(alice, "%s runs the new build", org))
	}
	load.stop()
	dave.comeBack()
	for _, d := range c.members {
		c.say(d, "all builds are new")
	}
	c.judge(exceptions{})
	public.judge(exceptions{})
	erin := f.enrol("c", "erin", "phone") // a user of the new build joins a conversation of the old one
	for _, v := range []*conversation{c, public} {
		v.add(bob, erin.id.User())
		for _, d := range []*device{erin, carol} { // carol's messages before she sees erin are not for erin
			f.eventually(string(d.id)+" sees the new member", func() error { return joined(v, d, len(v.members)+1) })
		}
		v.forATime(erin)
		v.has(erin, v.say(carol, "welcome"))
		f.ends("the new member commits", v.begin(erin))
		v.judge(exceptions{})
	}
	n, _ := f.history.commits(c.id, f.began(), wire.Domain("a.example"), "b.example", "c.example")
	report(t, "from %s to this build, node by node: the longest time without a commit by the others was %v; %d commits in all; nothing is lost", commit, rounded(longest), n)
}
