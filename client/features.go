package client

import (
	"context"
	"errors"

	"github.com/mlsfed/mlsfed/wire"
)

// features is what this build of the device announces to its node.
var features = wire.NewFeatures()

// announce tells the node what the device understands, and notes what the node does. A node of the first
// release does not know the method: its set stays empty.
func (d *Device) announce(ctx context.Context, s *session) {
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
	case !errors.Is(err, wire.Version) && !errors.Is(err, errSessionEnded) && ctx.Err() == nil:
		d.log.Warn("features not announced", "node", s.node, "error", err)
	}
}

// has reports whether the session's node has announced f.
func (s *session) has(f wire.Feature) bool {
	known := s.features.Load()
	return known != nil && known.Has(f)
}
