package gateway

import "github.com/mlsfed/mlsfed/wire"

// Alarm reports to a device that servers disagree about a conversation that it reads. Only sessions that have
// announced wire.FeatureAlarm receive the frame; other devices notice when they compare the order of the log.
func (g *Gateway) Alarm(d wire.DeviceID, a *wire.Alarm) {
	for _, s := range g.registry.list(d) {
		if s.announced().Has(wire.FeatureAlarm) {
			s.alarm(a)
		}
	}
}

// Online lists the devices that have a session.
func (g *Gateway) Online() []wire.DeviceID { return g.registry.devices() }

// openAlarms sends the alarms that are still open to a device that has just announced wire.FeatureAlarm.
func (s *session) openAlarms() {
	if s.g.cfg.Alarms == nil || !s.announced().Has(wire.FeatureAlarm) {
		return
	}
	for _, a := range s.g.cfg.Alarms(s.ctx, s.device) {
		s.alarm(&a)
	}
}

// alarm hands a frame to the writer.
func (s *session) alarm(a *wire.Alarm) {
	frame, err := frameOf(wire.FrameAlarm, 0, a)
	if err != nil {
		s.g.cfg.Log.Error("alarm not sent", "device", s.device, "conversation", a.Conversation, "error", err)
		return
	}
	var slow []*session
	s.mu.Lock()
	if len(s.out) < maxAlarms && !s.discarded {
		slow = s.user.queue(s, len(frame), 0)
		s.out = append(s.out, outgoing{frame: frame})
	}
	s.mu.Unlock()
	discard(slow)
	s.signal()
}

// maxAlarms bounds the frames that wait for a session when an alarm is to be added: a device that does not
// read loses alarms, and hears of those that stand when it connects again.
const maxAlarms = 1024
