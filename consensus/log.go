package consensus

import (
	"context"
	"io"
	"log"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// raftLogger hands what Raft says to slog. Raft calls at INFO what concerns its own working; it is
// debug here, and its errors about unreachable peers are warnings.
type raftLogger struct {
	out  *slog.Logger
	name string
}

var _ hclog.Logger = (*raftLogger)(nil)

func raftLevel(l hclog.Level) slog.Level {
	switch l {
	case hclog.Error:
		return slog.LevelWarn
	case hclog.Warn:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

func (l *raftLogger) Log(level hclog.Level, msg string, args ...interface{}) {
	at := raftLevel(level)
	if !l.out.Enabled(context.Background(), at) {
		return
	}
	l.out.Log(context.Background(), at, "raft: "+msg, args...)
}

func (l *raftLogger) Trace(string, ...interface{})          {}
func (l *raftLogger) Debug(msg string, args ...interface{}) { l.Log(hclog.Debug, msg, args...) }
func (l *raftLogger) Info(msg string, args ...interface{})  { l.Log(hclog.Info, msg, args...) }
func (l *raftLogger) Warn(msg string, args ...interface{})  { l.Log(hclog.Warn, msg, args...) }
func (l *raftLogger) Error(msg string, args ...interface{}) { l.Log(hclog.Error, msg, args...) }
func (l *raftLogger) IsTrace() bool                         { return false }
func (l *raftLogger) IsDebug() bool                         { return l.enabled(hclog.Debug) }
func (l *raftLogger) IsInfo() bool                          { return l.enabled(hclog.Info) }
func (l *raftLogger) IsWarn() bool                          { return l.enabled(hclog.Warn) }
func (l *raftLogger) IsError() bool                         { return l.enabled(hclog.Error) }
func (l *raftLogger) ImpliedArgs() []interface{}            { return nil }
func (l *raftLogger) Name() string                          { return l.name }
func (l *raftLogger) SetLevel(hclog.Level)                  {}
func (l *raftLogger) GetLevel() hclog.Level                 { return hclog.Debug }
func (l *raftLogger) With(args ...interface{}) hclog.Logger {
	return &raftLogger{l.out.With(args...), l.name}
}
func (l *raftLogger) Named(name string) hclog.Logger      { return &raftLogger{l.out, name} }
func (l *raftLogger) ResetNamed(name string) hclog.Logger { return &raftLogger{l.out, name} }
func (l *raftLogger) enabled(level hclog.Level) bool {
	return l.out.Enabled(context.Background(), raftLevel(level))
}
func (l *raftLogger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return io.Discard }
func (l *raftLogger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return log.New(io.Discard, "", 0)
}
