package main

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/stats"
)

// deviceBench measures what a device in a long life costs.
type deviceBench struct {
	deliveryBench // the world, the table and the selection of workloads

	groups  int // conversations of the device
	history int // messages in its store
	samples int // operations that a figure is the median of
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

// workloads are the parts of the benchmark, in the order in which they run.
func (b *deviceBench) workloads() []workload {
	return []workload{
		{"conversations", b.manyConversations},
		{"history", b.longHistory},
		{"devices", b.manyDevices},
		{"away", b.longAway},
		{"keys", b.keyChangesOfWeeks},
	}
}

func newBenchDevice() *cobra.Command {
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
	b.flags(c, "conversations, history, devices, away, keys", "run the nodes from this `program`, this build in another file")
	f := c.Flags()
	f.IntVar(&b.groups, "conversations", 1000, "conversations of the device")
	f.IntVar(&b.history, "history", 100_000, "messages in the store")
	f.IntVar(&b.samples, "samples", 20, "operations that a figure is the median of")
	f.IntVar(&b.devices, "devices", 20, "devices of one user")
	f.IntVar(&b.shared, "shared", 100, "conversations that all of them are in")
	f.IntVar(&b.commits, "commits", 1000, "commits that a device misses")
	f.IntVar(&b.missed, "messages", 10_000, "messages that it misses")
	other := addAgainst(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if b.short {
			b.shorten(c)
		}
		if err := b.check(); err != nil {
			return usageError{err}
		}
		b.table = newBenchTable(c, b.json)
		if other.binary != "" {
			return other.run(c, b.table, sameBench("device"))
		}
		if err := b.findNode(true); err != nil {
			return err
		}
		b.own, b.processor = true, true
		b.table.head()
		return b.runAll(c.Context(), b.workloads())
	}
	return c
}

// shorten sets the sizes of the short form where no flag has set them.
func (b *deviceBench) shorten(c *cobra.Command) {
	unless(c, map[string]func(){
		"conversations": func() { b.groups = 20 },
		"history":       func() { b.history = 2000 },
		"samples":       func() { b.samples = 3 },
		"devices":       func() { b.devices = 3 },
		"shared":        func() { b.shared = 5 },
		"commits":       func() { b.commits = 20 },
		"messages":      func() { b.missed = 100 },
	})
}

// check refuses what cannot be measured.
func (b *deviceBench) check() error {
	if err := checkBounds([]flagBounds{
		{"conversations", b.groups, 1, maxDeviceGroups},
		{"history", b.history, 1, maxDeviceHistory},
		{"samples", b.samples, 1, maxDeviceSamples},
		{"devices", b.devices, 2, maxDeliveryDevices},
		{"shared", b.shared, 1, maxDeviceGroups},
		{"commits", b.commits, 1, maxDeviceCommits},
		{"messages", b.missed, 1, maxDeliveryWaiting},
	}); err != nil {
		return err
	}
	if !hasProcessorTime {
		return errors.New("this system does not report the processor time of a process")
	}
	return b.checkOnly(b.workloads())
}

// sample is what one operation of the device took.
type sample struct {
	processor, elapsed time.Duration
	written            int64 // bytes handed to the operating system
}

// sampled measures an operation of this process.
func sampled(f func() error) (sample, error) {
	processor, written, start := processorTime(), bytesWritten(), time.Now()
	err := f()
	return sample{processorTime() - processor, time.Since(start), bytesWritten() - written}, err
}

// median is the median of what samples have of something.
func median(list []sample, of func(sample) float64) float64 {
	values := make([]float64, len(list))
	for i, s := range list {
		values[i] = of(s)
	}
	return stats.Median(values)
}

func processorOf(s sample) float64 { return inMilliseconds(s.processor) }
func elapsedOf(s sample) float64   { return inMilliseconds(s.elapsed) }
func writtenOf(s sample) float64   { return float64(s.written) }
