//go:build integration

package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// callWait bounds one call of docker.
const callWait = 2 * time.Minute

// docker calls the docker command line and returns what it prints to standard output.
func docker(ctx context.Context, args ...string) (string, error) {
	return dockerIn(ctx, nil, args...)
}

// dockerIn is docker with something on standard input.
func dockerIn(ctx context.Context, in io.Reader, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callWait*patience())
	defer cancel()
	var out, errs bytes.Buffer
	c := bounded(ctx, "docker", args...)
	c.Stdin, c.Stdout, c.Stderr = in, &out, &errs
	if err := c.Run(); err != nil {
		return out.String(), fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// bounded returns a command that ends with ctx, together with all processes that it has started: a remaining process
// would hold the output open, and the wait would not end.
func bounded(ctx context.Context, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, name, args...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = 10 * time.Second
	return c
}

// projectLabel is the label that Compose puts on all that belongs to a project.
const projectLabel = "com.docker.compose.project"

// removeProject removes the containers, networks and volumes of one project.
func removeProject(ctx context.Context, project string) error {
	filter := "label=" + projectLabel + "=" + project
	var failures []error
	for _, kind := range []struct{ list, remove []string }{
		{[]string{"ps", "-aq", "--filter", filter}, []string{"rm", "--force", "--volumes"}},
		{[]string{"network", "ls", "-q", "--filter", filter}, []string{"network", "rm"}},
		{[]string{"volume", "ls", "-q", "--filter", filter}, []string{"volume", "rm", "--force"}},
	} {
		out, err := docker(ctx, kind.list...)
		if ids := strings.Fields(out); err == nil && len(ids) > 0 {
			_, err = docker(ctx, append(kind.remove, ids...)...)
		}
		failures = append(failures, err)
	}
	return errors.Join(failures...)
}

// reaperVariable makes this program a reaper instead of a test.
const reaperVariable = "INTEGRATION_REAPER"

// startReaper starts a process that outlives this one. When its standard input ends, because the test has ended in
// any way, the process removes the projects, images and mounts that it has read, one a line.
func startReaper() (input io.WriteCloser, wait func() error, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	c := exec.Command(self)
	c.Env = append(os.Environ(), reaperVariable+"=1")
	if input, err = c.StdinPipe(); err != nil {
		return nil, nil, err
	}
	return input, c.Wait, c.Start()
}

// reap runs the reaper. Mounts come first, since a frozen mount would block everything else, and images last, since
// containers use them.
func reap(in io.Reader) error {
	read, err := io.ReadAll(in)
	var images []string
	for line := range strings.Lines(string(read)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "/") {
			_ = thaw(line)               // of what is not frozen, or not mounted any more, there
			_ = syscall.Unmount(line, 0) // is nothing to do
		}
	}
	for line := range strings.Lines(string(read)) {
		switch line = strings.TrimSpace(line); {
		case strings.HasPrefix(line, "/"):
			_ = syscall.Unmount(line, 0) // a container used it
		case strings.Contains(line, ":"):
			images = append(images, line)
		default:
			err = errors.Join(err, removeProject(context.Background(), line))
		}
	}
	for _, image := range images {
		_, remove := docker(context.Background(), "image", "rm", "--force", image)
		err = errors.Join(err, remove)
	}
	return err
}
