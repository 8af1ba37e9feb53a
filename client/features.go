package client

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/mlsfed/mlsfed/wire"
)

// features is what this build of the device announces to its node.
var features = wire.NewFeatures(wire.FeatureAlarm)

// announce tells the node what the device understands, and notes what the node does. A node of the first
// release does not know the method: its set stays empty.
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
		if s.has(wire.FeatureDelivery) {
			d.lanes.kick(laneUpkeep) // delivery lists are to be compared
		}
		d.learnLimits(ctx, s)
	case !errors.Is(err, wire.Version) && !errors.Is(err, errSessionEnded) && ctx.Err() == nil:
		d.log.Warn("features not announced", "node", s.node, "error", err)
	}
}

// has reports whether the session's node has announced f.
func (s *session) has(f wire.Feature) bool {
	known := s.features.Load()
	return known != nil && known.Has(f)
}

// supports reports whether the node of the present session has announced f. It waits for the announcement; without a
// session it waits for one.
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

// takeAlarm reports an alarm of the node. An alarm that this device has reported already is passed over.
func (d *Device) takeAlarm(a *wire.Alarm) {
	known := fmt.Sprintf("%s %s %d", a.Conversation, a.Reason, a.Time)
	d.alarms.mu.Lock()
	defer d.alarms.mu.Unlock()
	if d.alarms.told[known] || len(d.alarms.told) >= maxTold {
		return
	}
	if d.alarms.told == nil {
		d.alarms.told = make(map[string]bool)
	}
	d.alarms.told[known] = true
	err := fmt.Errorf("the node reports %s: %s", a.Reason, a.Text)
	d.log.Error("divergence", "conversation", a.Conversation, "error", err)
	d.emit(Event{Type: EventDivergence, Conversation: a.Conversation, Err: err})
}

// maxTold bounds the alarms that one run of a device reports.
const maxTold = 4096

// alarms are those that this run of the device has reported.
type alarms struct {
	mu   sync.Mutex // guards told
	told map[string]bool
}
