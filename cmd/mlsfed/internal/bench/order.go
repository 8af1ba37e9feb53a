package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness"
	"github.com/mlsfed/mlsfed/consensus/orderbench"
)

func newOrder() *cobra.Command {
	var cfg orderbench.Config
	var asJSON, peers bool
	var other *harness.Against
	c := &cobra.Command{
		Use:   "order",
		Short: "Measure how conversations are ordered, compared with the naive design",
		Long: `Three nodes in this process order entries of 4 KiB over loopback TCP with fsync, in as many
conversations as --busy says. The naive design has a raft-boltdb file and a TCP transport for each
conversation, and the same state machine: a leader that judges, three replicas that verify. Naive-empty
has a state machine that does nothing, so that it can be seen what the ordering alone costs there. Clients
sign their commits before a round begins. The floor is what two appends with fdatasync and a round trip
take, in the same run. The benchmark then puts many conversations to sleep, restarts the nodes, and wakes
some, and at last wakes many others at the same moment. It takes about a quarter of an hour.
--only and smaller sizes make it shorter.

--peers also measures dragonboat, another library for many Raft groups, in turns with ours: its own log, a
state machine that does nothing, three nodes in one process, loopback and fsync as here. The program is a
module of its own in test/orderpeer of a checkout, and is built with the command go.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			t := harness.NewTable(c, asJSON)
			if other.Binary != "" {
				return other.Run(c, t, orderBuilds(cfg.Processor))
			}
			if peers {
				remove, err := buildPeer(c.Context(), &cfg)
				if err != nil {
					return err
				}
				defer remove()
			}
			t.Head()
			cfg.Progress = t.Progress
			var failed error
			err := orderbench.Run(c.Context(), cfg, func(r orderbench.Row) {
				failed = errors.Join(failed, t.Add(harness.Row{
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
	c.Flags().IntVar(&cfg.Woken, "woken", 0, "conversations to wake at once (default 1000)")
	c.Flags().BoolVar(&peers, "peers", false, "measure dragonboat too, in turns with ours; the busy conversations are --busy")
	c.Flags().StringVar(&cfg.Peer, "peer", "", "the `program` built from test/orderpeer, instead of --peers")
	c.Flags().StringSliceVar(&cfg.Only, "only", nil, "parts to measure: commits, latency, sleep, woken, peer (default all; peer needs --peers)")
	c.Flags().BoolVar(&cfg.Processor, "processor-time", false, "add the processor time of a commit, of all nodes and clients")
	other = harness.AddAgainst(c)
	return c
}

// peerFolder is the folder of the peer's program in a checkout.
const peerFolder = "test/orderpeer"

// buildPeer builds the peer's program in a temporary folder, which remove removes.
func buildPeer(ctx context.Context, cfg *orderbench.Config) (remove func(), err error) {
	source, err := findUp(peerFolder)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "mlsfed-peer-*")
	if err != nil {
		return nil, err
	}
	remove = func() { _ = os.RemoveAll(dir) }
	cfg.Peer = filepath.Join(dir, "orderpeer")
	build := exec.CommandContext(ctx, "go", "build", "-o", cfg.Peer, ".")
	build.Dir = source
	if out, err := build.CombinedOutput(); err != nil {
		remove()
		return nil, fmt.Errorf("--peers: go build in %s: %w: %s", source, err, bytes.TrimSpace(out))
	}
	return remove, nil
}

// findUp looks for a folder in the working folder and above.
func findUp(name string) (string, error) {
	at, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(at, name, "go.mod")); err == nil {
			return filepath.Join(at, name), nil
		}
		up := filepath.Dir(at)
		if up == at {
			return "", fmt.Errorf("--peers: no folder %s here or above: run the benchmark in a checkout of mlsfed, or build that program and name it with --peer", name)
		}
		at = up
	}
}

// orderBuilds reads the processor time from the progress lines of both builds, so that builds without
// --processor-time can be compared.
func orderBuilds(processor bool) func(this, other string, args []string) harness.Comparison {
	return func(this, other string, args []string) harness.Comparison {
		args = slices.DeleteFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "--processor-time") })
		cmp := harness.SameBench("order")(this, other, args)
		if processor {
			cmp.Extra = func(line string) (harness.Row, bool) {
				r, ok := orderbench.ProcessorOf(line)
				return harness.Row{Name: r.Name, N: r.N, Value: r.Value, Unit: r.Unit}, ok
			}
		}
		return cmp
	}
}
