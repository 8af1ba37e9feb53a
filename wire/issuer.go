package wire

import (
	"encoding/hex"
	"strings"
)

// Issuer is the OpenID Connect issuer by whose word devices enrol: what a client needs to ask it for an ID token.
type Issuer struct {
	URL    string   `cbor:"1,keyasint"` // of the issuer, as OpenID Connect Discovery §2 has it
	Client string   `cbor:"2,keyasint"` // the client id to ask with; tokens are made for it
	Scopes []string `cbor:"3,keyasint"` // to ask for, "openid" among them
	Claim  string   `cbor:"4,keyasint"` // of the ID token that holds the user's name
	// Flows reports that the node runs the device authorization grant (RFC 8628) for a key: paths /v1/flow and
	// /v1/flow/poll.
	Flows bool `cbor:"5,keyasint,omitempty"`
}

// Bounds of an Issuer.
const (
	maxIssuerText = 512
	maxScopes     = 16
)

// Check refuses texts that are empty or too long.
func (i *Issuer) Check() error {
	for _, s := range append([]string{i.URL, i.Client, i.Claim}, i.Scopes...) {
		if s == "" || len(s) > maxIssuerText {
			return Errorf(Malformed, "issuer", "a text of %d bytes, wanted 1 to %d", len(s), maxIssuerText)
		}
	}
	if len(i.Scopes) > maxScopes {
		return Errorf(Malformed, "issuer", "%d scopes, at most %d", len(i.Scopes), maxScopes)
	}
	return nil
}

// FlowRequest asks the node to run the device authorization grant for a key. Its answer is a FlowAnswer.
type FlowRequest struct {
	Key []byte `cbor:"1,keyasint"` // the device's signature key, as MLS encodes it
}

// maxFlowKey bounds a key: that of ML-DSA-87 has 2,592 bytes.
const maxFlowKey = 4 << 10

// Check refuses a request without a key.
func (r *FlowRequest) Check() error {
	if len(r.Key) == 0 || len(r.Key) > maxFlowKey {
		return Errorf(Malformed, "flow", "a key of %d bytes, wanted 1 to %d", len(r.Key), maxFlowKey)
	}
	return nil
}

// FlowAnswer is what the user has to be shown, and by what the device asks again.
type FlowAnswer struct {
	Flow     Token  `cbor:"1,keyasint"`
	Code     string `cbor:"2,keyasint"`           // that the user types in
	URL      string `cbor:"3,keyasint"`           // where
	Complete string `cbor:"4,keyasint,omitempty"` // the same with the code in it, as for a QR code
	Interval uint64 `cbor:"5,keyasint"`           // milliseconds between two polls
	Ends     Time   `cbor:"6,keyasint"`
}

// Check refuses texts that are empty or too long.
func (a *FlowAnswer) Check() error {
	if a.Code == "" || a.URL == "" || len(a.Code) > maxIssuerText || len(a.URL) > maxIssuerText || len(a.Complete) > 2*maxIssuerText {
		return Errorf(Malformed, "flow", "a code of %d bytes at an address of %d and %d", len(a.Code), len(a.URL), len(a.Complete))
	}
	return nil
}

// FlowPoll asks what has become of a flow. Its answer is a FlowState; wire.Denied once the user or the issuer has
// refused, or the flow has ended.
type FlowPoll struct {
	Flow Token `cbor:"1,keyasint"`
}

// FlowState says who the user is, once the issuer has said so.
type FlowState struct {
	User     UserID `cbor:"1,keyasint,omitempty"` // "" while the user has not decided
	Interval uint64 `cbor:"2,keyasint"`           // milliseconds until the next poll
}

// Check refuses a user of the wrong form.
func (s *FlowState) Check() error {
	if s.User == "" {
		return nil
	}
	if err := s.User.Check(); err != nil {
		return Errorf(Malformed, "flow", "%v", err)
	}
	return nil
}

// flowPrefix tells a flow from an ID token, which has two dots and no colon.
const flowPrefix = "flow:"

// FlowToken is what stands in EnrolRequest.Token for a flow that has come to a user: the node has the ID token.
func FlowToken(flow Token) string { return flowPrefix + hex.EncodeToString(flow[:]) }

// ParseFlowToken reads what FlowToken returns. ok is false for an ID token.
func ParseFlowToken(s string) (flow Token, ok bool, err error) {
	text, ok := strings.CutPrefix(s, flowPrefix)
	if !ok {
		return flow, false, nil
	}
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(flow) {
		return flow, true, Errorf(Malformed, "enrol", "%.40q names no flow", s)
	}
	return Token(b), true, nil
}
