package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/stats"
)

// deliveryBench measures how messages reach devices of other organizations.
type deliveryBench struct {
	loadBench
	own       bool // node is this build; it is "" where this process runs the nodes
	processor bool

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

func newBenchDelivery() *cobra.Command {
	b := &deliveryBench{}
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
	b.flags(c, "one-to-one, room, outage", "run the nodes as processes of this `program`, another build of mlsfed")
	f := c.Flags()
	f.BoolVar(&b.processor, "processor-time", false, "measure the processor time of a message too")
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
		if b.short {
			b.shorten(c)
		}
		if err := b.check(); err != nil {
			return usageError{err}
		}
		if b.node != "" && other.binary != "" {
			return usageError{errNodeAgainst}
		}
		if err := b.findNode(false); err != nil {
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
	unless(c, map[string]func(){
		"duration":      func() { b.duration = time.Second },
		"organizations": func() { b.organizations = 3 },
		"devices":       func() { b.devices = 2 },
		"waiting":       func() { b.waiting = 20 },
		"conversations": func() { b.conversations = 2 },
		"down":          func() { b.down = 0 },
	})
}

// check refuses what cannot be measured.
func (b *deliveryBench) check() error {
	if err := checkBounds([]flagBounds{
		{"size", b.size, 8, maxDeliverySize},
		{"pairs", b.pairs, 1, maxDeliveryDevices / 2},
		{"organizations", b.organizations, 2, 20},
		{"devices", b.devices, 1, maxDeliveryDevices / max(b.organizations, 1)},
		{"waiting", b.waiting, 1, maxDeliveryWaiting},
		{"conversations", b.conversations, 1, min(b.waiting, maxDeliveryDevices)},
	}); err != nil {
		return err
	}
	if b.duration <= 0 || b.down < 0 {
		return fmt.Errorf("--duration %v and --down %v: wanted more than 0, and 0 or more", b.duration, b.down)
	}
	if b.processor && b.node == "" && !hasProcessorTime {
		return errors.New("--processor-time: this system does not report the processor time of a process")
	}
	return b.checkOnly(b.workloads())
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
