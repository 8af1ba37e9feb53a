// Program interop serves mlscore to a test runner, and is a test runner for MLS implementations itself. See
// docs/interop.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/test/interop/runner"
	"github.com/mlsfed/mlsfed/test/interop/server"
)

const usage = `usage:
  interop serve [-listen 127.0.0.1:0] [-pq] [-compressed-keys]
  interop run [flags] FILE...

serve lets a runner drive mlscore. run plays script files with the peers at the given addresses; without
-peer, with two servers of this program.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(command(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// command runs the program and returns its exit code: 0, 1 for a failure, 2 for a usage error.
func command(ctx context.Context, args []string, out, errOut io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(errOut, usage)
		return 2
	}
	switch args[0] {
	case "serve":
		return serve(ctx, args[1:], out, errOut)
	case "run":
		return run(ctx, args[1:], out, errOut)
	}
	fmt.Fprint(errOut, usage)
	return 2
}

func serve(ctx context.Context, args []string, out, errOut io.Writer) int {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	flags.SetOutput(errOut)
	listen := flags.String("listen", "127.0.0.1:0", "loopback `address` to serve on")
	pq := flags.Bool("pq", false, "serve the post-quantum suites too, under the numbers of docs/spec/suites.md")
	compressed := flags.Bool("compressed-keys", false, "accept compressed ECDSA keys, as ts-mls makes them")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return 2
	}
	config := server.Config{Suites: mlscore.CipherSuites(), Intake: mlscore.Intake{CompressedKeys: *compressed}}
	if *pq {
		config.Suites = append(config.Suites, mlscore.PostQuantumSuites()...)
	}
	l, err := server.Listen(*listen)
	if err != nil {
		fmt.Fprintln(errOut, err)
		return 1
	}
	fmt.Fprintln(out, "serving on", l.Addr())
	if err := server.New(config).Serve(ctx, l); err != nil {
		fmt.Fprintln(errOut, err)
		return 1
	}
	return 0
}

// numbers is a flag of 16 bits, decimal or after 0x hexadecimal, that can be given several times.
type numbers []uint32

func (n *numbers) String() string { return fmt.Sprint(*n) }

func (n *numbers) Set(text string) error {
	v, err := strconv.ParseUint(text, 0, 16)
	*n = append(*n, uint32(v))
	return err
}

// texts is a flag that can be given several times.
type texts []string

func (t *texts) String() string { return fmt.Sprint(*t) }

func (t *texts) Set(text string) error {
	*t = append(*t, text)
	return nil
}

func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	flags.SetOutput(errOut)
	var addresses texts
	var o runner.Options
	flags.Var(&addresses, "peer", "`address` of a peer; several times for several")
	flags.Var((*numbers)(&o.Suites), "suite", "`number` of a cipher suite; several times for several; otherwise all")
	flags.BoolVar(&o.Private, "private", false, "private handshakes only")
	flags.BoolVar(&o.Public, "public", false, "public handshakes only")
	flags.IntVar(&o.Assignments, "assignments", 16, "ways of giving the roles to the peers, at most; all if there are no more")
	flags.Uint64Var(&o.Seed, "seed", 1, "chooses the assignments")
	flags.DurationVar(&o.Timeout, "timeout", 2*time.Minute, "of one call")
	verbose := flags.Bool("v", false, "print every run")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if flags.NArg() == 0 {
		fmt.Fprint(errOut, usage)
		return 2
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if len(addresses) == 0 {
		var err error
		if addresses, err = ourselves(ctx, 2); err != nil {
			fmt.Fprintln(errOut, err)
			return 1
		}
	}
	var peers []*runner.Peer
	for _, address := range addresses {
		p, err := runner.Connect(ctx, address, o.Timeout)
		if err != nil {
			fmt.Fprintln(errOut, err)
			return 1
		}
		defer p.Close()
		fmt.Fprintf(out, "peer %d: %s at %s, suites %#04x\n", len(peers), p.Name, p.Address, p.Suites)
		peers = append(peers, p)
	}
	o.Progress = func(r runner.Result) {
		if *verbose || r.Err != nil {
			fmt.Fprintln(out, r)
		}
	}
	failed := 0
	for _, file := range flags.Args() {
		scripts, err := runner.ReadFile(file)
		if err != nil {
			fmt.Fprintln(errOut, err)
			return 1
		}
		results, err := runner.Play(ctx, peers, scripts, o)
		if err != nil {
			fmt.Fprintln(errOut, err)
			return 1
		}
		bad := 0
		for _, r := range results {
			if r.Err != nil {
				bad++
			}
		}
		failed += bad
		fmt.Fprintf(out, "%s: %d of %d passed\n", file, len(results)-bad, len(results))
	}
	if failed > 0 {
		return 1
	}
	return 0
}

// ourselves starts servers of this program, which end with ctx.
func ourselves(ctx context.Context, n int) ([]string, error) {
	var addresses []string
	for i := range n {
		l, err := server.Listen("127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		addresses = append(addresses, l.Addr().String())
		s := server.New(server.Config{Name: fmt.Sprintf("mlsfed %d", i)})
		go func() { _ = s.Serve(ctx, l) }()
	}
	return addresses, nil
}
