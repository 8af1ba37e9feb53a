// Package federation has the benchmark of many organizations and their nodes.
package federation

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/internal/stats"
)

// bench measures how costs depend on the number of organizations.
type bench struct {
	harness.Bench

	mesh, hub, dead, talk []int // sizes, in organizations

	settle time.Duration // time before anything idle is measured
	window time.Duration // the time that is measured
	wait   time.Duration // the longest for links and replicas
	growth bool          // print how the figures grow with the size

	rows []harness.Row // of the part that is running
}

// maxFederation bounds the sizes: each node of a mesh is a process.
var maxFederation = map[string]int{"mesh": 500, "hub": 5000, "dead": 20_000, "conversation": 256}

func (b *bench) sizes() map[string]*[]int {
	return map[string]*[]int{"mesh": &b.mesh, "hub": &b.hub, "dead": &b.dead, "conversation": &b.talk}
}

// loads returns the parts of the benchmark, in the order in which they run.
func (b *bench) loads() []federationLoad {
	return []federationLoad{
		{"mesh", b.measureMesh}, {"hub", b.measureHub}, {"dead", b.measureDead}, {"conversation", b.measureConversation},
	}
}

// federationLoad is one part, which is run for each of its sizes.
type federationLoad struct {
	name string
	run  func(ctx context.Context, dir string, n int) error
}

// Command returns the command 'bench federation'.
func Command() *cobra.Command {
	b := &bench{}
	c := &cobra.Command{
		Use:   "federation",
		Short: "Measure what the number of organizations costs",
		Long: `Nodes run in processes of their own: real sockets on loopback, TLS, fsync. A size is a number of organizations.

mesh: all organizations admit each other, with one node each. The time until each node has a link to each other
one, once the last node serves, and how many links lack then; processor time and traffic of an idle node; the time
until all have heard of a restarted node's new record.

hub: one node, which is measured, and partners that admit nobody but it and live in this process. The hub has no
address of them.

dead: one node, and organizations whose nodes accept connections and close them, among them one that lives. The
time until that one has a link, and attempts a second after --settle.

conversation: a device of one organization adds one of each other in one commit. The time until the conversation
has its voters, and all its replicas; bytes that all nodes write for a commit, logs and devices included, and that they
send to each other, by the kind of frame. The rows 'settled' are of commits after each device has made one.

--settle is how long a federation rests before it is measured for --window. Traffic is that of sockets and files
together, both ways, and needs Linux.`,
		Example: "  mlsfed bench federation\n  mlsfed bench federation --short\n  mlsfed bench federation --only dead --dead 1000,5000 --settle 10m\n" +
			"  mlsfed bench federation --against ./mlsfed-before --only hub --hub 100",
		Args: cobra.NoArgs,
	}
	b.AddFlags(c, "mesh, hub, dead, conversation", "run the nodes as processes of this `program`, another build of mlsfed (default this one)")
	f := c.Flags()
	f.IntSliceVar(&b.mesh, "mesh", []int{10, 30}, "sizes of mesh")
	f.IntSliceVar(&b.hub, "hub", []int{30, 100, 300}, "sizes of hub")
	f.IntSliceVar(&b.dead, "dead", []int{100, 1000}, "sizes of dead")
	f.IntSliceVar(&b.talk, "conversation", []int{10, 30}, "sizes of conversation")
	f.DurationVar(&b.settle, "settle", 30*time.Second, "how long a federation rests before it is measured")
	f.DurationVar(&b.window, "window", 10*time.Second, "how long it is measured")
	f.DurationVar(&b.wait, "wait", 2*time.Minute, "the longest for links and replicas; a row says what lacks then")
	f.BoolVar(&b.growth, "growth", true, "with several sizes: for each figure the power of the size with which it grows")
	other := harness.AddAgainst(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if b.Short {
			b.shorten(c)
		}
		if err := b.check(); err != nil {
			return cli.UsageError(err)
		}
		return b.RunNodes(c, other, true, b.workloads, func(this, other string, args []string) harness.Comparison {
			return harness.SameLoad(this, other, append(args, "--growth=false"))
		})
	}
	return c
}

