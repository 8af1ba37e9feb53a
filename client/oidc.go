package client

import (
	"context"
	"encoding/base64"
	"errors"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// DeviceKey is a signature key for a device whose user is not known yet: a login service will report the user. The
// key is only in memory until Enrol stores it.
type DeviceKey struct {
	suite  CipherSuite
	key    Secret
	public []byte
}

// NewDeviceKey makes a key for the cipher suite of Options; 0 selects the default.
func NewDeviceKey(suite CipherSuite) (*DeviceKey, error) {
	if suite == 0 {
		suite = mlscore.MLS128X25519AES128Ed25519
	}
	key, public, err := mlscore.GenerateSignatureKey(nil, suite)
	return &DeviceKey{suite, key, public}, err
}

// Public returns the public key in the encoding of MLS.
func (k *DeviceKey) Public() []byte { return k.public }

// Nonce returns the nonce that an ID token must have to enrol a device with the key: see TokenNonce.
func (k *DeviceKey) Nonce() string {
	h := hashOf(k.public)
	return base64.RawURLEncoding.EncodeToString(h[:])
}

// LoginTransport is a Transport that can also ask a node for the organization's login service. WebSocket returns a
// LoginTransport.
type LoginTransport interface {
	Transport
	// Issuer requests /v1/issuer. It returns [NotFound] if the organization has no login service.
	Issuer(ctx context.Context) (*wire.Issuer, error)
	// BeginFlow posts a request to /v1/flow.
	BeginFlow(ctx context.Context, r *wire.FlowRequest) (*wire.FlowAnswer, error)
	// PollFlow posts a request to /v1/flow/poll.
	PollFlow(ctx context.Context, r *wire.FlowPoll) (*wire.FlowState, error)
}

// Login logs a user in without a browser on this machine: the node runs the device authorization grant (RFC 8628) for
// the key, so no token passes through this process. Login calls show once, with the address and the code for the
// user. The user must type the code in only if this device shows it. Login returns once the user has agreed: the
// user, and the value for Enrolment.Token, with the same key. It returns [Denied] if the user or the service
// refuses, or [Busy].
func Login(ctx context.Context, t LoginTransport, k *DeviceKey, show func(*wire.FlowAnswer)) (UserID, string, error) {
	flow, err := t.BeginFlow(ctx, &wire.FlowRequest{Key: k.public})
	if err != nil {
		return "", "", err
	}
	show(flow)
	wait := flow.Interval
	for {
		timer := time.NewTimer(time.Duration(min(max(wait, minPoll), maxPoll)) * time.Millisecond)
		select {
		case <-ctx.Done():
			timer.Stop()
			return "", "", ctx.Err()
		case <-timer.C:
		}
		state, err := t.PollFlow(ctx, &wire.FlowPoll{Flow: flow.Flow})
		var refused *Error
		switch {
		case err == nil && state.User != "":
			return state.User, wire.FlowToken(flow.Flow), nil
		case err == nil:
			wait = state.Interval
		case errors.As(err, &refused) && refused.Code != wire.Busy && refused.Code != wire.Unavailable:
			return "", "", err
		default: // the node was not reached, or is busy: RFC 8628 §3.5
			wait = min(2*max(wait, minPoll), maxPoll)
		}
	}
}

// Bounds of the pause between two polls, in milliseconds.
const (
	minPoll = uint64(100)
	maxPoll = uint64(time.Minute / time.Millisecond)
)
