package test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/node"
)

// serveEnv names the variable with a configuration file, which makes the test binary run a node.
const serveEnv = "MLSFED_TEST_SERVE"

func TestMain(m *testing.M) {
	if path := os.Getenv(serveEnv); path != "" {
		if err := serveNode(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serveNode runs a node as 'mlsfed serve' does, and reports when it is ready.
func serveNode(path string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	cfg, err := config.Load(path, nil)
	if err != nil {
		return err
	}
	level := slog.LevelWarn
	if os.Getenv("MLSFED_LOG") != "" {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("at", cfg.Node)
	n, err := node.New(cfg, node.Options{Version: "test", Logger: log})
	if err != nil {
		return err
	}
	go func() {
		<-n.Ready()
		fmt.Println("ready")
	}()
	go func() { // an orphan ends itself
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	return n.Run(ctx)
}

// process is a node in a process of its own, which can be killed.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

// spawn starts a node and returns when it serves.
func spawn(t *testing.T, file string) *process {
	t.Helper()
	p, err := launch(file)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// launch is spawn for goroutines other than the test's own.
func launch(file string) (*process, error) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveEnv+"="+file)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd, stdin}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "ready" {
		p.kill()
		return nil, fmt.Errorf("node of %s said %q (%v)", file, line, err)
	}
	return p, nil
}

// kill ends a node as a power cut does, as far as a process can be.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	_ = p.stdin.Close()
}

// stop ends a node in order.
func (p *process) stop(t *testing.T) {
	t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("node: %v", err)
	}
}
