package consensus

import (
	"context"
	"io"
	"log"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// raftLogger passes Raft's log messages of one conversation to slog, all of them at level DEBUG. This package itself
// logs events for operators, once, with the conversation. Raft repeats its messages for each absent peer and each
// attempt.
type raftLogger struct {
	out  *slog.Logger
	name string
}

var _ hclog.Logger = (*raftLogger)(nil)

// Log implements hclog.Logger.
func (l *raftLogger) Log(level hclog.Level, msg string, args ...interface{}) {
	if l.IsDebug() {
		l.out.Debug("raft: "+msg, append(args, "raft_level", level.String())...)
	}
}

func (l *raftLogger) Trace(string, ...interface{})          {}
func (l *raftLogger) Debug(msg string, args ...interface{}) { l.Log(hclog.Debug, msg, args...) }
func (l *raftLogger) Info(msg string, args ...interface{})  { l.Log(hclog.Info, msg, args...) }
func (l *raftLogger) Warn(msg string, args ...interface{})  { l.Log(hclog.Warn, msg, args...) }
func (l *raftLogger) Error(msg string, args ...interface{}) { l.Log(hclog.Error, msg, args...) }
func (l *raftLogger) IsTrace() bool                         { return false }
func (l *raftLogger) IsDebug() bool                         { return l.out.Enabled(context.Background(), slog.LevelDebug) }
func (l *raftLogger) IsInfo() bool                          { return l.IsDebug() }
func (l *raftLogger) IsWarn() bool                          { return l.IsDebug() }
func (l *raftLogger) IsError() bool                         { return l.IsDebug() }
func (l *raftLogger) ImpliedArgs() []interface{}            { return nil }
func (l *raftLogger) Name() string                          { return l.name }
func (l *raftLogger) SetLevel(hclog.Level)                  {}
func (l *raftLogger) GetLevel() hclog.Level                 { return hclog.Debug }
func (l *raftLogger) With(args ...interface{}) hclog.Logger {
	return &raftLogger{l.out.With(args...), l.name}
}
func (l *raftLogger) Named(name string) hclog.Logger                        { return &raftLogger{l.out, name} }
func (l *raftLogger) ResetNamed(name string) hclog.Logger                   { return &raftLogger{l.out, name} }
func (l *raftLogger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return io.Discard }
func (l *raftLogger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return log.New(io.Discard, "", 0)
}
