// Package issuer is an OpenID Connect provider for tests: the provider of github.com/zitadel/oidc with its example
// storage, over HTTP on loopback.
package issuer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
	"golang.org/x/text/language"
)

// Client is the id of the public client that the provider knows.
const Client = "mlsfed"

const password = "open sesame"

// Issuer is a running provider.
type Issuer struct {
	URL     string
	server  *httptest.Server
	storage *provided
}

// New starts a provider with users, and the groups that each is in.
func New(groups map[string][]string) (*Issuer, error) {
	mux := http.NewServeMux()
	i := &Issuer{server: httptest.NewServer(mux)}
	i.URL = i.server.URL
	users := people{}
	for name := range groups {
		users[Subject(name)] = &storage.User{ID: Subject(name), Username: name, Password: password, FirstName: name, PreferredLanguage: language.English}
	}
	known := map[string]*storage.Client{Client: storage.NativeClient(Client, "http://127.0.0.1/callback")}
	i.storage = &provided{storage.NewStorageWithClients(users, known), groups}
	provider, err := op.NewProvider(&op.Config{
		CryptoKey: sha256.Sum256([]byte("of a test")), CodeMethodS256: true, AuthMethodPost: true, SupportedUILocales: []language.Tag{language.English},
		DeviceAuthorization: op.DeviceAuthorizationConfig{Lifetime: 5 * time.Minute, PollInterval: time.Second, UserFormPath: "/device", UserCode: op.UserCodeBase20},
	}, i.storage, op.StaticIssuer(i.URL), op.WithAllowInsecure())
	if err != nil {
		i.Close()
		return nil, err
	}
	back := op.AuthCallbackURL(provider)
	mux.Handle("POST /login/username", op.NewIssuerInterceptor(provider.IssuerFromRequest).HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.FormValue("id")
		if err := i.storage.CheckUsernamePassword(r.FormValue("username"), r.FormValue("password"), id); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		http.Redirect(w, r, back(r.Context(), id), http.StatusFound)
	}))
	mux.HandleFunc("GET /login/username", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "a form") })
	mux.Handle("/", provider)
	return i, nil
}

// Close stops the provider.
func (i *Issuer) Close() { i.server.Close() }

// Subject returns the subject of a user.
func Subject(name string) string { return "subject-of-" + name }

// Browse does what a user's browser does: it opens the address of an authorization request, logs the user in, and
// follows the redirections to the end. It returns the last page.
func Browse(ctx context.Context, address, user string) (string, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return "", err
	}
	browser := &http.Client{Jar: jar, Transport: &http.Transport{DisableKeepAlives: true}}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	r, err := browser.Do(q)
	if err != nil {
		return "", err
	}
	page, err := io.ReadAll(r.Body)
	if err = errors.Join(err, r.Body.Close()); err != nil {
		return "", err
	}
	id := r.Request.URL.Query().Get("authRequestID")
	if id == "" {
		return string(page), fmt.Errorf("the provider asks for no login: %s at %s", r.Status, r.Request.URL)
	}
	form := url.Values{"id": {id}, "username": {user}, "password": {password}}
	login := *r.Request.URL
	login.RawQuery = ""
	q, err = http.NewRequestWithContext(ctx, http.MethodPost, login.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if r, err = browser.Do(q); err != nil {
		return "", err
	}
	page, err = io.ReadAll(r.Body)
	if err = errors.Join(err, r.Body.Close()); err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", r.Status, page)
	}
	return string(page), err
}

// Approve acts as a user who enters the code of a device.
func (i *Issuer) Approve(code, user string) error {
	return i.storage.CompleteDeviceAuthorization(context.Background(), code, Subject(user))
}

// Deny acts as a user who refuses.
func (i *Issuer) Deny(code string) error {
	return i.storage.DenyDeviceAuthorization(context.Background(), code)
}

// people holds the provider's users, by subject.
type people map[string]*storage.User

// GetUserByID implements storage.UserStore.
func (p people) GetUserByID(id string) *storage.User { return p[id] }

// GetUserByUsername implements storage.UserStore.
func (p people) GetUserByUsername(name string) *storage.User { return p[Subject(name)] }

// ExampleClientID implements storage.UserStore.
func (p people) ExampleClientID() string { return "none" }

// provided is the example storage, with groups in ID tokens and a public client that may use both grants.
type provided struct {
	*storage.Storage
	groups map[string][]string
}

// SetUserinfoFromRequest implements op.CanSetUserinfoFromRequest.
func (s *provided) SetUserinfoFromRequest(ctx context.Context, info *oidc.UserInfo, token op.IDTokenRequest, scopes []string) error {
	if err := s.Storage.SetUserinfoFromRequest(ctx, info, token, scopes); err != nil {
		return err
	}
	info.AppendClaims("groups", s.groups[info.PreferredUsername])
	return nil
}

// GetClientByClientID implements op.Storage.
func (s *provided) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	c, err := s.Storage.GetClientByClientID(ctx, id)
	if err != nil {
		return nil, err
	}
	return publicClient{c}, nil
}

// publicClient is a client whose ID tokens have the claims of the profile.
type publicClient struct{ op.Client }

// GrantTypes implements op.Client.
func (c publicClient) GrantTypes() []oidc.GrantType {
	return append(slices.Clone(c.Client.GrantTypes()), oidc.GrantTypeDeviceCode)
}

// IDTokenUserinfoClaimsAssertion implements op.Client.
func (c publicClient) IDTokenUserinfoClaimsAssertion() bool { return true }
