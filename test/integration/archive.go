//go:build integration

package integration

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// archive keeps what shows why a scenario failed: the nodes' logs and states, the clients' logs and message
// histories, the course of events and the history of submissions. It returns the path.
func (f *federation) archive(ctx context.Context, histories map[string][]byte) (string, error) {
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
	f.mu.Unlock()
	add("history.txt", f.history.text())
	for _, name := range slices.Sorted(maps.Keys(histories)) {
		add("messages/"+name, histories[name])
	}
	for _, org := range f.services() {
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

// message is a line of a device's history in an archive.
type message struct {
	Conversation string    `json:"conversation"`
	Number       uint64    `json:"number"` // in this device's history
	ID           string    `json:"id"`
	Sender       string    `json:"sender"`
	Status       string    `json:"status"`
	Error        string    `json:"error,omitempty"`
	Epoch        uint64    `json:"epoch"`
	Sent         time.Time `json:"sent"`
	Stored       time.Time `json:"stored"`
	Text         string    `json:"text,omitempty"`
	File         string    `json:"file,omitempty"`
}

// histories returns what all devices have of all conversations, in their order: for each device a file of JSON lines.
// An offline device is opened again. The file of a device that cannot be read has the error.
func (f *federation) histories(ctx context.Context) map[string][]byte {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	f.mu.Lock()
	devices, talks := slices.Clone(f.devices), slices.Clone(f.talks)
	f.mu.Unlock()
	files := make(map[string][]byte)
	for _, d := range devices {
		var b bytes.Buffer
		if err := f.writeHistories(ctx, &b, d, talks); err != nil {
			fmt.Fprintf(&b, "{\"failed\":%q}\n", err.Error())
		}
		files[filepath.Base(d.dir)+".jsonl"] = b.Bytes()
	}
	return files
}

func (f *federation) writeHistories(ctx context.Context, w io.Writer, d *device, talks []*conversation) error {
	if !d.runs() {
		if err := d.open(); err != nil {
			return err
		}
	}
	lines := json.NewEncoder(w)
	for _, c := range talks {
		list, err := c.historyOf(ctx, d)
		if code := wire.CodeOf(err); code == wire.UnknownConversation || code == wire.NotFound {
			continue
		}
		if err != nil {
			return fmt.Errorf("%v: %w", c.id, err)
		}
		for i := range list {
			m := &list[i]
			line := message{
				Conversation: m.Conversation.String(), Number: m.Number, ID: m.ID.String(), Sender: string(m.Sender), Status: m.Status.String(),
				Error: m.Error, Epoch: uint64(m.Epoch), Sent: m.Time.UTC(), Stored: m.Stored.UTC(), Text: m.Content.Text,
			}
			if m.Content.File != nil {
				line.File = m.Content.File.Name
			}
			if err := lines.Encode(&line); err != nil {
				return err
			}
		}
	}
	return nil
}

// output returns all that a docker command prints, whether it succeeds or not.
func output(ctx context.Context, args ...string) []byte {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	out, err := bounded(ctx, "docker", args...).CombinedOutput()
	if err != nil {
		out = append(out, "\n"+err.Error()+"\n"...)
	}
	return out
}
