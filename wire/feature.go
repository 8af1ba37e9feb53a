package wire

import "slices"

// Feature names a capability of a node or a device beyond the first release. A sender uses a new key, frame, item or
// rule only towards a receiver that announced its feature: decoders refuse unknown data.
type Feature string

// Bounds of an announcement.
const (
	MaxFeatures = 64 // names in one announcement
	maxFeature  = 32 // bytes of one name
)

// Features is a set of features, sorted and without duplicates.
type Features []Feature

// NewFeatures returns the set of the given features.
func NewFeatures(list ...Feature) Features {
	set := slices.Clone(Features(list))
	slices.Sort(set)
	return slices.Compact(set)
}

// Has reports whether f is in the set.
func (s Features) Has(f Feature) bool {
	_, found := slices.BinarySearch(s, f)
	return found
}

// FeaturesRequest announces the features of a device. Its answer is a FeaturesAnswer.
type FeaturesRequest struct {
	Features Features `cbor:"1,keyasint"`
}

// Check refuses a list that is not a set of at most MaxFeatures well-formed names.
func (r *FeaturesRequest) Check() error { return r.Features.check() }

// FeaturesAnswer announces the features of a node. A feature that the receiver does not know is not an error.
type FeaturesAnswer struct {
	Features Features `cbor:"1,keyasint"`
}

// Check refuses a list that is not a set of at most MaxFeatures well-formed names.
func (a *FeaturesAnswer) Check() error { return a.Features.check() }

func (s Features) check() error {
	if len(s) > MaxFeatures {
		return Errorf(Malformed, "features", "%d names, at most %d", len(s), MaxFeatures)
	}
	for i, f := range s {
		if !f.wellFormed() {
			return Errorf(Malformed, "features", "name %.40q: wanted 1 to %d of a-z, 0-9, '.', '-', '_' and '/'", f, maxFeature)
		}
		if i > 0 && s[i-1] >= f {
			return Errorf(Malformed, "features", "name %q is out of order", f)
		}
	}
	return nil
}

func (f Feature) wellFormed() bool {
	if f == "" || len(f) > maxFeature {
		return false
	}
	for _, c := range []byte(f) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '/' && c != '_' {
			return false
		}
	}
	return true
}

// The features of nodes.
const (
	// FeatureRules2 announces that a replica knows the state machine's rules of level 2.
	FeatureRules2 Feature = "rules/2"
	// FeatureRules3 announces that a replica knows the rules of level 3: it accepts CommitBundle.Rest.
	FeatureRules3 Feature = "rules/3"
	// FeatureTestify announces that a node answers other replicas' questions about a conversation.
	FeatureTestify Feature = "testify"
	// FeaturePages announces that a node serves CallRevocationsPage, and for devices MethodOrganizationsPage and
	// MethodRevocationsPage.
	FeaturePages Feature = "pages"
	// FeatureLate announces that a node accepts messages of a conversation after its organization has left it.
	// Another organization accepted these messages before the last device was removed, and the node informs the
	// device.
	FeatureLate Feature = "late"
	// FeatureComplain announces that a node accepts complaints about a leader that does not order a submission.
	FeatureComplain Feature = "complain"
)

// The features of sessions.
const (
	// FeatureAlarm announces that a device accepts a FrameAlarm, and that a node sends it.
	FeatureAlarm Feature = "alarm"
	// FeatureDelivery announces that a node serves MethodDelivery.
	FeatureDelivery Feature = "delivery"
	// FeatureDiscard announces that a node serves MethodDiscard.
	FeatureDiscard Feature = "discard"
	// FeaturePolicy announces that a node serves MethodPolicy.
	FeaturePolicy Feature = "policy"
	// FeatureWaiting announces that a node serves MethodWaiting.
	FeatureWaiting Feature = "waiting"
	// FeatureLimits announces that a node serves MethodLimits.
	FeatureLimits Feature = "limits"
	// FeatureClaimOwn announces that a node accepts KeyMaterialRequest.Devices.
	FeatureClaimOwn Feature = "claim/own"
)
