package people

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/test/issuer"
)

// TestFindNode checks that the address of a domain's node comes from the domain itself, or from the user.
func TestFindNode(t *testing.T) {
	root := strings.Repeat("ab", 32)
	answer := ""
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/.well-known/mlsfed" || r.Host != "example.com" {
			t.Errorf("asked for %s of %s", r.URL.Path, r.Host)
		}
		if answer == "" {
			w.WriteHeader(http.StatusNotFound)
		}
		fmt.Fprint(w, answer)
	}))
	defer server.Close()
	web := server.Client()
	web.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
	}
	for name, c := range map[string]struct {
		answer, server, root string
		host, pinned, fault  string
	}{
		"the domain says":        {answer: `{"domain":"example.com","gateway":"chat.example.com:8443"}`, host: "chat.example.com:8443"},
		"with a root":            {answer: `{"domain":"example.com","gateway":"chat.example.com:8443","root":"` + root + `"}`, host: "chat.example.com:8443", pinned: root},
		"the user says":          {server: "n1.example.com:8443", host: "n1.example.com:8443"},
		"and pins":               {server: "n1.example.com:8443", root: root, host: "n1.example.com:8443", pinned: root},
		"nothing is there":       {fault: "ask your operator for --server"},
		"of another domain":      {answer: `{"domain":"b.example","gateway":"chat.example.com:8443"}`, fault: `is about "b.example"`},
		"no JSON":                {answer: `<html>`, fault: "is no JSON"},
		"no address":             {answer: `{"domain":"example.com","gateway":"https://chat.example.com"}`, fault: "is not the address of a node"},
		"an address with a path": {server: "chat.example.com:8443/x@y", fault: "is not the address of a node"},
		"a root that is none":    {server: "n1.example.com:8443", root: "abcd", fault: "is not the SHA-256"},
	} {
		answer = c.answer
		o := &serviceOptions{server: c.server, root: c.root}
		i, err := o.find(t.Context(), "example.com", web)
		switch {
		case c.fault != "":
			if err == nil || !strings.Contains(err.Error(), c.fault) {
				t.Errorf("%s: %v, wanted %q", name, err, c.fault)
			}
		case err != nil || i.Host != c.host || i.Pinned() != (c.pinned != "") || i.Pinned() && i.Root.String() != c.pinned:
			t.Errorf("%s: %+v, %v", name, i, err)
		}
	}
}

// TestRedirection checks that only an answer with the state counts, and only the first.
func TestRedirection(t *testing.T) {
	b := &redirection{state: "s3", issuer: "https://login.a.example", done: make(chan redirected, 1)}
	get := func(query url.Values) int {
		w := httptest.NewRecorder()
		b.ServeHTTP(w, httptest.NewRequest("GET", "/callback?"+query.Encode(), nil))
		if strings.Contains(w.Body.String(), query.Get("code")) && query.Get("code") != "" {
			t.Errorf("the page shows the code: %s", w.Body)
		}
		return w.Code
	}
	for name, q := range map[string]url.Values{
		"no state": {"code": {"stolen"}}, "another state": {"code": {"stolen"}, "state": {"s4"}}, "an empty one": {"code": {"stolen"}, "state": {""}},
	} {
		if status := get(q); status != http.StatusBadRequest || len(b.done) != 0 {
			t.Errorf("%s: %d, taken %d", name, status, len(b.done))
		}
	}
	for name, c := range map[string]struct {
		query url.Values
		fault string
	}{
		"a code":         {url.Values{"state": {"s3"}, "code": {"c0de"}}, ""},
		"and the issuer": {url.Values{"state": {"s3"}, "code": {"c0de"}, "iss": {"https://login.a.example"}}, ""},
		"another issuer": {url.Values{"state": {"s3"}, "code": {"c0de"}, "iss": {"https://evil.example"}}, "another login service"},
		"a refusal":      {url.Values{"state": {"s3"}, "error": {"access_denied"}, "error_description": {"no\x1b[2J"}}, "access_denied no"},
		"nothing at all": {url.Values{"state": {"s3"}}, "gives no code"},
	} {
		if status := get(c.query); status != http.StatusOK {
			t.Errorf("%s: %d", name, status)
		}
		get(url.Values{"state": {"s3"}, "code": {"second"}})
		back := <-b.done
		if c.fault == "" && (back.err != nil || back.code != "c0de") || c.fault != "" && (back.err == nil || !strings.Contains(back.err.Error(), c.fault) || strings.Contains(back.err.Error(), "\x1b")) {
			t.Errorf("%s: %+v", name, back)
		}
	}
}

// approving is a terminal whose user types in the code that is shown.
type approving struct {
	mu      sync.Mutex
	text    bytes.Buffer
	approve func(code string)
}

var shownCode = regexp.MustCompile(`type in the code (\S+)`)

func (a *approving) Write(b []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n, err := a.text.Write(b)
	if m := shownCode.FindSubmatch(a.text.Bytes()); m != nil && a.approve != nil {
		a.approve(string(m[1]))
		a.approve = nil
	}
	return n, err
}

// TestLoginWithoutABrowser checks that the command shows a code, and enrols the device of the user who types it in
// elsewhere.
func TestLoginWithoutABrowser(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	login, err := issuer.New(map[string][]string{"alice": {"chat"}})
	if err != nil {
		t.Fatal(err)
	}
	defer login.Close()
	c, err := cluster.New(t.TempDir(), cluster.Options{Edit: func(cfg *config.Config) {
		cfg.OIDC.URL, cfg.OIDC.Audience, cfg.OIDC.DeviceFlow = login.URL, issuer.Client, true
	}}, "a.example")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := c.StartAll(ctx); err != nil {
		t.Fatal(err)
	}
	t.Setenv("MLSFED_HOME", t.TempDir())
	server := c.Server("a.example", "")
	var out bytes.Buffer
	terminal := &approving{approve: func(code string) {
		if err := login.Approve(code, "alice"); err != nil {
			t.Error(err)
		}
	}}
	args := []string{"login", "--oidc", "a.example", "--server", server.Host, "--root", server.Root.String(), "--device-code", "--device", "phone", "--key", "file"}
	if code := cli.Run(ctx, testRoot, args, &out, terminal); code != 0 || !strings.Contains(out.String(), "This device is alice@a.example/phone now") {
		t.Errorf("exit code %d: %s%s", code, &out, &terminal.text)
	}
}
