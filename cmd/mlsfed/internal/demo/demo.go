// Package demo has the command demo: a conversation across three organizations, step by step, in one process.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/mlscore"
)

// options are the flags of demo.
type options struct {
	members int
	keep    bool
	core    bool
	suite   mlscore.CipherSuite
	log     string
	fault   string // for tests: see faultDrop
}

// maxMembers bounds the simulated devices. Each has a connection and a store of its own.
const maxMembers = 1000

// Command returns the command demo.
func Command() *cobra.Command {
	o := options{fault: os.Getenv("MLSFED_DEMO_FAULT")}
	var suite string
	c := &cobra.Command{
		Use:     "demo",
		GroupID: cli.GroupPeople,
		Short:   "Show a conversation across three organizations on this machine",
		Long: `demo runs three organizations in a temporary folder, with a node each, and people who talk across them:
real sockets on loopback, TLS, Raft, and every accepted message on disk. They talk, add and remove each
other and commit at the same time; a node is stopped and comes back. Each step says what happened, how long
it took and how many bytes the devices sent and received.

At the end every device's history is compared with what was sent, and their states with each other. demo
ends with 1, and says what is wrong, if anything is.

With --keep the federation continues, and the output says how to join it.

These are the cipher suites. Those from 0xf001 on keep secrets from quantum computers.

` + suiteTable(),
		Example: "  mlsfed demo\n  mlsfed demo --members 50\n  mlsfed demo --suite 0xf001\n  mlsfed demo --keep",
	}
	f := c.Flags()
	f.IntVar(&o.members, "members", 0, fmt.Sprintf("simulated devices in addition to those of alice, bob and carol, at most %d", maxMembers))
	f.BoolVar(&o.keep, "keep", false, "let the federation go on until it is interrupted")
	f.BoolVar(&o.core, "core", false, "show a group of mlscore alone, without a network")
	f.StringVar(&suite, "suite", "1", "MLS cipher suite, a number or a name of the list above")
	f.StringVar(&o.log, "log", "", "file for what the nodes and devices log")
	c.MarkFlagsMutuallyExclusive("core", "keep")
	c.MarkFlagsMutuallyExclusive("core", "members")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if o.members < 0 || o.members > maxMembers {
			return cli.UsageError(fmt.Errorf("--members %d: wanted 0 to %d", o.members, maxMembers))
		}
		var err error
		if o.suite, err = mlscore.ParseCipherSuite(suite); err != nil {
			return cli.UsageError(fmt.Errorf("--suite %s: wanted a number or a name of a suite that the help lists", suite))
		}
		o.suite = o.suite.Earlier() // the number that all nodes and devices know
		if o.core {
			d := &coreDemo{out: c.OutOrStdout(), suite: o.suite}
			return d.run()
		}
		return run(c.Context(), c.OutOrStdout(), o)
	}
	return c
}

// suiteTable lists the available cipher suites.
func suiteTable() string {
	var b strings.Builder
	for _, s := range mlscore.EarlierSuites() {
		number := fmt.Sprint(uint16(s))
		if s >= 0x100 {
			number = fmt.Sprintf("%#04x", uint16(s))
		}
		fmt.Fprintf(&b, "  %-7s %v\n", number, s)
	}
	return strings.TrimRight(b.String(), "\n")
}

// run creates the federation, runs the story, and removes everything.
func run(ctx context.Context, out io.Writer, o options) (err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	signal.Ignore(syscall.SIGPIPE) // a reader that stops early must not leave the folder behind
	out = &untilClosed{out, stop}
	dir, err := os.MkdirTemp("", "mlsfed-demo-")
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d := &demo{out: out, opts: o, dir: dir}
	if err := d.openLog(); err != nil {
		return err
	}
	d.life, d.die = context.WithCancel(context.WithoutCancel(ctx))
	defer func() { err = errors.Join(err, d.end()) }()
	start := time.Now()
	if err := d.story(ctx); err != nil {
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		return err
	}
	fmt.Fprintf(out, "\nAll is as it should be: %.1f s.\n", time.Since(start).Seconds())
	if !o.keep {
		return nil
	}
	return d.goOn(ctx)
}

// untilClosed ends the demonstration when its output is no longer read.
type untilClosed struct {
	io.Writer
	stop func()
}

// Write implements io.Writer.
func (w *untilClosed) Write(b []byte) (int, error) {
	n, err := w.Writer.Write(b)
	if err != nil {
		w.stop()
	}
	return n, err
}

// openLog creates the requested log file.
func (d *demo) openLog() error {
	d.log = slog.New(slog.DiscardHandler)
	if d.opts.log == "" {
		return nil
	}
	f, err := os.OpenFile(d.opts.log, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("demo: --log: %w", err)
	}
	d.logFile = f
	d.log = slog.New(slog.NewTextHandler(f, nil))
	return nil
}

// stepTime bounds one step. Without a fault no step takes a tenth of it.
const stepTime = 60 * time.Second

// story runs the demonstration, step by step.
func (d *demo) story(ctx context.Context) error {
	d.line("", "took", "sent", "received", "")
	for _, step := range []struct {
		title string
		do    func(context.Context) (string, error)
	}{
		{"three organizations start", d.start},
		{"alice (two devices), bob and carol enrol", d.enrol},
		{"alice makes a conversation", d.create},
		{"alice adds " + d.guests(), d.add},
		{"everybody talks", d.talk},
		{"bob and carol commit at the same time", d.race},
		{"alice removes carol", d.remove},
		{"bob adds carol again", d.restore},
		{"alice's organization goes down in mid-talk", d.stop},
		{"the others change the group without it", d.goOnWithout},
		{"it comes back and catches up", d.comeBack},
		{"carol sends a file", d.file},
		{"everybody talks again", d.talk},
		{"every device is compared", d.compare},
	} {
		sent, received := d.bytes()
		begin := time.Now()
		ctx, cancel := context.WithTimeout(ctx, stepTime)
		report, err := step.do(ctx)
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", step.title, cli.Plain(err))
		}
		took := time.Since(begin)
		nowSent, nowReceived := d.bytes()
		d.line(step.title, milliseconds(took), volume(nowSent-sent), volume(nowReceived-received), report)
	}
	return nil
}

// guests returns the users whom alice adds.
func (d *demo) guests() string {
	if d.opts.members == 0 {
		return "bob and carol"
	}
	return fmt.Sprintf("bob, carol and %d more", d.opts.members)
}

// line prints a step: its duration, what devices sent and received, and its result.
func (d *demo) line(title, took, sent, received, report string) {
	fmt.Fprintln(d.out, strings.TrimRight(fmt.Sprintf("%-42s %8s %10s %10s  %s", title, took, sent, received, report), " "))
}

func volume(n uint64) string {
	if n == 0 {
		return "-"
	}
	return cli.Size(n)
}

func milliseconds(t time.Duration) string {
	switch {
	case t < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(t.Microseconds())/1000)
	case t < 10*time.Second:
		return fmt.Sprintf("%d ms", t.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", t.Seconds())
}
