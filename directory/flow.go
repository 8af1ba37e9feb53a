package directory

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// flow is one run of the device authorization grant (RFC 8628). The grant has no nonce, so that a token from it is bound
// to no key: the directory runs it itself, for the key of the request that began it, and gives the token to nobody.
type flow struct {
	key      wire.Hash // SHA-256 of the device's key
	code     string    // the issuer's device code: a secret between it and this node
	interval time.Duration
	next     time.Time // no question to the issuer before
	ends     time.Time
	polled   time.Time // when its device last asked about it, or began it
	asking   bool      // a question is under way
	token    *idToken  // once the user has agreed
	failed   error     // for good
}

// Bounds of what an issuer says of a flow.
const (
	minInterval  = time.Second
	maxInterval  = time.Minute
	maxFlowLife  = 30 * time.Minute
	maxFlowReply = 64 << 10 // bytes
	// flowIdleTime is the time without a poll after which a flow gives way to new ones: a client with changed code could
	// otherwise begin as many as there is room for, and leave them.
	flowIdleTime = 2 * maxInterval
)

// BeginFlow has the issuer begin the device authorization grant for a key. wire.Busy if too many are under way.
func (t *Tokens) BeginFlow(ctx context.Context, key []byte) (*wire.FlowAnswer, error) {
	if t.issuer.Flows == 0 {
		return nil, wire.Errorf(wire.Denied, "flow", "this organization does not run the device authorization grant: log in with a browser on this machine, or ask for an invitation")
	}
	id, f, err := t.place(key)
	if err != nil {
		return nil, err
	}
	var reply struct {
		DeviceCode string `json:"device_code"`
		UserCode   string `json:"user_code"`
		URL        string `json:"verification_uri"`
		Complete   string `json:"verification_uri_complete"`
		Expires    int64  `json:"expires_in"`
		Interval   int64  `json:"interval"`
	}
	failure, err := t.post(ctx, t.endpoint.DeviceAuthURL, url.Values{"scope": {strings.Join(t.issuer.Scopes, " ")}}, &reply)
	if err == nil && failure != "" {
		err = fmt.Errorf("the answer is %.80q", failure)
	}
	if err == nil && (reply.DeviceCode == "" || reply.Expires <= 0) {
		err = errors.New("its answer is not that of RFC 8628")
	}
	answer := &wire.FlowAnswer{Flow: id, Code: reply.UserCode, URL: reply.URL, Complete: reply.Complete}
	if err == nil {
		err = answer.Check()
	}
	if err != nil {
		t.forget(id)
		return nil, wire.Errorf(wire.Unavailable, "flow", "the issuer %s begins no flow: %v", t.issuer.URL, err)
	}
	if reply.Interval <= 0 {
		reply.Interval = 5 // RFC 8628 §3.2
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f.code = reply.DeviceCode
	f.interval = min(max(time.Duration(min(reply.Interval, 1e6))*time.Second, minInterval), maxInterval)
	f.ends = t.now().Add(min(time.Duration(min(reply.Expires, 1e6))*time.Second, maxFlowLife))
	f.next = t.now().Add(f.interval)
	answer.Interval, answer.Ends = uint64(f.interval.Milliseconds()), wire.TimeOf(f.ends)
	return answer, nil
}

// place makes room for a flow.
func (t *Tokens) place(key []byte) (id wire.Token, f *flow, err error) {
	_, _ = rand.Read(id[:]) // never fails
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	for other, f := range t.flows {
		if now.After(f.ends) {
			delete(t.flows, other)
		}
	}
	if len(t.flows) >= t.issuer.Flows {
		for other, f := range t.flows {
			if now.Sub(f.polled) > flowIdleTime {
				delete(t.flows, other)
			}
		}
	}
	if len(t.flows) >= t.issuer.Flows {
		return id, nil, wire.Errorf(wire.Busy, "flow", "%d logins are under way: come back later", len(t.flows))
	}
	f = &flow{key: sha256.Sum256(key), ends: now.Add(maxFlowLife), polled: now}
	t.flows[id] = f
	return id, f, nil
}

func (t *Tokens) forget(id wire.Token) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.flows, id)
}

