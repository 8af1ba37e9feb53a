package people

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/spf13/cobra"
	"golang.org/x/oauth2"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/wire"
)

// serviceOptions are the flags of a login by the organization's login service.
type serviceOptions struct {
	domain     string
	server     string
	root       string
	deviceCode bool
}

// loginTime bounds how long a user may take to log in.
const loginTime = 15 * time.Minute

// identified is a user whom the login service has named.
type identified struct {
	server client.Invitation
	token  string
	key    *client.DeviceKey
}

// identify asks the organization's login service who the user is.
func (o *serviceOptions) identify(c *cobra.Command) (*identified, error) {
	ctx, cancel := context.WithTimeout(c.Context(), loginTime)
	defer cancel()
	domain, err := wire.ParseDomain(o.domain)
	if err != nil {
		return nil, cli.UsageError(fmt.Errorf("--oidc: %w: wanted the domain of an organization, as a.example", err))
	}
	server, err := o.find(ctx, domain, http.DefaultClient)
	if err != nil {
		return nil, err
	}
	transport, ok := client.WebSocket(server, nil).(client.LoginTransport)
	if !ok {
		return nil, errors.New("the program was built without login services")
	}
	issuer, err := transport.Issuer(ctx)
	if err != nil {
		return nil, fmt.Errorf("the login service of %s is not known: %w: ask your operator for an invitation", domain, cli.Plain(err))
	}
	key, err := client.NewDeviceKey(0)
	if err != nil {
		return nil, err
	}
	var user string
	var token string
	if o.deviceCode {
		user, token, err = o.byCode(ctx, c, transport, key)
	} else {
		user, token, err = byBrowser(ctx, c, issuer, key.Nonce())
	}
	if err != nil {
		return nil, err
	}
	server.User = user
	if _, err := server.UserID(); err != nil {
		return nil, fmt.Errorf("the login service names you %q, which cannot be the name of a user at %s: ask your operator", cli.Clean(user), domain)
	}
	return &identified{server, token, key}, nil
}

// find finds the organization's node: at the address of --server, or at the address that the domain publishes.
func (o *serviceOptions) find(ctx context.Context, domain wire.Domain, web *http.Client) (client.Invitation, error) {
	i := client.Invitation{Host: o.server, Domain: domain}
	root := o.root
	if i.Host == "" {
		var w struct {
			Domain  wire.Domain `json:"domain"`
			Gateway string      `json:"gateway"`
			Root    string      `json:"root"`
		}
		if err := getJSON(ctx, web, "https://"+string(domain)+"/.well-known/mlsfed", &w); err != nil {
			return i, fmt.Errorf("where the node of %s is is not known: %w: ask your operator for --server", domain, err)
		}
		if w.Domain != domain || w.Gateway == "" {
			return i, fmt.Errorf("https://%s/.well-known/mlsfed is about %q at %q: ask your operator", domain, cli.Clean(string(w.Domain)), cli.Clean(w.Gateway))
		}
		if i.Host = w.Gateway; root == "" {
			root = w.Root
		}
	}
	if _, _, err := net.SplitHostPort(i.Host); err != nil || strings.ContainsAny(i.Host, "/?#@ ") {
		return i, cli.UsageError(fmt.Errorf("%q is not the address of a node: wanted host:port, as chat.a.example:8443", cli.Clean(i.Host)))
	}
	if root != "" {
		raw, err := hex.DecodeString(root)
		if err != nil || len(raw) != len(i.Root) {
			return i, cli.UsageError(fmt.Errorf("%q is not the SHA-256 of a root certificate in hexadecimal", cli.Clean(root)))
		}
		i.Root = wire.Hash(raw)
	}
	return i, nil
}

// maxWellKnown bounds the document in which a domain publishes its node, in bytes.
const maxWellKnown = 16 << 10

func getJSON(ctx context.Context, web *http.Client, from string, v any) error {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return err
	}
	r, err := web.Do(q)
	if err != nil {
		return cli.Plain(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", from, r.Status)
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, maxWellKnown)).Decode(v); err != nil {
		return fmt.Errorf("%s is no JSON: %w", from, err)
	}
	return nil
}

// byCode lets the user enter a code on another device. The node asks the login service, so that no token reaches this
// machine.
func (o *serviceOptions) byCode(ctx context.Context, c *cobra.Command, t client.LoginTransport, k *client.DeviceKey) (user, token string, err error) {
	id, token, err := client.Login(ctx, t, k, func(a *wire.FlowAnswer) {
		fmt.Fprintf(c.ErrOrStderr(), "Open %s on any machine, and type in the code %s\nDo so only because this device shows it. The code ends at %s.\n",
			cli.Clean(a.URL), cli.Clean(a.Code), a.Ends.Std().Local().Format("15:04"))
		if a.Complete != "" {
			fmt.Fprintf(c.ErrOrStderr(), "The same in one: %s\n", cli.Clean(a.Complete))
		}
	})
	if err != nil {
		return "", "", fmt.Errorf("no login: %w", cli.Plain(err))
	}
	return id.Name(), token, nil
}

