//go:build integration

package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if image := os.Getenv(reaperVariable); image != "" {
		signal.Ignore(os.Interrupt, syscall.SIGTERM) // it ends when the test has
		if reap(image, os.Stdin) != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	code, err := runSuite(m)
	if err != nil {
		fmt.Fprintf(os.Stderr, "NOT RUN: %v\n", err)
		code = 1
	}
	os.Exit(code)
}

func runSuite(m *testing.M) (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if _, err := docker(ctx, "info"); err != nil {
		return 1, fmt.Errorf("no Docker daemon answers, and these tests are nothing without one: %w", err)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		return 1, err
	}
	the = &suite{root: root, image: fmt.Sprintf("mlsfed:it-%d", os.Getpid())}
	build := exec.CommandContext(ctx, "sh", filepath.Join(root, "docker", "build.sh"), the.image)
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("docker/build.sh: %w\n%s", err, out)
	}
	tell, wait, err := startReaper(the.image)
	if err != nil {
		return 1, err
	}
	the.reaper = tell
	code = m.Run()
	the.print()
	if err := tell.Close(); err != nil {
		return 1, err
	}
	return code, wait()
}
