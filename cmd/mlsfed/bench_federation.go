package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// federationBench measures what the number of organizations costs.
type federationBench struct {
	loadBench

	mesh, hub, dead, talk []int // sizes, in organizations

	settle time.Duration // before anything idle is measured
	window time.Duration // that is measured
	wait   time.Duration // the longest for links and replicas
}

// maxFederation bounds the sizes: each node of a mesh is a process.
var maxFederation = map[string]int{"mesh": 500, "hub": 5000, "dead": 20_000, "conversation": 256}

func (b *federationBench) sizes() map[string]*[]int {
	return map[string]*[]int{"mesh": &b.mesh, "hub": &b.hub, "dead": &b.dead, "conversation": &b.talk}
}

// loads are the parts of the benchmark, in the order in which they run.
func (b *federationBench) loads() []federationLoad {
	return []federationLoad{
		{"mesh", b.measureMesh}, {"hub", b.measureHub}, {"dead", b.measureDead}, {"conversation", b.measureConversation},
	}
}

// federationLoad is one part, which is run for each of its sizes.
type federationLoad struct {
	name string
	run  func(ctx context.Context, dir string, n int) error
}

func newBenchFederation() *cobra.Command {
	b := &federationBench{}
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
has its voters, and all its replicas; bytes that all nodes send for a commit.

--settle is how long a federation rests before it is measured for --window. Traffic is that of sockets and files
together, both ways, and needs Linux.`,
		Example: "  mlsfed bench federation\n  mlsfed bench federation --short\n  mlsfed bench federation --only dead --dead 1000,5000 --settle 10m\n" +
			"  mlsfed bench federation --against ./mlsfed-before --only hub --hub 100",
		Args: cobra.NoArgs,
	}
	b.flags(c, "mesh, hub, dead, conversation", "run the nodes as processes of this `program`, another build of mlsfed (default this one)")
	f := c.Flags()
	f.IntSliceVar(&b.mesh, "mesh", []int{10, 30}, "sizes of mesh")
	f.IntSliceVar(&b.hub, "hub", []int{30, 100, 300}, "sizes of hub")
	f.IntSliceVar(&b.dead, "dead", []int{100, 1000}, "sizes of dead")
	f.IntSliceVar(&b.talk, "conversation", []int{10, 30}, "sizes of conversation")
	f.DurationVar(&b.settle, "settle", 30*time.Second, "how long a federation rests before it is measured")
	f.DurationVar(&b.window, "window", 10*time.Second, "how long it is measured")
	f.DurationVar(&b.wait, "wait", 2*time.Minute, "the longest for links and replicas; a row says what lacks then")
	other := addAgainst(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if b.short {
			b.shorten(c)
		}
		if err := b.check(); err != nil {
			return usageError{err}
		}
		if b.node != "" && other.binary != "" {
			return usageError{errNodeAgainst}
		}
		if err := b.findNode(true); err != nil {
			return err
		}
		b.table = newBenchTable(c, b.json)
		if other.binary == "" {
			b.table.head()
			return b.runAll(c.Context(), b.workloads())
		}
		return other.run(c, b.table, deliveryBuilds)
	}
	return c
}

// shorten sets the sizes of the short form where no flag has set them.
func (b *federationBench) shorten(c *cobra.Command) {
	for name, n := range map[string]int{"mesh": 3, "hub": 5, "dead": 20, "conversation": 3} {
		if !c.Flags().Changed(name) {
			*b.sizes()[name] = []int{n}
		}
	}
	unless(c, map[string]func(){
		"settle": func() { b.settle = time.Second },
		"window": func() { b.window = time.Second },
	})
}

// check refuses what cannot be measured.
func (b *federationBench) check() error {
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
	return b.checkOnly(b.workloads())
}

// workloads runs each load in each of its sizes.
func (b *federationBench) workloads() (list []workload) {
	for _, load := range b.loads() {
		list = append(list, workload{load.name, func(ctx context.Context) error {
			for _, n := range *b.sizes()[load.name] {
				b.table.progress("%s of %d organizations", load.name, n)
				dir := filepath.Join(b.dir, fmt.Sprintf("%s%d", load.name[:1], n))
				if err := load.run(ctx, dir, n); err != nil {
					return fmt.Errorf("%d organizations: %w", n, err)
				}
			}
			return nil
		}})
	}
	return list
}

// row prints a figure.
func (b *federationBench) row(name string, n int, value float64, unit string) error {
	return b.table.add(benchRow{Name: name, N: n, Value: value, Unit: unit})
}

// await asks until done, for b.wait at most, and reports whether it was done and how long that took.
func (b *federationBench) await(ctx context.Context, what string, done func() (bool, string, error)) (took time.Duration, ok bool, err error) {
	begun, told := time.Now(), time.Now()
	for {
		ok, state, err := done()
		if err != nil || ok {
			return time.Since(begun), ok, err
		}
		if time.Since(begun) > b.wait {
			b.table.progress("%s: given up after %v: %s", what, b.wait, state)
			return time.Since(begun), false, nil
		}
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			b.table.progress("%s: %s", what, strings.TrimSpace(state))
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
