package delivery

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/internal/stats"
)

// deviceBench measures the costs of a device in a long life.
type deviceBench struct {
	bench // the world, the table and the selection of workloads

	groups  int // conversations of the device
	history int // messages in its store
	samples int // operations for the median of a figure
	devices int // of one user
	shared  int // conversations of all of them
	commits int // that a device misses
	missed  int // messages that it misses
}

// The limits of the flags.
const (
	maxDeviceGroups  = 10_000
	maxDeviceHistory = 10_000_000
	maxDeviceSamples = 1_000
	maxDeviceCommits = 100_000
)

// workloads returns the parts of the benchmark, in the order in which they run.
func (b *deviceBench) workloads() []harness.Workload {
	return []harness.Workload{
		{Name: "conversations", Run: b.manyConversations},
		{Name: "history", Run: b.longHistory},
		{Name: "devices", Run: b.manyDevices},
		{Name: "away", Run: b.longAway},
		{Name: "keys", Run: b.keyChangesOfWeeks},
	}
}

// DeviceCommand returns the command 'bench device'.
func DeviceCommand() *cobra.Command {
	b := &deviceBench{}
	c := &cobra.Command{
		Use:   "device",
		Short: "Measure a device with many conversations and a long history",
		Long: `The nodes of two organizations run as processes of this program, with TLS and fsync on loopback. The device that is
measured runs in this process, with its store on disk: processor time and bytes written are those of the device alone.

conversations: a device in many conversations with one other device. upkeep is one round of what a device looks after
by itself; create is one conversation more; start is a start until the device has nothing left to do; incoming is one
message that waited while the device was away, without its receipt; list is the list of conversations, with the opening of the store;
send is one message, with a start of its own, until it is accepted.

history: a store with many messages. open is the opening of the store; written is what one message that is sent
writes on the device until it is accepted.

devices: devices of one user. added is the time from the enrolment of the last one until it is in all conversations; send is
what a message in one of them costs all devices of the user, the other one and the nodes together, in processor time.

away: a device comes back that has missed messages and commits of one conversation. item is its processor time for each of
them; memory is what it holds at the end.

keys: in virtual time, commits that members of a group try for each that wins, to give themselves new keys.`,
		Example: "  mlsfed bench device\n  mlsfed bench device --short\n  mlsfed bench device --only history --history 1000000",
		Args:    cobra.NoArgs,
	}
	b.AddFlags(c, "conversations, history, devices, away, keys", "run the nodes from this `program`, this build in another file")
	f := c.Flags()
	f.IntVar(&b.groups, "conversations", 1000, "conversations of the device")
	f.IntVar(&b.history, "history", 100_000, "messages in the store")
	f.IntVar(&b.samples, "samples", 20, "operations that a figure is the median of")
	f.IntVar(&b.devices, "devices", 20, "devices of one user")
	f.IntVar(&b.shared, "shared", 100, "conversations that all of them are in")
	f.IntVar(&b.commits, "commits", 1000, "commits that a device misses")
	f.IntVar(&b.missed, "messages", 10_000, "messages that it misses")
	other := harness.AddAgainst(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if b.Short {
			b.shorten(c)
		}
		if err := b.check(); err != nil {
			return cli.UsageError(err)
		}
		b.Table = harness.NewTable(c, b.JSON)
		if other.Binary != "" {
			return other.Run(c, b.Table, harness.SameBench("device"))
		}
		if err := b.FindNode(true); err != nil {
			return err
		}
		b.own, b.processor = true, true
		b.Table.Head()
		return b.RunAll(c.Context(), b.workloads())
	}
	return c
}

// shorten sets the sizes of the short form where no flag has set them.
func (b *deviceBench) shorten(c *cobra.Command) {
	harness.Unless(c, map[string]func(){
		"conversations": func() { b.groups = 20 },
		"history":       func() { b.history = 2000 },
		"samples":       func() { b.samples = 3 },
		"devices":       func() { b.devices = 3 },
		"shared":        func() { b.shared = 5 },
		"commits":       func() { b.commits = 20 },
		"messages":      func() { b.missed = 100 },
	})
}

// check refuses flags that cannot be measured.
func (b *deviceBench) check() error {
	if err := harness.CheckBounds([]harness.Bounds{
		{Flag: "conversations", N: b.groups, Least: 1, Most: maxDeviceGroups},
		{Flag: "history", N: b.history, Least: 1, Most: maxDeviceHistory},
		{Flag: "samples", N: b.samples, Least: 1, Most: maxDeviceSamples},
		{Flag: "devices", N: b.devices, Least: 2, Most: maxDevices},
		{Flag: "shared", N: b.shared, Least: 1, Most: maxDeviceGroups},
		{Flag: "commits", N: b.commits, Least: 1, Most: maxDeviceCommits},
		{Flag: "messages", N: b.missed, Least: 1, Most: maxWaiting},
	}); err != nil {
		return err
	}
	if !harness.HasProcessorTime {
		return errors.New("the operating system does not report the processor time of a process")
	}
	return b.CheckOnly(b.workloads())
}

// sample holds the costs of one operation of the device.
type sample struct {
	processor, elapsed time.Duration
	written            int64 // bytes passed to the operating system
}

// sampled measures an operation of this process.
func sampled(f func() error) (sample, error) {
	processor, written, start := harness.ProcessorTime(), harness.BytesWritten(), time.Now()
	err := f()
	return sample{harness.ProcessorTime() - processor, time.Since(start), harness.BytesWritten() - written}, err
}

// median returns the median of one value of the samples.
func median(list []sample, of func(sample) float64) float64 {
	values := make([]float64, len(list))
	for i, s := range list {
		values[i] = of(s)
	}
	return stats.Median(values)
}

func processorOf(s sample) float64 { return harness.Milliseconds(s.processor) }
func elapsedOf(s sample) float64   { return harness.Milliseconds(s.elapsed) }
func writtenOf(s sample) float64   { return float64(s.written) }
