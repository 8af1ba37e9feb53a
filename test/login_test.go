package test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/internal/audit"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/node"
	"github.com/mlsfed/mlsfed/test/issuer"
	"github.com/mlsfed/mlsfed/wire"
)

const providerToken = "0123456789abcdef0123456789abcdef"

// loginWorld returns an organization with a login service and an identity provider.
func loginWorld(t *testing.T) (*cluster.Cluster, *issuer.Issuer, client.LoginTransport) {
	t.Helper()
	login, err := issuer.New(map[string][]string{"alice": {"staff", "chat"}, "bob": {"staff"}, "Carol": {"chat"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(login.Close)
	file := filepath.Join(t.TempDir(), "scim-token")
	if err := os.WriteFile(file, []byte(providerToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := newClusterIn(t, t.TempDir(), cluster.Options{Edit: func(cfg *config.Config) {
		cfg.OIDC.URL, cfg.OIDC.Audience, cfg.OIDC.Groups, cfg.OIDC.DeviceFlow = login.URL, issuer.Client, []string{"chat"}, true
		cfg.SCIM.TokenFile = file
	}}, "a.example")
	return c, login, client.WebSocket(c.Server("a.example", ""), nil).(client.LoginTransport)
}

// byCode logs in by the device authorization grant; decide gets the code that the user sees.
func byCode(ctx context.Context, t *testing.T, transport client.LoginTransport, decide func(code string) error) (wire.UserID, client.Enrolment, error) {
	t.Helper()
	key, err := client.NewDeviceKey(0)
	if err != nil {
		t.Fatal(err)
	}
	user, token, err := client.Login(ctx, transport, key, func(a *wire.FlowAnswer) {
		if a.URL == "" || !strings.Contains(a.Complete, a.Code) || a.Ends.Std().Before(time.Now()) {
			t.Errorf("shown %+v", a)
		}
		if err := decide(a.Code); err != nil {
			t.Error(err)
		}
	})
	return user, client.Enrolment{Token: token, Key: key}, err
}

// TestLoginByCode checks that a device without a browser enrols by a code that its user enters on another device. The
// node keeps the token for the key that began the login, and only users in a group may enrol.
func TestLoginByCode(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, login, transport := loginWorld(t)
	shown, err := transport.Issuer(ctx)
	if err != nil || shown.URL != login.URL || shown.Client != issuer.Client || !shown.Flows || shown.Claim != "preferred_username" {
		t.Fatalf("shown %+v, %v", shown, err)
	}
	user, e, err := byCode(ctx, t, transport, func(code string) error { return login.Approve(code, "alice") })
	if err != nil || user != "mimi://a.example/u/alice" {
		t.Fatalf("user %s, %v", user, err)
	}
	server := c.Server("a.example", user.Name())
	other, err := client.NewDeviceKey(0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.EnrolAs(ctx, server, "thief", client.Enrolment{Token: e.Token, Key: other}); wire.CodeOf(err) != wire.Denied {
		t.Errorf("another key enrols with the login: %v", err)
	}
	if _, err := c.EnrolAs(ctx, c.Server("a.example", "bob"), "phone", e); wire.CodeOf(err) != wire.Denied {
		t.Errorf("the login enrols another user: %v", err)
	}
	phone, err := c.EnrolAs(ctx, server, "phone", e)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := phone.ID(ctx); err != nil || id != "mimi://a.example/d/alice/phone" {
		t.Errorf("enrolled %s, %v", id, err)
	}
	if _, err := c.EnrolAs(ctx, server, "laptop", e); wire.CodeOf(err) != wire.Denied {
		t.Errorf("one login enrols two devices: %v", err)
	}
	var all sync.WaitGroup
	for what, decide := range map[string]func(string) error{
		"a user who refuses":                 login.Deny,
		"a user in none of the groups":       func(code string) error { return login.Approve(code, "bob") },
		"a user whose name cannot be one":    func(code string) error { return login.Approve(code, "Carol") },
		"a user whom the provider lacks now": func(code string) error { return login.Approve(code, "dave") },
	} {
		all.Go(func() {
			if user, _, err := byCode(ctx, t, transport, decide); wire.CodeOf(err) != wire.Denied {
				t.Errorf("%s: %s, %v", what, user, err)
			}
		})
	}
	all.Wait()
	if _, err := transport.PollFlow(ctx, &wire.FlowPoll{Flow: wire.Token{1}}); wire.CodeOf(err) != wire.Denied {
		t.Errorf("a flow of nobody: %v", err)
	}
}

// scimDo sends a request of an identity provider.
func scimDo(ctx context.Context, t *testing.T, c *cluster.Cluster, token, method, path, body string) (int, map[string]any) {
	t.Helper()
	q, err := http.NewRequestWithContext(ctx, method, "https://"+c.Config("a.example").Gateway.Listen+"/scim/v2"+path, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Authorization", "Bearer "+token)
	q.Header.Set("Content-Type", "application/scim+json")
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	r, err := web.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	answer := make(map[string]any)
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &answer); err != nil {
			t.Fatalf("%s %s: %d, %q: %v", method, path, r.StatusCode, raw, err)
		}
	}
	return r.StatusCode, answer
}

// TestProviderEndsUsers checks that the end of an account at the identity provider ends the user's sessions and
// devices, and keeps new devices out, even with an invitation, until the account is active again.
func TestProviderEndsUsers(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, _, _ := loginWorld(t)
	do := func(method, path, body string) (int, map[string]any) {
		t.Helper()
		return scimDo(ctx, t, c, providerToken, method, path, body)
	}
	want := func(status int) func(int, map[string]any) map[string]any {
		return func(got int, answer map[string]any) map[string]any {
			t.Helper()
			if got != status {
				t.Errorf("status %d, wanted %d: %v", got, status, answer)
			}
			return answer
		}
	}
	if status, _ := scimDo(ctx, t, c, providerToken[1:]+"x", "GET", "/Users", ""); status != http.StatusUnauthorized {
		t.Errorf("another token: %d", status)
	}
	if _, err := c.Device(ctx, "a.example", "alice", "phone"); err != nil {
		t.Fatal(err)
	}
	link, err := c.Invite(ctx, "a.example", "alice")
	if err != nil {
		t.Fatal(err)
	}
	sessions := func(want int) {
		t.Helper()
		for {
			s, err := c.Status(ctx, "a.example")
			if err != nil {
				t.Fatal(err)
			}
			if s.Sessions == want {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	sessions(1)
	if found := want(200)(do("GET", `/Users?filter=userName+eq+%22alice%40a.example%22`, "")); found["totalResults"] != 1.0 {
		t.Errorf("found %v", found)
	}
	made := want(201)(do("POST", "/Users", `{"schemas":["urn:ietf:params:scim:schemas:core:2.0:User"],"userName":"alice@a.example","externalId":"42","active":true,"name":{"givenName":"Alice"}}`))
	if made["id"] != "alice" || made["externalId"] != "42" || made["active"] != true {
		t.Errorf("made %v", made)
	}
	want(409)(do("POST", "/Users", `{"userName":"alice"}`))
	ended := want(200)(do("PATCH", "/Users/alice", `{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[{"op":"Replace","path":"active","value":"False"}]}`))
	if ended["active"] != false {
		t.Errorf("ended %v", ended)
	}
	sessions(0)
	if _, err := c.Enrol(ctx, link, "laptop"); wire.CodeOf(err) != wire.Denied {
		t.Errorf("an invitation of before enrols a device: %v", err)
	}
	if _, err := c.Invite(ctx, "a.example", "alice"); wire.CodeOf(err) != wire.Denied {
		t.Errorf("the operator invites a user whose account has ended: %v", err)
	}
	want(200)(do("PUT", "/Users/alice", `{"userName":"alice","externalId":"42","active":true}`))
	if link, err = c.Invite(ctx, "a.example", "alice"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Enrol(ctx, link, "tablet"); err != nil {
		t.Errorf("after the account is active again: %v", err)
	}
	want(204)(do("DELETE", "/Users/alice", ""))
	want(404)(do("GET", "/Users/alice", ""))
	for what, c := range map[string]struct {
		method, path, body string
		status             int
	}{
		"a name that cannot be one":  {"POST", "/Users", `{"userName":"Alice Liddell"}`, 400},
		"a user of another domain":   {"POST", "/Users", `{"userName":"alice@b.example"}`, 400},
		"no JSON":                    {"POST", "/Users", `{`, 400},
		"a filter that is not known": {"GET", `/Users?filter=name.givenName+sw+%22A%22`, "", 400},
		"a group":                    {"GET", "/Groups", "", 404},
		"nobody":                     {"PATCH", "/Users/nobody", `{"Operations":[]}`, 404},
		"what it can do":             {"GET", "/ServiceProviderConfig", "", 200},
	} {
		if status, answer := do(c.method, c.path, c.body); status != c.status {
			t.Errorf("%s: %d, wanted %d: %v", what, status, c.status, answer)
		}
	}
	var acts []string
	if _, err := audit.Verify(node.AuditFolder(c.Config("a.example")), func(r *audit.Record) error {
		if r.Who == "scim:" {
			acts = append(acts, string(r.What)+" "+r.With["devices"])
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(acts, ", "); got != "user.ended 1, user.resumed , user.ended 1" {
		t.Errorf("the audit log has %s", got)
	}
}
