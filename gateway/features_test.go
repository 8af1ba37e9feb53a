package gateway

import (
	"context"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// TestFeatures holds that a device learns the node's features, and that the service gets the features which the
// device has announced in this session, and in no other.
func TestFeatures(t *testing.T) {
	reported := make(chan wire.Features, 1)
	w := newWorld(t, func(_ context.Context, r Request) (any, error) {
		reported <- r.Features
		return nil, nil
	}, func(c *Config) { c.Features = wire.NewFeatures("alarm") })
	c := w.login(phone, true)
	ask := func(c *device) wire.Features {
		if err := c.do(wire.MethodAddress, &wire.AddressRequest{Token: wire.Token{1}}, nil); err != nil {
			t.Fatal(err)
		}
		return <-reported
	}
	if f := ask(c); f != nil {
		t.Errorf("before: %v", f)
	}
	var answer wire.FeaturesAnswer
	if err := c.do(wire.MethodFeatures, &wire.FeaturesRequest{Features: wire.NewFeatures("a", "b")}, &answer); err != nil {
		t.Fatal(err)
	}
	if !answer.Features.Has("alarm") || len(answer.Features) != 1 {
		t.Errorf("the node announces %v", answer.Features)
	}
	if f := ask(c); !f.Has("a") || !f.Has("b") {
		t.Errorf("after: %v", f)
	}
	if f := ask(w.login(phone, false)); f != nil {
		t.Errorf("another session: %v", f)
	}
	if err := c.do(wire.MethodFeatures, &wire.FeaturesRequest{Features: wire.Features{"b", "a"}}, nil); wire.CodeOf(err) != wire.Malformed {
		t.Errorf("out of order: %v", err)
	}
}