// PollFlow asks the issuer what has become of a flow, if it is time to. It returns the name of the user who has agreed, ""
// as long as nobody has, and for how long to wait before the next poll. wire.Denied if nobody will.
func (t *Tokens) PollFlow(ctx context.Context, id wire.Token) (name string, wait time.Duration, err error) {
	f, code, err := t.due(id)
	if err != nil {
		return "", 0, err
	}
	if code != "" {
		t.settle(f, t.askIssuer(ctx, f, code))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.token != nil {
		return f.token.name, 0, nil
	}
	return "", f.interval, f.failed
}

// due finds a flow, and says with which code the issuer is to be asked, if it is.
func (t *Tokens) due(id wire.Token) (f *flow, code string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f = t.flows[id]
	if f == nil || t.now().After(f.ends) {
		return nil, "", wire.Errorf(wire.Denied, "flow", "this login is not known, or has taken too long: begin again")
	}
	f.polled = t.now()
	if f.token != nil || f.failed != nil || f.asking || f.code == "" || t.now().Before(f.next) {
		return f, "", nil
	}
	f.asking = true
	return f, f.code, nil
}

// outcome is what the issuer has said of a flow.
type outcome struct {
	token  *idToken
	slower bool
	failed error // for good; nil with a nil token: not yet
}

func (t *Tokens) settle(f *flow, o outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f.asking = false
	f.token, f.failed = o.token, o.failed
	if o.slower {
		f.interval = min(f.interval+5*time.Second, maxInterval) // RFC 8628 §3.5
	}
	f.next = t.now().Add(f.interval)
}

// askIssuer asks once for the token of a flow.
func (t *Tokens) askIssuer(ctx context.Context, f *flow, code string) outcome {
	var reply struct {
		IDToken string `json:"id_token"`
	}
	form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {code}}
	failure, err := t.post(ctx, t.endpoint.TokenURL, form, &reply)
	switch {
	case err != nil: // RFC 8628 §3.5: what is no answer is no refusal
		return outcome{slower: true}
	case failure == "authorization_pending":
		return outcome{}
	case failure == "slow_down":
		return outcome{slower: true}
	case failure == "access_denied", failure == "expired_token":
		return outcome{failed: wire.Errorf(wire.Denied, "flow", "the login was refused, or took too long: begin again")}
	case failure != "":
		return outcome{failed: wire.Errorf(wire.Denied, "flow", "the issuer refuses the login: %.80q", failure)}
	case reply.IDToken == "":
		return outcome{failed: wire.Errorf(wire.Denied, "flow", "the issuer has given no ID token: the scope openid is needed")}
	}
	token, _, err := t.read(ctx, reply.IDToken)
	if err != nil {
		return outcome{failed: err}
	}
	return outcome{token: token}
}

// post sends a form to the issuer as its client, and reads the answer, or the code of an error (RFC 6749 §5.2).
func (t *Tokens) post(ctx context.Context, to string, form url.Values, answer any) (failure string, err error) {
	form.Set("client_id", t.issuer.Audience)
	if t.issuer.Secret != "" {
		form.Set("client_secret", t.issuer.Secret)
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	q.Header.Set("Accept", "application/json")
	client := t.issuer.Client
	if client == nil {
		client = http.DefaultClient
	}
	r, err := client.Do(q)
	if err != nil {
		return "", errors.New("the provider cannot be reached") // the error could hold the form
	}
	defer r.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(r.Body, maxFlowReply))
	if err != nil {
		return "", errors.New("its answer broke off")
	}
	if r.StatusCode == http.StatusOK {
		if json.Unmarshal(raw, answer) != nil {
			return "", errors.New("its answer is no JSON")
		}
		return "", nil
	}
	var refused struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(raw, &refused) != nil || refused.Error == "" {
		return "", fmt.Errorf("the provider answers %s", r.Status)
	}
	return wire.Line(refused.Error), nil
}

// ofFlow is the token of a flow that was begun for a key.
func (t *Tokens) ofFlow(id wire.Token, key []byte) (*idToken, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.flows[id]
	sum := sha256.Sum256(key)
	if f == nil || f.token == nil || t.now().After(f.ends) || subtle.ConstantTimeCompare(f.key[:], sum[:]) != 1 {
		return nil, wire.Errorf(wire.Denied, "enrol", "this login is not done, has taken too long, or was begun for another key: begin again")
	}
	return f.token, nil
}
