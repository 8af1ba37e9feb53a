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
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	var out, errs bytes.Buffer
	c := exec.CommandContext(ctx, "docker", args...)
	c.Stdin, c.Stdout, c.Stderr = in, &out, &errs
	if err := c.Run(); err != nil {
		return out.String(), fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
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

// startReaper starts a process that outlives this one: when standard input ends, because the test has
// ended in whatever way, it removes the projects that it was told of and were not removed, and the image.
func startReaper(image string) (tell io.WriteCloser, wait func() error, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	c := exec.Command(self)
	c.Env = append(os.Environ(), reaperVariable+"="+image)
	if tell, err = c.StdinPipe(); err != nil {
		return nil, nil, err
	}
	return tell, c.Wait, c.Start()
}

// reap is what the reaper does.
func reap(image string, in io.Reader) error {
	told, err := io.ReadAll(in)
	for _, project := range strings.Fields(string(told)) {
		err = errors.Join(err, removeProject(context.Background(), project))
	}
	_, remove := docker(context.Background(), "image", "rm", "--force", image)
	return errors.Join(err, remove)
}