// byBrowser lets the user log in with a browser on this machine: the authorization code flow with PKCE (RFC 7636) and a
// redirection to a loopback address (RFC 8252 §7.3).
func byBrowser(ctx context.Context, c *cobra.Command, issuer *wire.Issuer, nonce string) (user, token string, err error) {
	if u, err := url.Parse(issuer.URL); err != nil || u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) {
		return "", "", fmt.Errorf("the login service %q is not at an https address: ask your operator", cli.Clean(issuer.URL))
	}
	provider, err := oidc.NewProvider(ctx, issuer.URL)
	if err != nil {
		return "", "", fmt.Errorf("login service: %w", cli.Plain(err))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", fmt.Errorf("login: %w", err)
	}
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails
	state := base64.RawURLEncoding.EncodeToString(secret[:])
	verifier := oauth2.GenerateVerifier()
	config := &oauth2.Config{ClientID: issuer.Client, Endpoint: provider.Endpoint(), RedirectURL: "http://" + l.Addr().String() + "/callback", Scopes: issuer.Scopes}
	config.Endpoint.AuthStyle = oauth2.AuthStyleInParams // a public client has no secret
	b := &redirection{state: state, issuer: issuer.URL, done: make(chan redirected, 1)}
	server := &http.Server{Handler: b, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	address := config.AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier))
	fmt.Fprintf(c.ErrOrStderr(), "Log in with your browser. If none opens, open this address on this machine:\n%s\n", address)
	openBrowser(address)
	var back redirected
	select {
	case back = <-b.done:
	case <-ctx.Done():
		return "", "", fmt.Errorf("no login: %w", context.Cause(ctx))
	}
	if back.err != nil {
		return "", "", back.err
	}
	tokens, err := config.Exchange(ctx, back.code, oauth2.VerifierOption(verifier))
	if err != nil {
		var refused *oauth2.RetrieveError
		if errors.As(err, &refused) { // its text has the answer
			err = fmt.Errorf("the answer is %q", cli.Clean(refused.ErrorCode))
		}
		return "", "", fmt.Errorf("the login service gives no token: %w", err)
	}
	raw, _ := tokens.Extra("id_token").(string)
	id, err := provider.VerifierContext(ctx, &oidc.Config{ClientID: issuer.Client}).Verify(ctx, raw)
	if err != nil {
		return "", "", fmt.Errorf("the token of the login service: %w", err)
	}
	if subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(nonce)) != 1 {
		return "", "", errors.New("the token of the login service is for another key: log in again")
	}
	claims := make(map[string]any)
	if err := id.Claims(&claims); err != nil {
		return "", "", fmt.Errorf("the token of the login service: %w", err)
	}
	user, ok := claims[issuer.Claim].(string)
	if !ok {
		return "", "", fmt.Errorf("the token of the login service has no claim %q: ask your operator", cli.Clean(issuer.Claim))
	}
	return user, raw, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// redirection waits for the browser to come back.
type redirection struct {
	state  string
	issuer string
	done   chan redirected
}

type redirected struct {
	code string
	err  error
}

// ServeHTTP implements http.Handler. A request without the state comes from another page, and changes nothing.
func (b *redirection) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	if r.Method != http.MethodGet || r.URL.Path != "/callback" || subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(b.state)) != 1 {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, "This is not an answer to a login that is under way.\n")
		return
	}
	back := redirected{code: q.Get("code")}
	switch {
	case q.Get("iss") != "" && q.Get("iss") != b.issuer: // RFC 9207
		back.err = fmt.Errorf("another login service answers: %q", cli.Clean(q.Get("iss")))
	case q.Get("error") != "":
		back.err = fmt.Errorf("the login service refuses: %s", cli.Clean(strings.TrimSpace(q.Get("error")+" "+q.Get("error_description"))))
	case back.code == "":
		back.err = errors.New("the login service gives no code")
	}
	if back.err == nil {
		_, _ = io.WriteString(w, "You are logged in. You can close this page.\n")
	} else {
		_, _ = io.WriteString(w, "The login has failed: the terminal says why. You can close this page.\n")
	}
	select {
	case b.done <- back:
	default:
	}
}

// openBrowser opens an address in BROWSER, or in the system's default browser. It ignores failures, since the address
// is printed.
func openBrowser(address string) {
	name, args := "xdg-open", []string{address}
	switch {
	case os.Getenv("BROWSER") != "":
		name = os.Getenv("BROWSER")
	case runtime.GOOS == "darwin":
		name = "open"
	case runtime.GOOS == "windows":
		name, args = "rundll32", []string{"url.dll,FileProtocolHandler", address}
	}
	c := exec.Command(name, args...)
	if c.Start() == nil {
		go func() { _ = c.Wait() }()
	}
}
