package main

import (
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/consensus/orderbench"
)

func newBenchOrder() *cobra.Command {
	var cfg orderbench.Config
	var asJSON bool
	var other *against
	c := &cobra.Command{
		Use:   "order",
		Short: "Measure how conversations are ordered, beside the naive design",
		Long: `Three nodes in this process order entries of 4 KiB over loopback TCP with fsync, in as many
conversations as --busy says. The naive design has a raft-boltdb file and a TCP transport for each
conversation, and the same state machine: a leader that judges, three replicas that verify. Naive-empty
has a state machine that does nothing, so that it can be seen what the ordering alone costs there. Clients
sign their commits before a round begins. The floor is what two appends with fdatasync and a round trip
take, in the same run. The benchmark then puts many conversations to sleep, starts the nodes anew, and
wakes some. It takes about a quarter of an hour.
--only and smaller sizes make it shorter.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			t := newBenchTable(c, asJSON)
			if other.binary != "" {
				return other.run(c, t, orderBuilds(cfg.Processor))
			}
			t.head()
			cfg.Progress = t.progress
			var failed error
			err := orderbench.Run(c.Context(), cfg, func(r orderbench.Row) {
				failed = errors.Join(failed, t.add(benchRow{
					Name: r.Name, N: r.N, Value: r.Value, Unit: r.Unit, Against: r.Against, Ratio: r.Ratio,
				}))
			})
			return errors.Join(err, failed)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print an object for each row")
	c.Flags().StringVar(&cfg.Dir, "dir", "", "folder on the disk to be measured (default a temporary one)")
	c.Flags().DurationVar(&cfg.Round, "round", 0, "how long each round lasts (default 5s)")
	c.Flags().IntVar(&cfg.Rounds, "rounds", 0, "rounds of each design (default 3)")
	c.Flags().IntSliceVar(&cfg.Busy, "busy", nil, "numbers of busy conversations (default 100,1000)")
	c.Flags().IntVar(&cfg.Sleepers, "sleepers", 0, "sleeping conversations (default 10000)")
	c.Flags().IntVar(&cfg.Wakes, "wakes", 0, "conversations to wake (default 300)")
	c.Flags().StringSliceVar(&cfg.Only, "only", nil, "parts to measure: commits, latency, sleep (default all)")
	c.Flags().BoolVar(&cfg.Processor, "processor-time", false, "add the processor time of a commit, of all nodes and clients")
	other = addAgainst(c)
	return c
}

// orderBuilds takes the processor time from what both builds report as progress, so that builds without
// --processor-time can be compared.
func orderBuilds(processor bool) func(this, other string, args []string) comparison {
	return func(this, other string, args []string) comparison {
		args = slices.DeleteFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "--processor-time") })
		cmp := sameBench("order")(this, other, args)
		if processor {
			cmp.extra = func(line string) (benchRow, bool) {
				r, ok := orderbench.ProcessorOf(line)
				return benchRow{Name: r.Name, N: r.N, Value: r.Value, Unit: r.Unit}, ok
			}
		}
		return cmp
	}
}
