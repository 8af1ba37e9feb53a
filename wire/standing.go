package wire

// PolicyRequest asks for the policy of a conversation that the device reads, or, without a conversation, for the one
// that the organization proposes for new ones. A node that takes it announces FeaturePolicy.
type PolicyRequest struct {
	Conversation *ConversationID `cbor:"1,keyasint,omitempty"`
}

// PolicyAnswer is that policy. Numbers are 0 where the state machine's defaults hold.
type PolicyAnswer struct {
	Policy Policy `cbor:"1,keyasint"`
}

// Check refuses a policy out of its bounds.
func (a *PolicyAnswer) Check() error { return a.Policy.Check() }

// WaitingRequest asks which application messages of a conversation wait at the node for other organizations. The device
// must read the conversation. A node that takes it announces FeatureWaiting.
type WaitingRequest struct {
	Conversation ConversationID `cbor:"1,keyasint"`
}

// WaitingAnswer names the organizations for which something waits, by name. An organization that is not named has all
// that the node has accepted and has not given up.
type WaitingAnswer struct {
	Lanes []WaitingLane `cbor:"1,keyasint"`
}

// WaitingLane is what waits for one organization. It is handed over in order.
type WaitingLane struct {
	Organization Domain         `cbor:"1,keyasint"`
	Items        uint64         `cbor:"2,keyasint"`           // how many messages wait
	Oldest       Time           `cbor:"3,keyasint"`           // when the first of them was accepted
	First        []SubmissionID `cbor:"4,keyasint"`           // the first of them, at most MaxWaiting, in order
	Last         Time           `cbor:"5,keyasint"`           // when the last one in First was accepted: those after it were later
	Code         Code           `cbor:"6,keyasint,omitempty"` // of the last attempt's error; "" before the first one
}

// Bounds of a WaitingAnswer.
const (
	MaxWaiting      = 64   // ids in a lane
	maxWaitingLanes = 4096 // organizations
)

// Check refuses an answer over its bounds.
func (a *WaitingAnswer) Check() error {
	if len(a.Lanes) > maxWaitingLanes {
		return Errorf(TooLarge, "waiting", "%d organizations, at most %d", len(a.Lanes), maxWaitingLanes)
	}
	for i := range a.Lanes {
		l := &a.Lanes[i]
		if err := l.Organization.Check(); err != nil {
			return Errorf(Malformed, "waiting", "%v", err)
		}
		if len(l.First) > MaxWaiting || uint64(len(l.First)) > l.Items {
			return Errorf(Malformed, "waiting", "%d ids of %d items, at most %d", len(l.First), l.Items, MaxWaiting)
		}
		if l.Code != "" {
			if err := (&Error{Code: l.Code}).Check(); err != nil {
				return err
			}
		}
	}
	return nil
}
