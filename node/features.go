package node

import "github.com/mlsfed/mlsfed/wire"

// features lists what this build understands beyond the first release. The node announces it to other nodes, and to
// devices that ask.
var features = wire.NewFeatures(
	wire.FeatureRules2,
	wire.FeatureRules3,
	wire.FeatureAlarm,
	wire.FeatureClaimOwn,
	wire.FeatureComplain,
	wire.FeatureDelivery,
	wire.FeatureDiscard,
	wire.FeatureLate,
	wire.FeatureLimits,
	wire.FeaturePages,
	wire.FeaturePolicy,
	wire.FeatureTestify,
	wire.FeatureWaiting,
)
