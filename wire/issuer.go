package wire

import (
	"encoding/hex"
	"strings"
)

// Issuer describes the OpenID Connect issuer that authenticates users who enrol devices: the data with which a client
// requests an ID token.
type Issuer struct {
	URL    string   `cbor:"1,keyasint"` // the issuer's URL, as defined in OpenID Connect Discovery §2
	Client string   `cbor:"2,keyasint"` // the client id for requests; tokens are issued for it
	Scopes []string `cbor:"3,keyasint"` // scopes to request, including "openid"
	Claim  string   `cbor:"4,keyasint"` // the claim of the ID token that holds the user's name
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

// FlowAnswer holds the data that the user has to see, and the data with which the device polls.
type FlowAnswer struct {
	Flow     Token  `cbor:"1,keyasint"`
	Code     string `cbor:"2,keyasint"`           // the code that the user types in
	URL      string `cbor:"3,keyasint"`           // the address where the user types it in
	Complete string `cbor:"4,keyasint,omitempty"` // the same address with the code in it, for example for a QR code
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

// FlowPoll asks for the state of a flow. Its answer is a FlowState, or wire.Denied once the user or the issuer has
// refused, or the flow has ended.
type FlowPoll struct {
	Flow Token `cbor:"1,keyasint"`
}

// FlowState names the user, once the issuer has named the user.
type FlowState struct {
	User     UserID `cbor:"1,keyasint,omitempty"` // "" while the user has not decided
	Interval uint64 `cbor:"2,keyasint"`           // milliseconds until the next poll
}

// Check refuses a user id of the wrong form.
func (s *FlowState) Check() error {
	if s.User == "" {
		return nil
	}
	if err := s.User.Check(); err != nil {
		return Errorf(Malformed, "flow", "%v", err)
	}
	return nil
}

// flowPrefix distinguishes a flow from an ID token, which has two dots and no colon.
const flowPrefix = "flow:"

// FlowToken returns the value of EnrolRequest.Token for a flow that has found its user: the node has the ID token.
func FlowToken(flow Token) string { return flowPrefix + hex.EncodeToString(flow[:]) }

// ParseFlowToken parses the output of FlowToken. ok is false for an ID token.
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
