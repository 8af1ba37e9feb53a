package cluster

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// stopWait is how long a node's process may take to stop in order before it is killed.
const stopWait = 30 * time.Second

// process is a node in a process of its own.
type process struct {
	binary, file string
	log          string // the file for the output
	admin        string // host:port of health and metrics
	ready        chan struct{}
	started      func(pid int)
}

// Log returns the file for the output of an organization's node, if the node has a process of its own.
func (c *Cluster) Log(d wire.Domain) string { return filepath.Join(c.dir, string(d), "node.log") }

// run starts the process, closes ready when the node serves, and stops the process in order when ctx ends.
func (p *process) run(ctx context.Context) error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, p.binary, "serve", "--config", p.file)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopWait
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", p.binary, err)
	}
	p.started(cmd.Process.Pid)
	watch, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if p.awaitReady(watch) {
			close(p.ready)
		}
	}()
	err = cmd.Wait()
	stop()
	<-watched
	// An ended context is the error of Wait even if the process ended with 0.
	if err == nil || ctx.Err() != nil && cmd.ProcessState.Success() {
		return nil
	}
	err = fmt.Errorf("%s serve --config %s: %w", p.binary, p.file, err)
	if why := lastLine(p.log); why != "" {
		err = fmt.Errorf("%w: %s", err, why)
	}
	return err
}

// awaitReady polls until the node reports that it serves.
func (p *process) awaitReady(ctx context.Context) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := get(ctx, "http://"+p.admin+"/readyz"); err == nil {
			return true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
}

// get requests a node's health or metrics.
func get(ctx context.Context, url string) ([]byte, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	q.Close = true
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(io.LimitReader(r.Body, 16<<20))
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s", url, r.Status)
	}
	return b, err
}

// lastLine returns the last line of a log that is not empty.
func lastLine(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	b = bytes.TrimSpace(b)
	return string(b[bytes.LastIndexByte(b, '\n')+1:])
}

// errNoProcessorTime is the error of Processor if the processor time is not measured.
var errNoProcessorTime = errors.New("the node reports no processor time: the metric process_cpu_seconds_total does not exist on this system")

// Processor returns the processor time of the process of an organization's node since its start, on all cores. Only
// nodes with processes of their own have it.
func (c *Cluster) Processor(ctx context.Context, d wire.Domain) (time.Duration, error) {
	seconds, err := c.Metric(ctx, d, "process_cpu_seconds_total")
	if errors.Is(err, errNoMetric) {
		err = fmt.Errorf("%s: %w", d, errNoProcessorTime)
	}
	return time.Duration(seconds * float64(time.Second)), err
}

// errNoMetric is the error of Metric for a metric that the node does not have.
var errNoMetric = errors.New("no metric of this name")

// Metric returns a metric without labels of an organization's node. Only nodes with processes of their own have
// metrics.
func (c *Cluster) Metric(ctx context.Context, d wire.Domain, name string) (float64, error) {
	all, err := c.Metrics(ctx, d, name+" ")
	if err != nil {
		return 0, err
	}
	value, ok := all[name]
	if !ok {
		return 0, fmt.Errorf("%s: %s: %w", d, name, errNoMetric)
	}
	return value, nil
}

// Metrics returns the metrics of an organization's node whose names, followed by their labels and a space, begin with
// prefix.
func (c *Cluster) Metrics(ctx context.Context, d wire.Domain, prefix string) (map[string]float64, error) {
	if c.orgs[d].binary == "" {
		return nil, fmt.Errorf("%s: the node has no process of its own", d)
	}
	b, err := get(ctx, "http://"+c.orgs[d].cfg.Admin.Listen+"/metrics")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d, err)
	}
	all := make(map[string]float64)
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		line := lines.Text()
		if end := strings.LastIndexByte(line, ' '); end > 0 && strings.HasPrefix(line, prefix) {
			if all[line[:end]], err = strconv.ParseFloat(line[end+1:], 64); err != nil {
				return nil, fmt.Errorf("%s: %w", d, err)
			}
		}
	}
	return all, nil
}

// Traffic returns how many bytes the process of an organization's node has read and written since its start, through
// sockets and files together. Only Linux counts them.
func (c *Cluster) Traffic(d wire.Domain) (read, written uint64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", c.orgs[d].pids.Load()))
	if err != nil {
		return 0, 0, fmt.Errorf("%s: traffic: %w", d, err)
	}
	if _, err := fmt.Sscanf(string(b), "rchar: %d\nwchar: %d\n", &read, &written); err != nil {
		return 0, 0, fmt.Errorf("%s: traffic: %w", d, err)
	}
	return read, written, nil
}
