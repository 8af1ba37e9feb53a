package node

import "github.com/mlsfed/mlsfed/wire"

// features is what this build understands beyond the first release: what it announces to other nodes, and
// to devices that ask.
var features = wire.NewFeatures(
	wire.FeatureRules2,
	wire.FeatureAlarm,
	wire.FeatureClaimOwn,
	wire.FeatureComplain,
	wire.FeatureDelivery,
	wire.FeatureDiscard,
	wire.FeatureLimits,
	wire.FeaturePolicy,
	wire.FeatureTestify,
	wire.FeatureWaiting,
)
