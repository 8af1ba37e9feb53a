package machine

import "github.com/mlsfed/mlsfed/mlscore"

// MLSRules validates public handshakes with mlscore.
//
// All replicas must come to the same judgement, today and when a log is applied again years later. So Config.Auth
// must use only the credential itself: no clock, and no list of roots that may differ between organizations. Members
// check each other's certificates against their own roots; a server checks the requirements of MLS itself.
type MLSRules struct{ Config mlscore.PublicConfig }

// New validates a GroupInfo and its tree in full.
func (r MLSRules) New(groupInfo, tree []byte) (PublicGroup, error) {
	s, err := mlscore.NewPublicState(groupInfo, tree, r.Config)
	if err != nil {
		return nil, err
	}
	return mlsGroup{s}, nil
}

// Restore reads a state that MarshalBinary wrote.
func (r MLSRules) Restore(data []byte) (PublicGroup, error) {
	s, err := mlscore.ParsePublicState(data, r.Config)
	if err != nil {
		return nil, err
	}
	return mlsGroup{s}, nil
}

// mlsGroup is an mlscore.PublicState.
type mlsGroup struct{ *mlscore.PublicState }

// Process validates a handshake and returns the state after it.
func (g mlsGroup) Process(msg []byte) (PublicGroup, error) {
	next, _, err := g.PublicState.Process(msg)
	if err != nil {
		return nil, err
	}
	return mlsGroup{next}, nil
}
