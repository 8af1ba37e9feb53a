package federation

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/internal/clock"
	"github.com/mlsfed/mlsfed/wire"
)

// lines writes log lines that others can cause, each kind at a bounded rate. Suppressed lines are counted, and the
// next line of that kind has their number.
type lines struct {
	log   *slog.Logger
	clock clock.Source

	mu    sync.Mutex // guards kinds
	kinds map[string]*lineKind
}

// lineKind is one text, a constant of this package.
type lineKind struct {
	rate       *rate.Limiter
	suppressed int
}

// Lines of one kind a second in the long run, and at once.
const (
	lineRate  = 10
	lineBurst = 100
)

func newLines(log *slog.Logger, clock clock.Source) *lines {
	return &lines{log: log, clock: clock, kinds: make(map[string]*lineKind)}
}

func (l *lines) warn(text string, args ...any) { l.write(slog.LevelWarn, text, args...) }

func (l *lines) write(level slog.Level, text string, args ...any) {
	l.mu.Lock()
	k := l.kinds[text]
	if k == nil {
		k = &lineKind{rate: rate.NewLimiter(lineRate, lineBurst)}
		l.kinds[text] = k
	}
	if !k.rate.AllowN(l.clock.Now(), 1) {
		k.suppressed++
		l.mu.Unlock()
		return
	}
	if k.suppressed > 0 {
		args = append(args, "left_out_before", k.suppressed)
		k.suppressed = 0
	}
	l.mu.Unlock()
	l.log.Log(context.Background(), level, text, args...)
}

// faults has the last failure of each organization in the allow-list, for Status.
type faults struct {
	own   wire.Domain
	peers *organization.Peers
	clock clock.Source

	mu sync.Mutex // guards by
	by map[wire.Domain]fault
}

type fault struct {
	text string
	at   time.Time
}

func (s *faults) note(d wire.Domain, err error) {
	if _, listed := s.peers.Get(d); !listed && d != s.own {
		return // anyone can claim a name
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.by[d] = fault{text: err.Error(), at: s.clock.Now()}
}

func (s *faults) get(d wire.Domain) fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.by[d]
}

// keep drops the failures of organizations that are no longer listed.
func (s *faults) keep(listed func(wire.Domain) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for d := range s.by {
		if !listed(d) {
			delete(s.by, d)
		}
	}
}
