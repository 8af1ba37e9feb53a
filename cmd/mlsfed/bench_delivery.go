package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/stats"
)

// deliveryBench measures how messages reach devices of other organizations.
type deliveryBench struct {
	table     *benchTable
	dir       string
	node      string // the program that runs the nodes; "": this process does
	own       bool   // node is this build
	processor bool
	only      []string

	size          int // of a message's content, in bytes
	duration      time.Duration
	pairs         int
	organizations int
	devices       int // in each organization of the room
	waiting       int // messages that wait for the organization that is down
	conversations int // of those messages
	down          time.Duration
}

// The limits of the flags. Each device has a connection and a store of its own.
const (
	maxDeliveryDevices = 1000
	maxDeliverySize    = 32 << 10
	maxDeliveryWaiting = 100_000
)

// workloads are the parts of the benchmark, in the order in which they run.
func (b *deliveryBench) workloads() []workload {
	return []workload{
		{"one-to-one", b.oneToOne},
		{"room", b.room},
		{"outage", b.outage},
	}
}

// workload is one part of the benchmark, which makes a federation of its own.
type workload struct {
	name string
	run  func(context.Context) error
}

func newBenchDelivery() *cobra.Command {
	b := &deliveryBench{}
	var asJSON, short bool
	c := &cobra.Command{
		Use:   "delivery",
		Short: "Measure how messages reach devices in other organizations",
		Long: `Nodes run in this process, or with --node in processes of their own: real sockets on loopback, TLS, fsync,
and devices that speak WebSocket, encrypt, and keep what they receive in a store on disk. A message counts when
the last device that it is for has stored it.

one-to-one: pairs of devices of two organizations. In each pair one device sends the next message when the
other one has the last.

room: one conversation of several organizations with several devices each. In each organization one device
sends the next message when all other devices have its last.

outage: one of three organizations stops its node, and messages for it wait. The node starts again: the time
until it serves, and until each message and the last of them have arrived, both from the start of the node.

Limits on the rates of devices are lifted, since they are not what is measured. --processor-time adds the
processor time of a message: of the nodes alone with --node, else of nodes and devices.`,
		Example: "  mlsfed bench delivery\n  mlsfed bench delivery --short\n  mlsfed bench delivery --only room --devices 20 --processor-time\n" +
			"  mlsfed bench delivery --against ./mlsfed-before --duration 3s --processor-time",
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.BoolVar(&asJSON, "json", false, "print an object for each row")
	f.BoolVar(&short, "short", false, "the smallest form, some seconds: its sizes hold where no flag says otherwise")
	f.BoolVar(&b.processor, "processor-time", false, "measure the processor time of a message too")
	f.StringVar(&b.node, "node", "", "run the nodes as processes of this `program`, another build of mlsfed")
	f.StringVar(&b.dir, "dir", "", "folder on the disk to be measured (default a temporary one)")
	f.StringSliceVar(&b.only, "only", nil, "workloads to measure: one-to-one, room, outage (default all)")
	f.IntVar(&b.size, "size", 1024, "bytes of a message's content")
	f.DurationVar(&b.duration, "duration", 10*time.Second, "how long one-to-one and room are measured, after a fifth of it to warm up")
	f.IntVar(&b.pairs, "pairs", 1, "pairs of one-to-one")
	f.IntVar(&b.organizations, "organizations", 4, "organizations of the room")
	f.IntVar(&b.devices, "devices", 3, "devices of the room in each organization")
	f.IntVar(&b.waiting, "waiting", 200, "messages that wait for the organization that is down")
	f.IntVar(&b.conversations, "conversations", 10, "conversations of those messages")
	f.DurationVar(&b.down, "down", 3*time.Second, "how long the node is down at least")
	other := addAgainst(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if short {
			b.shorten(c)
		}
		if err := b.check(); err != nil {
			return usageError{err}
		}
		if b.node != "" && other.binary != "" {
			return usageError{errors.New("--node and --against: --against runs the nodes of both builds, leave out --node")}
		}
		if b.node != "" {
			file, err := program("node", b.node)
			if err != nil {
				return err
			}
			b.node = file
		}
		b.table = newBenchTable(c, asJSON)
		if other.binary == "" {
			b.table.head()
			return b.run(c.Context())
		}
		return other.run(c, b.table, deliveryBuilds)
	}
	return c
}

// deliveryBuilds has the load come from this build's devices for both builds, whose nodes are what is
// compared. So the other build needs no 'bench delivery', and both are loaded in the same way.
func deliveryBuilds(this, other string, args []string) comparison {
	return comparison{
		this:  slices.Concat([]string{this}, args, []string{"--node=" + this}),
		other: slices.Concat([]string{this}, args, []string{"--node=" + other}),
		needs: []string{"serve"},
	}
}

// shorten sets the sizes of the short form where no flag has set them.
func (b *deliveryBench) shorten(c *cobra.Command) {
	for name, set := range map[string]func(){
		"duration":      func() { b.duration = time.Second },
		"organizations": func() { b.organizations = 3 },
		"devices":       func() { b.devices = 2 },
		"waiting":       func() { b.waiting = 20 },
		"conversations": func() { b.conversations = 2 },
		"down":          func() { b.down = 0 },
	} {
		if !c.Flags().Changed(name) {
			set()
		}
	}
}

// check refuses what cannot be measured.
func (b *deliveryBench) check() error {
	for _, v := range []struct {
		flag           string
		n, least, most int
	}{
		{"size", b.size, 8, maxDeliverySize},
		{"pairs", b.pairs, 1, maxDeliveryDevices / 2},
		{"organizations", b.organizations, 2, 20},
		{"devices", b.devices, 1, maxDeliveryDevices / max(b.organizations, 1)},
		{"waiting", b.waiting, 1, maxDeliveryWaiting},
		{"conversations", b.conversations, 1, min(b.waiting, maxDeliveryDevices)},
	} {
		if v.n < v.least || v.n > v.most {
			return fmt.Errorf("--%s %d: wanted %d to %d", v.flag, v.n, v.least, v.most)
		}
	}
	if b.duration <= 0 || b.down < 0 {
		return fmt.Errorf("--duration %v and --down %v: wanted more than 0, and 0 or more", b.duration, b.down)
	}
	if b.processor && b.node == "" && !hasProcessorTime {
		return errors.New("--processor-time: this system does not report the processor time of a process")
	}
	names := make([]string, 0, len(b.workloads()))
	for _, w := range b.workloads() {
		names = append(names, w.name)
	}
	for _, name := range b.only {
		if !slices.Contains(names, name) {
			return fmt.Errorf("--only %s: wanted some of %s", name, strings.Join(names, ", "))
		}
	}
	return nil
}

func (b *deliveryBench) run(ctx context.Context) (err error) {
	made, err := os.MkdirTemp(b.dir, "mlsfed-bench-")
	if err != nil {
		return fmt.Errorf("--dir: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(made)) }()
	if b.dir, err = filepath.Abs(made); err != nil {
		return fmt.Errorf("--dir: %w", err)
	}
	for _, w := range b.workloads() {
		if len(b.only) > 0 && !slices.Contains(b.only, w.name) {
			continue
		}
		if err := w.run(ctx); err != nil {
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			return fmt.Errorf("%s: %w", w.name, err)
		}
	}
	return nil
}

// talked is what a load took.
type talked struct {
	took      []float64 // of each message, in milliseconds
	elapsed   time.Duration
	processor time.Duration // 0 if it is not asked for
}

// rows prints the figures of a workload. n is its size, which does not depend on the speed.
func (b *deliveryBench) rows(name string, n int, t *talked) error {
	count := float64(len(t.took))
	rows := []benchRow{
		{Name: name + "/rate", N: n, Value: count / t.elapsed.Seconds(), Unit: unitRate},
		{Name: name + "/p50", N: n, Value: stats.Percentile(t.took, 0.5), Unit: "ms"},
		{Name: name + "/p99", N: n, Value: stats.Percentile(t.took, 0.99), Unit: "ms"},
	}
	if b.processor {
		rows = append(rows, benchRow{Name: name + "/processor", N: n, Value: inMilliseconds(t.processor) / count, Unit: "ms"})
	}
	for _, r := range rows {
		if err := b.table.add(r); err != nil {
			return err
		}
	}
	return nil
}

func inMilliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
