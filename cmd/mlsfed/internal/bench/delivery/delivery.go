// Package delivery has the benchmarks of devices and their nodes: how messages reach devices (delivery), what a device
// costs (device), and a large group (large). All three run in a world: a federation with devices.
package delivery

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/internal/stats"
)

// bench measures how messages reach devices of other organizations.
type bench struct {
	harness.Bench
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
	chats         []int // numbers of pairs of rate, rising
	many          int   // conversations of many
	manyCommits   int   // in each of them, before they are measured
	roomDevices   int   // of the large room, in each of its two organizations
}

// The limits of the flags. Each device has a connection and a store of its own.
const (
	maxDevices = 1000
	maxSize    = 32 << 10
	maxWaiting = 100_000
)

// workloads returns the parts of the benchmark, in the order in which they run.
func (b *bench) workloads() []harness.Workload {
	return []harness.Workload{
		{Name: "one-to-one", Run: b.oneToOne},
		{Name: "room", Run: b.room},
		{Name: "outage", Run: b.outage},
		{Name: "device", Run: b.ofDevice},
		{Name: "rate", Run: b.withNodes(b.rates)},
		{Name: "many", Run: b.withNodes(b.manyChats)},
		{Name: "large-room", Run: b.withNodes(b.largeRoom)},
	}
}

// Command returns the command 'bench delivery'.
func Command() *cobra.Command {
	b := &bench{}
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

outage: one of three organizations stops its node, messages for it wait, and the others commit. The node starts again:
the time until it serves, and until each message and the last of them have arrived, both from the start of the node.

device: the transactions for which a device waits, for each message that it sends while the other device is away, and for each that
the other one receives when it is back, with receipts; and the time from an act of the user until a device is connected to a node that
serves again.

rate: as one-to-one, for several numbers of pairs, with nodes as processes. One pair is compared with the floor: the
fsyncs and the ways over TLS of a message, measured in the same run. The processor time is that of the nodes.

many: many conversations with some commits each, in which 16 senders send in turn, compared with 16 such conversations.

large-room: one conversation of two organizations with many devices: the nodes' processor time of a message, and the time
until all devices have it.

Limits on the rates of devices are lifted, since they are not what is measured. --processor-time adds the
processor time of a message: of the nodes alone with --node, else of nodes and devices.`,
		Example: "  mlsfed bench delivery\n  mlsfed bench delivery --short\n  mlsfed bench delivery --only room --devices 20 --processor-time\n" +
			"  mlsfed bench delivery --against ./mlsfed-before --duration 3s --processor-time",
		Args: cobra.NoArgs,
	}
	b.AddFlags(c, "one-to-one, room, outage, device, rate, many, large-room", "run the nodes as processes of this `program`, another build of mlsfed")
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
	f.IntSliceVar(&b.chats, "chats", []int{1, 8, 64}, "pairs of rate, rising numbers")
	f.IntVar(&b.many, "many", 1000, "conversations of many")
	f.IntVar(&b.manyCommits, "many-commits", 3, "commits in each of them")
	f.IntVar(&b.roomDevices, "room-devices", 50, "devices of the large room in each of its two organizations")
	other := harness.AddAgainst(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if b.Short {
			b.shorten(c)
		}
		if err := b.check(); err != nil {
			return cli.UsageError(err)
		}
		return b.RunNodes(c, other, false, b.workloads, harness.SameLoad)
	}
	return c
}

// shorten sets the sizes of the short form where no flag has set them.
func (b *bench) shorten(c *cobra.Command) {
	harness.Unless(c, map[string]func(){
		"duration":      func() { b.duration = time.Second },
		"organizations": func() { b.organizations = 3 },
		"devices":       func() { b.devices = 2 },
		"waiting":       func() { b.waiting = 20 },
		"conversations": func() { b.conversations = 2 },
		"down":          func() { b.down = 0 },
		"chats":         func() { b.chats = []int{1, 4} },
		"many":          func() { b.many = 2 * manyAgainst },
		"many-commits":  func() { b.manyCommits = 1 },
		"room-devices":  func() { b.roomDevices = 4 },
	})
}

// check refuses flags that cannot be measured.
func (b *bench) check() error {
	if err := harness.CheckBounds([]harness.Bounds{
		{Flag: "size", N: b.size, Least: 8, Most: maxSize},
		{Flag: "pairs", N: b.pairs, Least: 1, Most: maxDevices / 2},
		{Flag: "organizations", N: b.organizations, Least: 2, Most: 20},
		{Flag: "devices", N: b.devices, Least: 1, Most: maxDevices / max(b.organizations, 1)},
		{Flag: "waiting", N: b.waiting, Least: 1, Most: maxWaiting},
		{Flag: "conversations", N: b.conversations, Least: 1, Most: min(b.waiting, maxDevices)},
	}); err != nil {
		return err
	}
	if err := harness.CheckBounds([]harness.Bounds{
		{Flag: "many", N: b.many, Least: manyAgainst, Most: maxDevices / 2 * perPair},
		{Flag: "many-commits", N: b.manyCommits, Least: 0, Most: maxWaiting},
		{Flag: "room-devices", N: b.roomDevices, Least: 1, Most: maxDevices / 2},
	}); err != nil {
		return err
	}
	if len(b.chats) == 0 || !slices.IsSorted(b.chats) || b.chats[0] < 1 || b.chats[len(b.chats)-1] > maxDevices/2 {
		return fmt.Errorf("--chats %v: wanted rising numbers from 1 to %d", b.chats, maxDevices/2)
	}
	if b.duration <= 0 || b.down < 0 {
		return fmt.Errorf("--duration %v and --down %v: wanted more than 0, and 0 or more", b.duration, b.down)
	}
	if b.processor && b.Node == "" && !harness.HasProcessorTime {
		return errors.New("--processor-time: this system does not report the processor time of a process")
	}
	return b.CheckOnly(b.workloads())
}

// talked holds the costs of a load.
type talked struct {
	took      []float64 // of each message, in milliseconds
	elapsed   time.Duration
	processor time.Duration // 0 if not asked for
}

// rows prints the figures of a workload. n is its size, which does not depend on the speed.
func (b *bench) rows(name string, n int, t *talked) error {
	count := float64(len(t.took))
	rows := []harness.Row{
		{Name: name + "/rate", N: n, Value: count / t.elapsed.Seconds(), Unit: harness.UnitRate},
		{Name: name + "/p50", N: n, Value: stats.Percentile(t.took, 0.5), Unit: "ms"},
		{Name: name + "/p99", N: n, Value: stats.Percentile(t.took, 0.99), Unit: "ms"},
	}
	if b.processor {
		rows = append(rows, harness.Row{Name: name + "/processor", N: n, Value: harness.Milliseconds(t.processor) / count, Unit: "ms"})
	}
	for _, r := range rows {
		if err := b.Table.Add(r); err != nil {
			return err
		}
	}
	return nil
}
