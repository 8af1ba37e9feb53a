//go:build integration

package integration

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// archive keeps what tells why a scenario failed: the nodes' logs and states, the clients' logs, the
// course of events and the history of submissions. It returns the path.
func (f *federation) archive(ctx context.Context) (string, error) {
	name := strings.ReplaceAll(strings.TrimPrefix(f.t.Name(), "Test"), "/", "-")
	out, err := os.CreateTemp("", "mlsfed-"+name+"-*.tar.gz")
	if err != nil {
		return "", err
	}
	zip := gzip.NewWriter(out)
	w := tar.NewWriter(zip)
	var failures []error
	add := func(name string, content []byte) {
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: time.Now()}
		err := w.WriteHeader(h)
		if err == nil {
			_, err = w.Write(content)
		}
		failures = append(failures, err)
	}
	f.mu.Lock()
	add("course.txt", bytes.Clone(f.notes.Bytes()))
	orgs := f.orgs
	f.mu.Unlock()
	add("history.txt", f.history.text())
	for _, org := range orgs {
		add(org+".log", output(ctx, "logs", "--timestamps", f.container(org)))
		add(org+"-inspect.json", output(ctx, "inspect", f.container(org)))
		add(org+"-status.txt", output(ctx, "exec", f.container(org), "/mlsfed", "status"))
	}
	logs, err := filepath.Glob(filepath.Join(f.dir, "*.log"))
	failures = append(failures, err)
	for _, path := range logs {
		content, err := os.ReadFile(path)
		failures = append(failures, err)
		add("clients/"+filepath.Base(path), content)
	}
	failures = append(failures, w.Close(), zip.Close(), out.Close())
	return out.Name(), errors.Join(failures...)
}

// output is all that a docker command prints, whether it succeeds or not.
func output(ctx context.Context, args ...string) []byte {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	out, err := exec.CommandContext(ctx, "docker", args...).CombinedOutput()
	if err != nil {
		out = append(out, "\n"+err.Error()+"\n"...)
	}
	return out
}
