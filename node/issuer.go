package node

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/directory"
	"github.com/mlsfed/mlsfed/gateway"
	"github.com/mlsfed/mlsfed/wire"
)

// issuerOf returns the issuer of a configuration.
func issuerOf(c *config.OIDC) (directory.Issuer, error) {
	i := directory.Issuer{
		URL: c.URL, Audience: c.Audience, Claim: c.Claim, AnyKey: !c.BindKey, Groups: c.Groups, GroupClaim: c.GroupClaim, Scopes: c.Scopes,
		Client: &http.Client{Timeout: issuerTime},
	}
	if c.DeviceFlow {
		i.Flows = c.Flows
	}
	var err error
	i.Secret, err = readSecret("oidc.secret_file", c.SecretFile)
	return i, err
}

// issuerTime bounds a question to the issuer.
const issuerTime = 30 * time.Second

// The pauses between two attempts to reach the issuer.
const (
	issuerRetryFirst = time.Second
	issuerRetryLast  = time.Minute
)

// issuerState holds what a node knows about its OpenID Connect issuer.
type issuerState struct {
	configured bool
	tokens     atomic.Pointer[directory.Tokens] // nil while the issuer has not been reached
}

// get returns the verifier of the issuer's tokens. The error is wire.NotFound without an issuer, and wire.Unavailable
// while the issuer has not been reached.
func (s *issuerState) get(op string) (*directory.Tokens, error) {
	if tokens := s.tokens.Load(); tokens != nil {
		return tokens, nil
	}
	if s.configured {
		return nil, wire.Errorf(wire.Unavailable, op, "the organization's login service cannot be reached: come back later, or ask for an invitation")
	}
	return nil, wire.Errorf(wire.NotFound, op, "this organization has no login service here: ask its operator for an invitation")
}

// issuerStart bounds how long the start waits for the issuer.
const issuerStart = 5 * time.Second

// askIssuer asks the OpenID Connect issuer for its configuration, once.
func (n *Node) askIssuer(ctx context.Context, most time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	tokens, err := directory.NewTokens(ctx, n.issuer, n.now)
	if err == nil {
		n.devices.issuer.tokens.Store(tokens)
	}
	return err
}

// useIssuer asks the issuer until it answers, if the start got no answer. Meanwhile the node serves everything else:
// a login service that is down must not stop conversations.
func (n *Node) useIssuer(ctx context.Context) error {
	for wait := issuerRetryFirst; n.devices.issuer.configured && n.devices.issuer.tokens.Load() == nil; wait = min(2*wait, issuerRetryLast) {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		if err := n.askIssuer(ctx, issuerTime); err != nil && ctx.Err() == nil {
			n.log.Warn("the login service does not answer: nobody can enrol by it", "issuer", n.cfg.OIDC.URL, "error", err)
		}
	}
	<-ctx.Done()
	return nil
}

var _ gateway.Issuer = (*devices)(nil)

// Issuer implements gateway.Issuer.
func (v *devices) Issuer() (*wire.Issuer, error) {
	tokens, err := v.issuer.get("issuer")
	if err != nil {
		return nil, err
	}
	return tokens.Issuer(), nil
}

// BeginFlow implements gateway.Issuer.
func (v *devices) BeginFlow(ctx context.Context, q *wire.FlowRequest) (*wire.FlowAnswer, error) {
	tokens, err := v.issuer.get("flow")
	if err != nil {
		return nil, err
	}
	return tokens.BeginFlow(ctx, q.Key)
}

// PollFlow implements gateway.Issuer.
func (v *devices) PollFlow(ctx context.Context, q *wire.FlowPoll) (*wire.FlowState, error) {
	tokens, err := v.issuer.get("flow")
	if err != nil {
		return nil, err
	}
	name, wait, err := tokens.PollFlow(ctx, q.Flow)
	if err != nil || name == "" {
		return &wire.FlowState{Interval: uint64(wait.Milliseconds())}, err
	}
	u, err := wire.NewUserID(v.domain, name)
	if err != nil {
		return nil, wire.Errorf(wire.Denied, "flow", "the issuer names you %.100q, which cannot be the name of a user here: ask your operator", name)
	}
	return &wire.FlowState{User: u}, nil
}
