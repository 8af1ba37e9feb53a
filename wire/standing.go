package wire

// PolicyRequest asks for the policy of a conversation that the device reads, or, without a conversation, for the
// policy that the organization proposes for new ones. A node that serves it announces FeaturePolicy.
type PolicyRequest struct {
	Conversation *ConversationID `cbor:"1,keyasint,omitempty"`
}

// PolicyAnswer is the requested policy. A number is 0 if the state machine's default holds.
type PolicyAnswer struct {
	Policy Policy `cbor:"1,keyasint"`
}

// Check refuses a policy that exceeds its bounds.
func (a *PolicyAnswer) Check() error { return a.Policy.Check() }

// WaitingRequest asks which application messages of a conversation wait at the node for other organizations. The
// device must read the conversation. A node that serves it announces FeatureWaiting.
type WaitingRequest struct {
	Conversation ConversationID `cbor:"1,keyasint"`
}

// WaitingAnswer lists the organizations for which messages wait, sorted by name. An organization that is not listed
// has all messages that the node has accepted and has not given up.
type WaitingAnswer struct {
	Lanes []WaitingLane `cbor:"1,keyasint"`
}

// WaitingLane is the queue of messages for one organization, which are delivered in order.
type WaitingLane struct {
	Organization Domain         `cbor:"1,keyasint"`
	Items        uint64         `cbor:"2,keyasint"`           // number of waiting messages
	Oldest       Time           `cbor:"3,keyasint"`           // when the first of them was accepted
	First        []SubmissionID `cbor:"4,keyasint"`           // the first of them, at most MaxWaiting, in order
	Last         Time           `cbor:"5,keyasint"`           // when the last message in First was accepted: later ones follow it
	Code         Code           `cbor:"6,keyasint,omitempty"` // code of the last attempt's error; "" before the first one
}

// Bounds of a WaitingAnswer.
const (
	MaxWaiting      = 64   // ids in a lane
	maxWaitingLanes = 4096 // organizations
)

// Check refuses an answer that exceeds its bounds.
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
