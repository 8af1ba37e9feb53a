//go:build integration

package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if os.Getenv(reaperVariable) != "" {
		signal.Ignore(os.Interrupt, syscall.SIGTERM) // the reaper ends after the test
		if reap(os.Stdin) != nil {
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
	compose, err := exec.CommandContext(ctx, "sh", filepath.Join(root, "docker", "compose.sh"), "version", "--short").CombinedOutput()
	if err != nil {
		return 1, fmt.Errorf("docker/compose.sh: %w: %s", err, compose)
	}
	input, wait, err := startReaper()
	if err != nil {
		return 1, err
	}
	the = &suite{root: root, image: fmt.Sprintf("mlsfed:it-%d", os.Getpid()), compose: strings.TrimSpace(string(compose)), reaper: input}
	if err := errors.Join(the.report(the.image), buildImage(ctx, root, the.image)); err != nil {
		return 1, errors.Join(err, input.Close(), wait())
	}
	code = m.Run()
	the.print()
	if err := input.Close(); err != nil {
		return 1, err
	}
	return code, wait()
}

// buildImage calls docker/build.sh of a checkout.
func buildImage(ctx context.Context, root, image string) error {
	build := exec.CommandContext(ctx, "sh", filepath.Join(root, "docker", "build.sh"), image)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("docker/build.sh: %w\n%s", err, out)
	}
	return nil
}
