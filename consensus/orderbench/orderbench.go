package orderbench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/internal/stats"
)

// EntrySize is the size of an ordered entry, in bytes.
const EntrySize = 4096

// Config sets the duration and the size of a run. Zero fields have the defaults in brackets.
type Config struct {
	Dir      string        // [a temporary folder, removed afterwards]
	Round    time.Duration // duration of load [5 s]
	Rounds   int           // [3]
	Busy     []int         // busy conversations [100, 1,000]
	Sleepers int           // sleeping conversations [10,000]
	Wakes    int           // [300]
	Woken    int           // conversations to wake at once [1,000]
	Only     []string      // parts: "commits", "latency", "sleep", "woken", "peer" [all]
	// Peer is a program that measures another library, see test/orderpeer. Without it, the part "peer" is left out.
	Peer string
	// Processor adds a row for the processor time of a commit, of all nodes and clients, to each row of commits per
	// second.
	Processor bool
	Progress  func(format string, args ...any)
}

func (c *Config) setDefaults() {
	if c.Round <= 0 {
		c.Round = 5 * time.Second
	}
	if c.Rounds <= 0 {
		c.Rounds = 3
	}
	if c.Busy == nil {
		c.Busy = []int{100, 1000}
	}
	if c.Sleepers <= 0 {
		c.Sleepers = 10_000
	}
	if c.Wakes <= 0 {
		c.Wakes = 300
	}
	if c.Woken <= 0 {
		c.Woken = 1000
	}
	if c.Progress == nil {
		c.Progress = func(string, ...any) {}
	}
}

// Row is one figure. Ratio is Value divided by the row that Against names, 0 if there is no row to compare with.
type Row struct {
	Name    string  `json:"name"`
	N       int     `json:"n"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit"`
	Against string  `json:"against,omitempty"`
	Ratio   float64 `json:"ratio,omitempty"`
}

// Run measures everything and calls show with each row as soon as it is known.
func Run(ctx context.Context, cfg Config, show func(Row)) (err error) {
	cfg.setDefaults()
	if cfg.Dir == "" {
		if cfg.Dir, err = os.MkdirTemp("", "mlsfed-bench-*"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(cfg.Dir)) }()
	}
	b := &bench{cfg: cfg, ctx: ctx, show: show}
	type part struct {
		name string
		run  func() error
	}
	steps := []part{{"commits", b.throughput}, {"latency", b.latency}, {"sleep", b.sleepers}, {"woken", b.woken}}
	if cfg.Peer != "" {
		steps = append(steps, part{"peer", b.peers})
	}
	for _, name := range cfg.Only {
		if name == "peer" && cfg.Peer == "" {
			return errors.New("orderbench: the part peer needs the program of a peer")
		}
		if !slices.ContainsFunc(steps, func(p part) bool { return p.name == name }) {
			return fmt.Errorf("orderbench: no part is named %q: wanted commits, latency, sleep, woken or peer", name)
		}
	}
	for _, step := range steps {
		if len(cfg.Only) > 0 && !slices.Contains(cfg.Only, step.name) {
			continue
		}
		if err := step.run(); err != nil {
			return err
		}
	}
	return nil
}

type bench struct {
	cfg  Config
	ctx  context.Context
	show func(Row)
}

func (b *bench) dir(name string, args ...any) string {
	return filepath.Join(b.cfg.Dir, fmt.Sprintf(name, args...))
}

// system is a design under load: orderNext orders one entry in conversation i and returns when it is durable on a
// majority; prepare makes each conversation's client sign a number of commits in advance.
type system interface {
	prepare(n int)
	orderNext(ctx context.Context, i int) error
	close() error
}

// throughput lets the designs take turns. The design with an empty state machine has one round: it shows the part of
// the state machine in the work of the naive design.
func (b *bench) throughput() error {
	for _, n := range b.cfg.Busy {
		rates, costs := map[string][]float64{}, map[string][]float64{}
		for round := range b.cfg.Rounds {
			for _, design := range designs() {
				if design == designEmpty && round > 0 {
					continue
				}
				b.cfg.Progress("%d conversations, round %d of %d: %s", n, round+1, b.cfg.Rounds, design)
				pace, err := b.measure(design, n, round)
				if err != nil {
					return fmt.Errorf("%s with %d conversations: %w", design, n, err)
				}
				b.cfg.Progress(progressFormat, n, round+1, b.cfg.Rounds, design, pace.rate, pace.cpu)
				rates[design] = append(rates[design], pace.rate)
				costs[design] = append(costs[design], pace.cpu)
			}
		}
		naive := stats.Median(rates[designNaive])
		for _, design := range designs() {
			row := Row{Name: "commits/" + design, N: n, Value: stats.Median(rates[design]), Unit: "1/s"}
			if design != designNaive {
				row.Against, row.Ratio = designNaive, row.Value/naive
			}
			b.show(row)
			if b.cfg.Processor {
				b.show(Row{Name: processorName(design), N: n, Value: stats.Median(costs[design]), Unit: "ms"})
			}
		}
	}
	return nil
}

