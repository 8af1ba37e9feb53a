package people

import (
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

func TestDeliveryText(t *testing.T) {
	now := time.Date(2026, 3, 1, 15, 0, 0, 0, time.Local)
	old := time.Date(2026, 3, 1, 14, 2, 0, 0, time.Local)
	down := wire.Errorf(wire.Unavailable, "deliver", "cannot be reached")
	at := func(d wire.Domain, s client.DeliveryState) client.Delivery {
		v := client.Delivery{Organization: d, State: s}
		if s == client.DeliveryWaiting {
			v.Since, v.Err = old, down
		}
		return v
	}
	for want, list := range map[string][]client.Delivery{
		"waiting for b.example since 14:02": {at("b.example", client.DeliveryWaiting)},
		"delivered to 2 of 4 organizations, waiting for c.example since 14:02, refused by d.example": {
			at("a.example", client.DeliveryDone), at("b.example", client.DeliveryDone), at("c.example", client.DeliveryWaiting), at("d.example", client.DeliveryRefused)},
		"waiting for z.example since 2026-02-27 14:02: your organization does not talk to it, ask your operator": {
			{Organization: "z.example", State: client.DeliveryWaiting, Since: old.AddDate(0, 0, -2), Err: wire.NotAdmitted}},
	} {
		if got := DeliveryText(list, now); got != want {
			t.Errorf("%q, wanted %q", got, want)
		}
	}
	for name, list := range map[string][]client.Delivery{
		"nobody else": nil, "all have it": {at("b.example", client.DeliveryDone)}, "unknown": {at("b.example", client.DeliveryUnknown)},
		"on its way": {{Organization: "b.example", State: client.DeliveryWaiting, Since: now.Add(-time.Second)}},
	} {
		if got := DeliveryText(list, now); got != "" {
			t.Errorf("%s: %q", name, got)
		}
	}
}
