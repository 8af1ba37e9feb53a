package directory

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// issuer is an OpenID Connect issuer on loopback TLS.
type issuer struct {
	*httptest.Server
	key ed25519.PrivateKey
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))}
	answer := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(v); err != nil {
			t.Error(err)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{
			"issuer": i.URL, "jwks_uri": i.URL + "/keys", "authorization_endpoint": i.URL + "/auth",
			"token_endpoint": i.URL + "/token", "id_token_signing_alg_values_supported": []string{"EdDSA"},
		})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"keys": []any{map[string]string{
			"kty": "OKP", "crv": "Ed25519", "kid": "1", "alg": "EdDSA", "use": "sig",
			"x": base64.RawURLEncoding.EncodeToString(i.key.Public().(ed25519.PublicKey)),
		}}})
	})
	i.Server = httptest.NewTLSServer(mux)
	t.Cleanup(i.Close)
	return i
}

func (i *issuer) token(t *testing.T, key ed25519.PrivateKey, claims map[string]any) string {
	t.Helper()
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	signed := part(map[string]string{"alg": "EdDSA", "kid": "1", "typ": "JWT"}) + "." + part(claims)
	return signed + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, []byte(signed)))
}

func TestEnrolByToken(t *testing.T) {
	i := newIssuer(t)
	defer i.Client().CloseIdleConnections()
	clock := newClock()
	d := open(t, Config{Clock: clock})
	e := newDevice(t, phone, 1)
	tokens, err := NewTokens(t.Context(), Issuer{URL: i.URL, Audience: "mlsfed", Client: i.Client()}, clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	claims := func(change map[string]any) map[string]any {
		c := map[string]any{
			"iss": i.URL, "aud": "mlsfed", "sub": "1234", "preferred_username": "alice", "nonce": KeyNonce(e.pub),
			"iat": clock.Now().Unix(), "exp": clock.Now().Add(time.Hour).Unix(),
		}
		for k, v := range change {
			c[k] = v
		}
		return c
	}
	other := ed25519.NewKeyFromSeed(append(make([]byte, 31), 1))
	good := i.token(t, i.key, claims(nil))
	for name, token := range map[string]string{
		"another issuer":   i.token(t, i.key, claims(map[string]any{"iss": "https://evil.example"})),
		"another audience": i.token(t, i.key, claims(map[string]any{"aud": "shop"})),
		"expired":          i.token(t, i.key, claims(map[string]any{"exp": clock.Now().Add(-time.Second).Unix()})),
		"another user":     i.token(t, i.key, claims(map[string]any{"preferred_username": "bob"})),
		"no user":          i.token(t, i.key, claims(map[string]any{"preferred_username": 7})),
		"another nonce":    i.token(t, i.key, claims(map[string]any{"nonce": KeyNonce(newDevice(t, phone, 1).pub)})),
		"another key":      i.token(t, other, claims(nil)),
		"not signed":       good[:len(good)-86],
		"nonsense":         "a.b.c",
	} {
		if _, err := d.EnrolByToken(t.Context(), tokens, token, e.enrolment(t)); wire.CodeOf(err) != wire.Denied {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = d.EnrolByToken(t.Context(), tokens, string(make([]byte, maxToken+1)), e.enrolment(t))
	wantCode(t, err, wire.TooLarge)
	bad := e.enrolment(t)
	bad.Proof[0] ^= 1
	_, err = d.EnrolByToken(t.Context(), tokens, good, bad)
	wantCode(t, err, wire.Denied)
	if users, err := d.Users(t.Context()); len(users) != 0 || err != nil {
		t.Fatalf("a refusal made users %v, %v", users, err)
	}

	for range 2 { // the second is a repetition
		chain, err := d.EnrolByToken(t.Context(), tokens, good, e.enrolment(t))
		if err != nil {
			t.Fatal(err)
		}
		if e.chain != nil && string(chain[0]) != string(e.chain[0]) {
			t.Fatal("a repetition got another certificate")
		}
		e.chain = chain
	}
	upload(t, d, phone, e.uploads(t, d, 1, mlscore.KeyPackageOptions{})...)
	if users, err := d.Users(t.Context()); len(users) != 1 || users[0].ID != alice || err != nil {
		t.Fatalf("users %v, %v", users, err)
	}
}

func TestIssuerRefusals(t *testing.T) {
	i := newIssuer(t)
	defer i.Client().CloseIdleConnections()
	for name, bad := range map[string]Issuer{
		"no audience":      {URL: i.URL, Client: i.Client()},
		"another name":     {URL: i.URL + "/", Audience: "mlsfed", Client: i.Client()},
		"untrusted server": {URL: i.URL, Audience: "mlsfed", Client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}},
	} {
		if _, err := NewTokens(t.Context(), bad, time.Now); err == nil || !strings.Contains(err.Error(), i.URL) {
			t.Errorf("%s: %v, want an error that names the issuer", name, err)
		}
	}
}