// progressFormat is the format of the progress report of a finished round. ProcessorOf reads it: builds before
// Config.Processor report the processor time of a commit only there.
const progressFormat = "%d conversations, round %d of %d: %s: %.0f commits/s, %.2f ms of CPU each"

var progressPattern = regexp.MustCompile(`(\d+) conversations, round \d+ of \d+: (\S+): \d+ commits/s, (\d+\.\d+) ms of CPU each$`)

// ProcessorOf returns the row of one round's processor time if a line of progress reports it.
func ProcessorOf(line string) (Row, bool) {
	m := progressPattern.FindStringSubmatch(line)
	if m == nil {
		return Row{}, false
	}
	n, errN := strconv.Atoi(m[1])
	value, err := strconv.ParseFloat(m[3], 64)
	return Row{Name: processorName(m[2]), N: n, Value: value, Unit: "ms"}, errN == nil && err == nil
}

func processorName(design string) string { return "commits/" + design + "/processor" }

func (b *bench) measure(design string, n, round int) (p pace, err error) {
	dir := b.dir("%s-%d-%d", design, n, round)
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := b.open(design, dir, n)
	if err != nil {
		return pace{}, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	return drive(b.ctx, s, n, b.cfg.Round)
}

// open creates a design with n conversations.
func (b *bench) open(design, dir string, n int) (system, error) {
	if design == designNaive || design == designEmpty {
		return newNaive(b.ctx, dir, n, design == designEmpty, b.cfg.Progress)
	}
	return newOurs(b.ctx, dir, design, n, b.cfg.Progress)
}

// The designs to compare with ours, whose names are those of their backends.
const (
	designNaive = "naive"       // the same state machine as ours
	designEmpty = "naive-empty" // a state machine that does nothing
)

func designs() []string {
	return []string{designNaive, raftlog.BackendBolt, raftlog.BackendPebble, designEmpty}
}

// latency measures a single conversation, and the time of the disk and the network alone.
func (b *bench) latency() error {
	b.cfg.Progress("one conversation: latency")
	const samples = 1000
	for _, backend := range []string{raftlog.BackendBolt, raftlog.BackendPebble} {
		dir := b.dir("latency-%s", backend)
		o, err := newOurs(b.ctx, dir, backend, 1, b.cfg.Progress)
		if err != nil {
			return err
		}
		warm(b.ctx, o, 1)
		o.prepare(samples)
		// The floor is measured in turns with the design that is compared to it.
		var times, floors []float64
		for len(times) < samples && err == nil {
			var part []float64
			if part, err = sample(100, func() error { return o.orderNext(b.ctx, 0) }); err != nil {
				break
			}
			times = append(times, part...)
			var floor float64
			if floor, err = b.floor(100); err == nil {
				floors = append(floors, floor)
			}
		}
		lag := o.lags()
		if err = errors.Join(err, o.close(), os.RemoveAll(dir)); err != nil {
			return err
		}
		floor := stats.Median(floors)
		b.show(Row{Name: "latency/" + backend, N: 1, Value: stats.Median(times), Unit: "ms", Against: "floor", Ratio: stats.Median(times) / floor})
		if backend == raftlog.BackendBolt {
			b.show(Row{Name: "floor", N: 1, Value: floor, Unit: "ms"})
			b.show(Row{Name: "follower-lag", N: len(lag), Value: stats.Median(lag), Unit: "ms"})
		}
	}
	return nil
}

// sample times n calls, in milliseconds.
func sample(n int, call func() error) ([]float64, error) {
	times := make([]float64, 0, n)
	for range n {
		start := time.Now()
		if err := call(); err != nil {
			return nil, err
		}
		times = append(times, milliseconds(time.Since(start)))
	}
	return times, nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
