package operator

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"sync"
)

// journal writes log lines for a systemd service, whose standard error is the journal. Each line begins with its
// priority (sd-daemon(3)) and has no time, since the journal adds a time.
type journal struct {
	to   *journalLines
	text slog.Handler // writes a line into to.line
}

// journalLines is the output that a journal shares with the journals that WithAttrs and WithGroup return.
type journalLines struct {
	out io.Writer

	mu   sync.Mutex // one line at a time
	line bytes.Buffer
}

func newJournal(out io.Writer, o *slog.HandlerOptions) *journal {
	to := &journalLines{out: out}
	plain := *o
	plain.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}
	return &journal{to, slog.NewTextHandler(&to.line, &plain)}
}

// priority returns the syslog number of a level.
func priority(l slog.Level) string {
	switch {
	case l >= slog.LevelError:
		return "<3>"
	case l >= slog.LevelWarn:
		return "<4>"
	case l >= slog.LevelInfo:
		return "<6>"
	}
	return "<7>"
}

// Enabled implements slog.Handler.
func (j *journal) Enabled(ctx context.Context, l slog.Level) bool { return j.text.Enabled(ctx, l) }

// Handle implements slog.Handler.
func (j *journal) Handle(ctx context.Context, r slog.Record) error {
	j.to.mu.Lock()
	defer j.to.mu.Unlock()
	j.to.line.Reset()
	j.to.line.WriteString(priority(r.Level))
	if err := j.text.Handle(ctx, r); err != nil {
		return err
	}
	_, err := j.to.out.Write(j.to.line.Bytes())
	return err
}

// WithAttrs implements slog.Handler.
func (j *journal) WithAttrs(list []slog.Attr) slog.Handler {
	return &journal{j.to, j.text.WithAttrs(list)}
}

// WithGroup implements slog.Handler.
func (j *journal) WithGroup(name string) slog.Handler { return &journal{j.to, j.text.WithGroup(name)} }
