package gateway

import (
	"context"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// TestAlarm holds that a device which announced that it takes alarms gets those that stand and those that
// come, and that others get no frame which they do not know.
func TestAlarm(t *testing.T) {
	current := wire.Alarm{Conversation: "conversation-one", Reason: "rewritten", Text: "n1.b.example sent another entry 7", Time: 3}
	w := newWorld(t, echo, func(c *Config) {
		c.Features = wire.NewFeatures(wire.FeatureAlarm)
		c.Alarms = func(_ context.Context, d wire.DeviceID) []wire.Alarm {
			if d != phone {
				t.Errorf("asked for the alarms of %s", d)
			}
			return []wire.Alarm{current}
		}
	})
	old, c := w.login(phone, true), w.login(phone, false)
	var features wire.FeaturesAnswer
	if err := c.do(wire.MethodFeatures, &wire.FeaturesRequest{Features: wire.NewFeatures(wire.FeatureAlarm)}, &features); err != nil {
		t.Fatal(err)
	}
	var got wire.Alarm
	if c.body(wire.FrameAlarm, &got); got != current {
		t.Errorf("standing: %+v", got)
	}
	later := wire.Alarm{Conversation: "conversation-two", Reason: "diverged", Time: 4}
	w.Alarm(phone, &later)
	if c.body(wire.FrameAlarm, &got); got != later {
		t.Errorf("later: %+v", got)
	}
	// The other session would meet the frame before the answer.
	if err := old.do(wire.MethodFeatures, &wire.FeaturesRequest{}, new(wire.FeaturesAnswer)); err != nil {
		t.Errorf("a session that announced nothing: %v", err)
	}
	if list := w.Online(); len(list) != 1 || list[0] != phone {
		t.Errorf("online: %v", list)
	}
}
