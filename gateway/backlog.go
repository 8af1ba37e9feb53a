package gateway

import (
	"slices"
	"sync"

	"github.com/mlsfed/mlsfed/wire"
)

// A session has a bound for the bytes that the node holds for it, but a user has many sessions: a user whose devices do
// not read could fill the node's memory. A backlog counts the bytes of all sessions of one user: requests under way,
// answers that wait, and the pages of pushes that are being written. At Config.MaxHeldOfUser the node refuses requests
// of the user. Answers and pushes cannot be refused: if these alone exceed the bound, the node closes the slowest
// sessions of the user and drops the answers that wait for them.

// backlogs has a backlog for each user with a session.
type backlogs struct {
	mu sync.Mutex
	of map[wire.UserID]*backlog
}

// backlog is safe for concurrent use.
type backlog struct {
	user wire.UserID
	most int // bytes

	mu       sync.Mutex
	requests int // the sums of all sessions
	unsent   int
	writes   uint64 // counts the writes of all sessions
	sessions []*session
}

// share is a session's part of its user's backlog.
type share struct {
	requests int    // bytes of requests under way
	unsent   int    // bytes of answers and pushes that the socket has not taken
	writing  uint64 // the number of the write in progress; 0 for none
	closed   bool   // unsent bytes no longer count: the session is being closed
}

// join adds a session to those of its user.
func (h *backlogs) join(s *session, most int) *backlog {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.of == nil {
		h.of = make(map[wire.UserID]*backlog)
	}
	user := s.device.User()
	u := h.of[user]
	if u == nil {
		u = &backlog{user: user, most: most}
		h.of[user] = u
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.sessions = append(u.sessions, s)
	return u
}

// leave removes a session with all its bytes.
func (h *backlogs) leave(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	u := s.user
	u.mu.Lock()
	defer u.mu.Unlock()
	u.requests -= s.share.requests
	u.unsent -= s.share.unsent
	s.share = share{closed: true} // an alarm may still come
	u.sessions = slices.DeleteFunc(u.sessions, func(o *session) bool { return o == s })
	if len(u.sessions) == 0 {
		delete(h.of, u.user)
	}
}

// begin counts a request, or reports that the user has no room for it.
func (u *backlog) begin(s *session, size int) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.requests+u.unsent >= u.most {
		return false
	}
	s.share.requests += size
	u.requests += size
	return true
}

// queue counts n bytes that are to be written, and takes off a request of size bytes, 0 for none. The caller must
// discard the sessions that queue returns, after it has released its locks.
func (u *backlog) queue(s *session, n, size int) (slow []*session) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s.share.requests -= size
	u.requests -= size
	if s.share.closed {
		return nil
	}
	s.share.unsent += n
	u.unsent += n
	for u.unsent > u.most {
		v := u.slowest()
		if v == nil {
			break
		}
		u.unsent -= v.share.unsent
		v.share.unsent, v.share.closed = 0, true
		slow = append(slow, v)
	}
	return slow
}

// slowest returns the session whose write in progress began first; if no session writes, the one with the most unsent
// bytes; nil if nothing is unsent. The caller holds u.mu.
func (u *backlog) slowest() (slow *session) {
	for _, s := range u.sessions {
		switch {
		case s.share.unsent <= 0:
		case slow == nil, s.share.slower(&slow.share):
			slow = s
		}
	}
	return slow
}

func (a *share) slower(b *share) bool {
	switch {
	case a.writing != 0 && b.writing != 0:
		return a.writing < b.writing
	case a.writing == 0 && b.writing == 0:
		return a.unsent > b.unsent
	}
	return a.writing != 0
}

// sent takes off n bytes that the socket has taken.
func (u *backlog) sent(s *session, n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !s.share.closed {
		s.share.unsent -= n
		u.unsent -= n
	}
}

// writing notes that a write to the socket of a session begins.
func (u *backlog) writing(s *session) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.writes++
	s.share.writing = u.writes
}

// wrote notes that the write has ended.
func (u *backlog) wrote(s *session) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s.share.writing = 0
}

// discard closes slow sessions and drops the answers that wait for them.
func discard(slow []*session) {
	for _, s := range slow {
		s.mu.Lock()
		s.out, s.discarded = nil, true
		s.mu.Unlock()
		s.g.metrics.over(overUnsentOfUser)
		s.end(wire.CloseSlow, wire.Errorf(wire.Busy, "session", "more than %d bytes wait for the devices of %s, and this one reads most slowly", s.user.most, s.user.user))
	}
}
