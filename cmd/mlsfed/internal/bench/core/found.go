package core

import (
	"fmt"
	"runtime"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness"
	"github.com/mlsfed/mlsfed/internal/stats"
	"github.com/mlsfed/mlsfed/mlscore"
)

// largestFounding bounds the groups whose founding is measured: it takes a KeyPackage of each member.
const largestFounding = 10_000

// foundings measures the cost of founding a group with all members of a group of n members: by creating it and adding
// them, by a branch and by a ReInit. It also measures what each of these costs the last member, which joins.
func (m *measures) foundings() error {
	if m.n > largestFounding {
		return nil
	}
	m.table.Progress("%d members: groups are founded", m.n)
	f, err := newFoundings(m.c.suite, m.n)
	if err != nil {
		return err
	}
	const rounds = 5
	var create, branch, reinit foundingTimes
	for range rounds {
		for _, way := range []struct {
			times *foundingTimes
			found func() (*mlscore.Group, []byte, error)
		}{{&create, f.create}, {&branch, f.branch}} {
			if err := f.measure(m.clock, way.times, way.found); err != nil {
				return err
			}
		}
	}
	if err := f.close(); err != nil {
		return err
	}
	for range rounds {
		if err := f.measure(m.clock, &reinit, f.successor); err != nil {
			return err
		}
	}
	for _, row := range []struct {
		name       string
		list       []float64
		against    string
		comparison []float64
	}{
		{name: "create", list: create.found}, {name: "create-join", list: create.joined},
		{name: "branch", list: branch.found, against: "create", comparison: create.found}, {name: "branch-join", list: branch.joined, against: "create-join", comparison: create.joined},
		{name: "reinit", list: reinit.found, against: "create", comparison: create.found}, {name: "reinit-join", list: reinit.joined, against: "create-join", comparison: create.joined},
	} {
		r := harness.Row{Name: row.name, Suite: uint16(m.c.suite), N: m.n, Value: stats.Median(row.list), Unit: "ms"}
		if row.against != "" {
			r.Against, r.Ratio = row.against, r.Value/stats.Median(row.comparison)
		}
		if err := m.emit(r); err != nil {
			return err
		}
	}
	return nil
}

// foundingTimes holds milliseconds.
type foundingTimes struct{ found, joined []float64 }

// foundings is a group of n members whose first member founds other groups, with KeyPackages of all other members.
type foundings struct {
	c        *coreGroup
	identity mlscore.Identity // of the first member
	packages []*mlscore.KeyPackage
	made     int // groups created or branched off
}

func newFoundings(suite mlscore.CipherSuite, n int) (*foundings, error) {
	c, err := newCoreGroup(suite, n)
	if err != nil {
		return nil, err
	}
	f := &foundings{c: c}
	if f.identity, err = mlscore.NewIdentity(nil, suite, mlscore.BasicCredential([]byte(coreName(0)))); err != nil {
		return nil, err
	}
	others, _, _, err := newCoreClient(suite, "")
	if err != nil {
		return nil, err
	}
	for i := 1; i < n; i++ { // fabricated members have the names that Fabricate gives them
		client, name := others, fmt.Sprintf("member %d", i)
		if i == n-1 {
			client, name = c.clients[1], coreName(i)
		}
		id, err := mlscore.NewIdentity(nil, suite, mlscore.BasicCredential([]byte(name)))
		if err != nil {
			return nil, err
		}
		kp, err := client.NewKeyPackage(id, mlscore.KeyPackageOptions{LastResort: true})
		if err != nil {
			return nil, err
		}
		f.packages = append(f.packages, kp)
	}
	return f, nil
}

// measure founds a group, lets the last member join it, and makes both forget it.
func (f *foundings) measure(now clock, times *foundingTimes, found func() (*mlscore.Group, []byte, error)) error {
	var g *mlscore.Group
	var welcome []byte
	runtime.GC() // of what came before
	t, err := now.timed(func() (err error) {
		g, welcome, err = found()
		return err
	})
	if err != nil {
		return err
	}
	times.found = append(times.found, t)
	tree, err := g.Public().Tree()
	if err != nil {
		return err
	}
	if err := g.Erase(); err != nil {
		return err
	}
	runtime.GC()
	if t, err = now.timed(func() (err error) {
		g, err = f.c.clients[1].Join(welcome, mlscore.JoinOptions{Tree: tree})
		return err
	}); err != nil {
		return err
	}
	times.joined = append(times.joined, t)
	return g.Erase()
}

func (f *foundings) nextID() []byte {
	f.made++
	return fmt.Appendf(nil, "founded %08d", f.made)
}

func (f *foundings) create() (*mlscore.Group, []byte, error) {
	g, err := f.c.clients[0].CreateGroup(f.identity, f.nextID(), mlscore.CreateOptions{})
	if err != nil {
		return nil, nil, err
	}
	adds := make([]mlscore.Proposal, len(f.packages))
	for i, kp := range f.packages {
		adds[i] = mlscore.AddProposal(kp)
	}
	commit, err := g.Commit(mlscore.CommitOptions{Proposals: adds})
	if err != nil {
		return nil, nil, err
	}
	return g, commit.Welcome, g.Merge(commit.Staged)
}

func (f *foundings) options() mlscore.FoundOptions {
	return mlscore.FoundOptions{Identity: &f.identity, KeyPackages: f.packages}
}

func (f *foundings) branch() (*mlscore.Group, []byte, error) {
	made, err := f.c.a.Branch(f.nextID(), f.options())
	if err != nil {
		return nil, nil, err
	}
	return made.Group, made.Welcome, nil
}

// close closes the group by a ReInit with the same cipher suite.
func (f *foundings) close() error {
	next := mlscore.ReInit{GroupID: []byte("successor"), Version: mlscore.MLS10, CipherSuite: f.c.suite}
	commit, err := f.c.commit(mlscore.ReInitProposal(next))
	if err != nil {
		return err
	}
	return f.c.follow(commit)
}

func (f *foundings) successor() (*mlscore.Group, []byte, error) {
	made, err := f.c.a.Successor(f.options())
	if err != nil {
		return nil, nil, err
	}
	return made.Group, made.Welcome, nil
}
