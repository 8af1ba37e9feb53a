package orderbench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/internal/stats"
)

// peerName is the name of the library that the program of Config.Peer measures.
const peerName = "dragonboat"

// peerPace is the line that the program prints.
type peerPace struct {
	Rate float64 `json:"rate"` // commits per second
	CPU  float64 `json:"cpu"`  // milliseconds per commit, of all nodes and clients
}

// peers measures another library's Raft groups in turns with ours. Its state machine does nothing; ours is the real
// one over Pebble. The ratio is the median of the ratios of all rounds.
func (b *bench) peers() error {
	for _, n := range b.cfg.Busy {
		var rates, ratios, costs, others, otherCosts []float64
		for round := range b.cfg.Rounds {
			order := []func() error{func() error {
				b.cfg.Progress("%d conversations, round %d of %d: %s", n, round+1, b.cfg.Rounds, peerName)
				p, err := b.measurePeer(n)
				if err == nil {
					others, otherCosts = append(others, p.Rate), append(otherCosts, p.CPU)
					b.cfg.Progress(progressFormat, n, round+1, b.cfg.Rounds, peerName, p.Rate, p.CPU)
				}
				return err
			}, func() error {
				b.cfg.Progress("%d conversations, round %d of %d: %s", n, round+1, b.cfg.Rounds, raftlog.BackendPebble)
				p, err := b.measure(raftlog.BackendPebble, n, round)
				if err == nil {
					rates, costs = append(rates, p.rate), append(costs, p.cpu)
					b.cfg.Progress(progressFormat, n, round+1, b.cfg.Rounds, raftlog.BackendPebble, p.rate, p.cpu)
				}
				return err
			}}
			for k := range order {
				if err := order[(k+round)%2](); err != nil { // each is the first one in every second round
					return fmt.Errorf("%d conversations: %w", n, err)
				}
			}
			ratios = append(ratios, rates[round]/others[round])
		}
		b.show(Row{Name: "order/peer", N: n, Value: stats.Median(rates), Unit: "1/s", Against: peerName, Ratio: stats.Median(ratios)})
		b.show(Row{Name: "order/peer/" + peerName, N: n, Value: stats.Median(others), Unit: "1/s"})
		if b.cfg.Processor {
			b.show(Row{Name: "order/peer/processor", N: n, Value: stats.Median(costs), Unit: "ms", Against: peerName, Ratio: stats.Median(costs) / stats.Median(otherCosts)})
		}
	}
	return nil
}

// peerStart is the time that the program has, in addition to the round, to create its groups and to elect leaders.
const peerStart = 3 * time.Minute

func (b *bench) measurePeer(n int) (p peerPace, err error) {
	dir := b.dir("%s-%d", peerName, n)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return p, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ctx, cancel := context.WithTimeout(b.ctx, b.cfg.Round+peerStart)
	defer cancel()
	c := exec.CommandContext(ctx, b.cfg.Peer, "-dir", dir, "-groups", strconv.Itoa(n), "-round", b.cfg.Round.String(), "-entry", strconv.Itoa(EntrySize))
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = 10 * time.Second
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		return p, fmt.Errorf("%s: %w: %s", b.cfg.Peer, err, lines[len(lines)-1])
	}
	if err := json.Unmarshal(stdout.Bytes(), &p); err != nil || !(p.Rate > 0) {
		return p, fmt.Errorf("%s printed %q: wanted an object with a rate above 0 (%v)", b.cfg.Peer, stdout.Bytes(), err)
	}
	return p, nil
}
