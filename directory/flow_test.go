package directory

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// scriptedIssuer answers the device authorization grant as a test says: what a good provider does is tested with a real
// one (test.TestLoginByCode).
type scriptedIssuer struct {
	*httptest.Server
	signer *issuer

	mu     sync.Mutex // guards what follows
	begin  string     // the answer of the device authorization endpoint
	answer func(w http.ResponseWriter)
	asked  int // questions for a token
}

func newScriptedIssuer(t *testing.T) *scriptedIssuer {
	t.Helper()
	s := &scriptedIssuer{signer: newIssuer(t), begin: `{"device_code":"secret","user_code":"AB-CD","verification_uri":"https://login.a.example/device","expires_in":600,"interval":5}`}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			_ = json.NewEncoder(w).Encode(map[string]any{
				"issuer": s.URL, "jwks_uri": s.URL + "/keys", "authorization_endpoint": s.URL + "/auth", "token_endpoint": s.URL + "/token",
				"device_authorization_endpoint": s.URL + "/device", "id_token_signing_alg_values_supported": []string{"EdDSA"},
			})
		case "/keys":
			resp, err := s.signer.Client().Get(s.signer.URL + "/keys")
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			_, _ = fmt.Fprint(w, readAll(t, resp))
		case "/device":
			if r.FormValue("client_id") != "mlsfed" || !strings.Contains(r.FormValue("scope"), "openid") || r.FormValue("client_secret") != "of the client" {
				t.Errorf("the form %v", r.Form)
			}
			_, _ = fmt.Fprint(w, s.begin)
		case "/token":
			s.asked++
			if r.FormValue("device_code") != "secret" || r.FormValue("grant_type") != "urn:ietf:params:oauth:grant-type:device_code" {
				t.Errorf("the form %v", r.Form)
			}
			s.answer(w)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func readAll(t *testing.T, r *http.Response) string {
	t.Helper()
	var v json.RawMessage
	if err := json.NewDecoder(r.Body).Decode(&v); err != nil {
		t.Error(err)
	}
	return string(v)
}

func (s *scriptedIssuer) says(status int, body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = func(w http.ResponseWriter) { w.WriteHeader(status); _, _ = fmt.Fprint(w, body) }
}

func (s *scriptedIssuer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func TestFlowKeepsToItsPace(t *testing.T) {
	s := newScriptedIssuer(t)
	defer s.Client().CloseIdleConnections()
	defer s.signer.Client().CloseIdleConnections()
	clock := newClock()
	tokens, err := NewTokens(t.Context(), Issuer{
		URL: s.URL, Audience: "mlsfed", Client: s.Client(), Flows: 2, Secret: "of the client", Groups: []string{"chat"}, GroupClaim: "realm_access.roles",
	}, clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	e := newDevice(t, phone, 1)
	a, err := tokens.BeginFlow(t.Context(), e.pub)
	if err != nil || a.Code != "AB-CD" || a.Interval != 5000 || a.Ends != wire.TimeOf(clock.Now().Add(10*time.Minute)) {
		t.Fatalf("%+v, %v", a, err)
	}
	poll := func(want int, wait time.Duration) {
		t.Helper()
		name, w, err := tokens.PollFlow(t.Context(), a.Flow)
		if name != "" || err != nil || w != wait || s.count() != want {
			t.Errorf("%q, wait %v, %v, asked %d times; wanted %d times and %v", name, w, err, s.count(), want, wait)
		}
	}
	s.says(http.StatusBadRequest, `{"error":"authorization_pending"}`)
	poll(0, 5*time.Second) // too early: the issuer is not asked
	clock.advance(5 * time.Second)
	poll(1, 5*time.Second)
	poll(1, 5*time.Second)
	s.says(http.StatusBadRequest, `{"error":"slow_down"}`)
	clock.advance(5 * time.Second)
	poll(2, 10*time.Second)
	s.says(http.StatusInternalServerError, "down")
	clock.advance(10 * time.Second)
	poll(3, 15*time.Second)
	clock.advance(10 * time.Second)
	poll(3, 15*time.Second)
	if _, err := tokens.verify(t.Context(), wire.FlowToken(a.Flow), e.pub); wire.CodeOf(err) != wire.Denied {
		t.Errorf("a flow that is not done enrols: %v", err)
	}
	id := s.signer.token(t, s.signer.key, map[string]any{
		"iss": s.URL, "aud": "mlsfed", "sub": "1234", "preferred_username": "alice", "realm_access": map[string]any{"roles": []string{"staff", "chat"}},
		"iat": clock.Now().Unix(), "exp": clock.Now().Add(time.Hour).Unix(),
	})
	s.says(http.StatusOK, `{"id_token":"`+id+`","access_token":"x"}`)
	clock.advance(5 * time.Second)
	for range 2 {
		if name, _, err := tokens.PollFlow(t.Context(), a.Flow); name != "alice" || err != nil || s.count() != 4 {
			t.Fatalf("%q, %v, asked %d times", name, err, s.count())
		}
	}
	if got, err := tokens.verify(t.Context(), wire.FlowToken(a.Flow), e.pub); err != nil || got.name != "alice" || got.subject != "1234" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := tokens.verify(t.Context(), wire.FlowToken(a.Flow), newDevice(t, phone, 1).pub); wire.CodeOf(err) != wire.Denied {
		t.Errorf("another key: %v", err)
	}

	// The number of flows is bounded, and those that have ended make room.
	if _, err := tokens.BeginFlow(t.Context(), e.pub); err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.BeginFlow(t.Context(), e.pub); wire.CodeOf(err) != wire.Busy {
		t.Errorf("a flow over the bound: %v", err)
	}
	clock.advance(11 * time.Minute)
	if _, err := tokens.verify(t.Context(), wire.FlowToken(a.Flow), e.pub); wire.CodeOf(err) != wire.Denied {
		t.Errorf("a flow that has ended enrols: %v", err)
	}
	if _, err := tokens.BeginFlow(t.Context(), e.pub); err != nil {
		t.Errorf("after the others have ended: %v", err)
	}
}

// TestFlowRefusals: answers of an issuer that end a flow, and those with which none begins.
func TestFlowRefusals(t *testing.T) {
	s := newScriptedIssuer(t)
	defer s.Client().CloseIdleConnections()
	defer s.signer.Client().CloseIdleConnections()
	clock := newClock()
	open := func(groups ...string) *Tokens {
		t.Helper()
		tokens, err := NewTokens(t.Context(), Issuer{URL: s.URL, Audience: "mlsfed", Client: s.Client(), Flows: 100, Secret: "of the client", Groups: groups}, clock.Now)
		if err != nil {
			t.Fatal(err)
		}
		return tokens
	}
	token := func(change map[string]any) string {
		claims := map[string]any{
			"iss": s.URL, "aud": "mlsfed", "sub": "1234", "preferred_username": "alice", "groups": "chat",
			"iat": clock.Now().Unix(), "exp": clock.Now().Add(time.Hour).Unix(),
		}
		for k, v := range change {
			claims[k] = v
		}
		return `{"id_token":"` + s.signer.token(t, s.signer.key, claims) + `"}`
	}
	for name, c := range map[string]struct {
		status int
		body   string
		denied bool
	}{
		"agreed":                   {200, token(nil), false},
		"refused":                  {400, `{"error":"access_denied"}`, true},
		"too late":                 {400, `{"error":"expired_token"}`, true},
		"another error":            {400, `{"error":"invalid_client"}`, true},
		"no ID token":              {200, `{"access_token":"x"}`, true},
		"for somebody else":        {200, token(map[string]any{"aud": "shop"}), true},
		"of another group":         {200, token(map[string]any{"groups": []string{"staff"}}), true},
		"of no group":              {200, token(map[string]any{"groups": nil}), true},
		"groups of the wrong kind": {200, token(map[string]any{"groups": 7}), true},
		"without a name":           {200, token(map[string]any{"preferred_username": ""}), true},
	} {
		tokens := open("chat")
		a, err := tokens.BeginFlow(t.Context(), []byte("key"))
		if err != nil {
			t.Fatal(err)
		}
		s.says(c.status, c.body)
		clock.advance(5 * time.Second)
		user, _, err := tokens.PollFlow(t.Context(), a.Flow)
		if denied := wire.CodeOf(err) == wire.Denied; denied != c.denied || (user == "alice") == c.denied {
			t.Errorf("%s: %q, %v", name, user, err)
		}
	}
	for name, begin := range map[string]string{
		"no code":          `{"user_code":"AB-CD","verification_uri":"https://x","expires_in":600}`,
		"no user code":     `{"device_code":"secret","verification_uri":"https://x","expires_in":600}`,
		"no life":          `{"device_code":"secret","user_code":"AB-CD","verification_uri":"https://x"}`,
		"a code too long":  `{"device_code":"secret","user_code":"` + strings.Repeat("A", 513) + `","verification_uri":"https://x","expires_in":600}`,
		"no JSON":          `<html>`,
		"more than it may": `{"device_code":"` + strings.Repeat("A", maxFlowReply) + `"}`,
	} {
		s.begin = begin
		tokens := open()
		if a, err := tokens.BeginFlow(t.Context(), []byte("key")); wire.CodeOf(err) != wire.Unavailable || len(tokens.flows) != 0 {
			t.Errorf("%s: %+v, %v, %d flows", name, a, err, len(tokens.flows))
		}
	}
	s.begin = `{"device_code":"secret","user_code":"AB-CD","verification_uri":"https://x","expires_in":999999999999,"interval":999999999999}`
	if a, err := open().BeginFlow(t.Context(), []byte("key")); err != nil || a.Interval != uint64(maxInterval.Milliseconds()) || a.Ends != wire.TimeOf(clock.Now().Add(maxFlowLife)) {
		t.Errorf("numbers without measure: %+v, %v", a, err)
	}
	none, err := NewTokens(t.Context(), Issuer{URL: s.URL, Audience: "mlsfed", Client: s.Client()}, clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := none.BeginFlow(t.Context(), []byte("key")); wire.CodeOf(err) != wire.Denied {
		t.Errorf("an organization that runs no flows: %v", err)
	}
	if _, err := NewTokens(t.Context(), Issuer{URL: s.signer.URL, Audience: "mlsfed", Client: s.signer.Client(), Flows: 1}, clock.Now); err == nil {
		t.Error("an issuer without the endpoint is taken for flows")
	}
}

// TestForgottenFlowsGiveWay checks that flows which nobody polls do not keep others from logging in, and that a flow
// whose device polls stays.
func TestForgottenFlowsGiveWay(t *testing.T) {
	clock := newClock()
	s := newScriptedIssuer(t)
	tokens, err := NewTokens(t.Context(), Issuer{URL: s.URL, Audience: "mlsfed", Client: s.Client(), Flows: 3, Secret: "of the client"}, clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	e := newDevice(t, phone, 1)
	var flows []wire.Token
	begin := func(want wire.Code) {
		t.Helper()
		a, err := tokens.BeginFlow(t.Context(), e.pub)
		if wire.CodeOf(err) != want {
			t.Fatalf("%v, wanted %q", err, want)
		}
		if err == nil {
			flows = append(flows, a.Flow)
		}
	}
	s.says(http.StatusBadRequest, `{"error":"authorization_pending"}`)
	for range 3 {
		begin("")
	}
	poll := func(id wire.Token) error {
		_, _, err := tokens.PollFlow(t.Context(), id)
		return err
	}
	clock.advance(flowIdleTime)
	if err := poll(flows[0]); err != nil {
		t.Fatal(err)
	}
	begin(wire.Busy)
	clock.advance(time.Second)
	begin("")
	begin("")
	begin(wire.Busy)
	if err := poll(flows[0]); err != nil {
		t.Errorf("a flow whose device polls: %v", err)
	}
	if err := poll(flows[1]); wire.CodeOf(err) != wire.Denied {
		t.Errorf("a flow that nobody polled: %v", err)
	}
}