// shorten sets the sizes of the short form where no flag has set them.
func (b *bench) shorten(c *cobra.Command) {
	for name, n := range map[string]int{"mesh": 3, "hub": 5, "dead": 20, "conversation": 3} {
		if !c.Flags().Changed(name) {
			*b.sizes()[name] = []int{n}
		}
	}
	harness.Unless(c, map[string]func(){
		"settle": func() { b.settle = time.Second },
		"window": func() { b.window = time.Second },
	})
}

// check refuses flags that cannot be measured.
func (b *bench) check() error {
	for name, sizes := range b.sizes() {
		for _, n := range *sizes {
			if n < 2 || n > maxFederation[name] {
				return fmt.Errorf("--%s %d: wanted 2 to %d", name, n, maxFederation[name])
			}
		}
	}
	if b.settle < 0 || b.window <= 0 || b.wait <= 0 {
		return fmt.Errorf("--settle %v, --window %v and --wait %v: wanted 0 or more, and more than 0", b.settle, b.window, b.wait)
	}
	return b.CheckOnly(b.workloads())
}

// workloads runs each load in each of its sizes.
func (b *bench) workloads() (list []harness.Workload) {
	for _, load := range b.loads() {
		list = append(list, harness.Workload{Name: load.name, Run: func(ctx context.Context) error {
			for _, n := range *b.sizes()[load.name] {
				b.Table.Progress("%s of %d organizations", load.name, n)
				dir := filepath.Join(b.Dir, fmt.Sprintf("%s%d", load.name[:1], n))
				if err := load.run(ctx, dir, n); err != nil {
					return fmt.Errorf("%d organizations: %w", n, err)
				}
			}
			return b.printGrowth()
		}})
	}
	return list
}

// row prints a figure.
func (b *bench) row(name string, n int, value float64, unit string) error {
	r := harness.Row{Name: name, N: n, Value: value, Unit: unit}
	b.rows = append(b.rows, r)
	return b.Table.Add(r)
}

// printGrowth prints the power of the number of organizations with which the figures of a part grow, and forgets the
// figures. n is the number of sizes.
func (b *bench) printGrowth() error {
	sizes, values := make(map[string][]float64), make(map[string][]float64)
	var names []string
	for _, r := range b.rows {
		if len(sizes[r.Name]) == 0 {
			names = append(names, r.Name)
		}
		sizes[r.Name], values[r.Name] = append(sizes[r.Name], float64(r.N)), append(values[r.Name], r.Value)
	}
	b.rows = nil
	for _, name := range names {
		power, err := stats.Growth(sizes[name], values[name])
		if err != nil || !b.growth {
			continue // one size, or a figure with a value of 0, for example a number of missing links
		}
		if err := b.Table.Add(harness.Row{Name: name + "/growth", N: len(sizes[name]), Value: power, Unit: "power"}); err != nil {
			return err
		}
	}
	return nil
}

// await polls until done reports true, for at most b.wait, and reports whether that happened and how long it took.
func (b *bench) await(ctx context.Context, what string, done func() (bool, string, error)) (took time.Duration, ok bool, err error) {
	begun, reported := time.Now(), time.Now()
	for {
		ok, state, err := done()
		if err != nil || ok {
			return time.Since(begun), ok, err
		}
		if time.Since(begun) > b.wait {
			b.Table.Progress("%s: given up after %v: %s", what, b.wait, state)
			return time.Since(begun), false, nil
		}
		if time.Since(reported) > 10*time.Second {
			reported = time.Now()
			b.Table.Progress("%s: %s", what, strings.TrimSpace(state))
		}
		if err := sleepUntil(ctx, 50*time.Millisecond); err != nil {
			return 0, false, err
		}
	}
}

func sleepUntil(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
