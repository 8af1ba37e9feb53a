package client

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/mlsfed/mlsfed/wire"
)

// features is the set of features that this build of the device announces to its node.
var features = wire.NewFeatures(wire.FeatureAlarm)

// announce sends the device's features to the node, and stores the node's. A node of the first release does not know
// the method: its set stays empty.
func (d *Device) announce(ctx context.Context, s *session) {
	defer close(s.announced)
	body, err := wire.Encode(&wire.FeaturesRequest{Features: features})
	if err != nil {
		d.log.Error("features not announced", "error", err)
		return
	}
	raw, err := s.request(ctx, wire.MethodFeatures, body)
	var answer wire.FeaturesAnswer
	if err == nil {
		err = wire.Decode(raw, wire.MaxSessionFrame, &answer)
	}
	switch {
	case err == nil:
		s.features.Store(&answer.Features)
		d.rests.learn(s.has(wire.FeatureRules3))
		if s.has(wire.FeatureDelivery) {
			d.queues.kick(queueUpkeep) // delivery lists have to be compared
		}
		d.learnLimits(ctx, s)
	case errors.Is(err, wire.Version):
		d.rests.learn(false)
	case !errors.Is(err, errSessionEnded) && ctx.Err() == nil:
		d.log.Warn("features not announced", "node", s.node, "error", err)
	}
}

// has reports whether the session's node has announced f.
func (s *session) has(f wire.Feature) bool {
	known := s.features.Load()
	return known != nil && known.Has(f)
}

// supports reports whether the node of the present session has announced f. It waits for the announcement; without a
// session it waits for a session.
func (d *Device) supports(ctx context.Context, f wire.Feature) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, d.opts.Timing.Call)
	defer cancel()
	var s *session
	for {
		var err error
		if s, err = d.link.wait(ctx, s); err != nil {
			return false, err
		}
		select {
		case <-s.announced:
			return s.has(f), nil
		case <-s.ended:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// takeAlarm reports an alarm of the node. It skips an alarm that this device has reported already.
func (d *Device) takeAlarm(a *wire.Alarm) {
	if !d.alarms.first(fmt.Sprintf("%s %s %d", a.Conversation, a.Reason, a.Time)) {
		return
	}
	err := fmt.Errorf("the node reports %s: %s", a.Reason, a.Text)
	d.log.Error("divergence", "conversation", a.Conversation, "error", err)
	d.emit(Event{Type: EventDivergence, Conversation: a.Conversation, Err: err})
}

// maxReported bounds the alarms that one run of a device reports.
const maxReported = 4096

// alarms is the set of alarms that this run of the device has reported.
type alarms struct {
	mu       sync.Mutex // guards the map
	reported map[string]bool
}

// first reports whether an alarm is new in this run of the device, and records it.
func (a *alarms) first(what string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.reported[what] || len(a.reported) >= maxReported {
		return false
	}
	if a.reported == nil {
		a.reported = make(map[string]bool)
	}
	a.reported[what] = true
	return true
}
