package gateway

import "github.com/mlsfed/mlsfed/wire"

// Alarm tells a device that servers disagree about a conversation that it reads. Only sessions that have
// announced wire.FeatureAlarm are told; others learn of it when they compare the order of the log.
func (g *Gateway) Alarm(d wire.DeviceID, a *wire.Alarm) {
	for _, s := range g.registry.list(d) {
		if s.announced().Has(wire.FeatureAlarm) {
			s.alarm(a)
		}
	}
}

// Online lists the devices that have a session.
func (g *Gateway) Online() []wire.DeviceID { return g.registry.devices() }

// standingAlarms tells a device that has just announced that it takes alarms of those that stand.
func (s *session) standingAlarms() {
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
	s.mu.Lock()
	if len(s.out) < maxAlarms {
		s.out = append(s.out, outgoing{frame: frame})
	}
	s.mu.Unlock()
	s.signal()
}

// maxAlarms bounds the frames that wait for a session when an alarm is to be added: a device that does not
// read loses alarms, and hears of those that stand when it connects again.
const maxAlarms = 1024
