package gateway

import (
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/mlsfed/mlsfed/wire"
)

// registry knows the sessions of a gateway. A session takes a place when it connects, is under a device's
// name from before its login is checked, and counts as the device's when it is admitted.
type registry struct {
	mu       sync.Mutex
	places   int
	admitted int
	ofAddr   map[netip.Addr]int
	of       map[wire.DeviceID][]*session
}

// enter takes a place, or says which limit has none.
func (r *registry) enter(a netip.Addr, most, mostOfAddress int) (over string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.places >= most:
		return overSessions
	case r.ofAddr[a] >= mostOfAddress:
		return overOfAddress
	}
	if r.ofAddr == nil {
		r.ofAddr = make(map[netip.Addr]int)
	}
	r.places++
	r.ofAddr[a]++
	return ""
}

// leave gives a session's place back.
func (r *registry) leave(a netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.places--
	if r.ofAddr[a]--; r.ofAddr[a] == 0 {
		delete(r.ofAddr, a)
	}
}

// name puts a session under a device's name, so that disconnecting the device meets it from now on.
func (r *registry) name(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil {
		r.of = make(map[wire.DeviceID][]*session)
	}
	r.of[s.device] = append(r.of[s.device], s)
}

// unname undoes name and admit.
func (r *registry) unname(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.of[s.device]
	i := slices.Index(list, s)
	if i < 0 {
		return
	}
	if s.admitted {
		r.admitted--
	}
	if list = slices.Delete(list, i, i+1); len(list) == 0 {
		delete(r.of, s.device)
		return
	}
	r.of[s.device] = list
}

// admit makes a session the device's. If it receives, it returns the one that did so before, which counts
// no longer. ok is false if the device has as many as it may.
func (r *registry) admit(s *session, most int) (before *session, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, o := range r.of[s.device] {
		if !o.admitted {
			continue
		}
		if s.receive && o.receive && !o.replaced {
			before = o
		} else if !o.replaced {
			n++
		}
	}
	if n >= most {
		return nil, false
	}
	if before != nil {
		before.replaced = true
	}
	s.admitted = true
	r.admitted++
	return before, true
}

// list returns the sessions under a device's name.
func (r *registry) list(d wire.DeviceID) []*session {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.of[d])
}

// devices lists those that have a session.
func (r *registry) devices() []wire.DeviceID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.of))
}

func (r *registry) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.admitted
}
