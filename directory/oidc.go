package directory

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/wire"
)

// Issuer is an OpenID Connect issuer whose ID tokens enrol devices.
type Issuer struct {
	URL      string // "https://login.a.example"
	Audience string // the client id that tokens must be made for
	// Claim is the one that holds a user's name here; "preferred_username" by default.
	Claim string
	// AnyKey accepts tokens whose nonce is not KeyNonce of the device's key. Then a token that leaks enrols
	// a thief's key, once. Clients choose the nonce when they ask the issuer for a token.
	AnyKey bool
	// Groups are those of which a user must be in one, by GroupClaim; nil: all users of the issuer may enrol. The claim
	// holds a text or a list of texts; dots in its name lead into objects, as "realm_access.roles".
	Groups     []string
	GroupClaim string // "groups" by default
	// Scopes are asked for, "openid" by default, "profile" too.
	Scopes []string
	// Secret of the client, if the issuer wants one for the device authorization grant. It is never given out.
	Secret string
	// Flows lets devices enrol by the device authorization grant (RFC 8628), which the directory runs: so many can be
	// under way at once; 0: none.
	Flows  int
	Client *http.Client // nil is http.DefaultClient
}

// KeyNonce is the nonce that binds a token to a device's key: base64url of its SHA-256.
func KeyNonce(key []byte) string {
	sum := sha256.Sum256(key)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Tokens verifies the ID tokens of one issuer.
type Tokens struct {
	issuer   Issuer
	verifier *oidc.IDTokenVerifier
	endpoint oauth2.Endpoint
	now      func() time.Time

	mu    sync.Mutex // guards flows, and what is in them
	flows map[wire.Token]*flow
}

// maxToken bounds an ID token, in bytes.
const maxToken = 16 << 10

// NewTokens asks the issuer for its configuration. ctx bounds that alone; keys are fetched when a token
// needs them.
func NewTokens(ctx context.Context, issuer Issuer, now func() time.Time) (*Tokens, error) {
	issuer.Claim = cmp.Or(issuer.Claim, "preferred_username")
	issuer.GroupClaim = cmp.Or(issuer.GroupClaim, "groups")
	if len(issuer.Scopes) == 0 {
		issuer.Scopes = []string{oidc.ScopeOpenID, "profile"}
	}
	if issuer.Audience == "" {
		return nil, fmt.Errorf("issuer %s: no audience is configured: a token for any other service would be accepted", issuer.URL)
	}
	if issuer.Client != nil {
		ctx = oidc.ClientContext(ctx, issuer.Client)
	}
	provider, err := oidc.NewProvider(ctx, issuer.URL)
	if err != nil {
		return nil, fmt.Errorf("issuer %s: %w", issuer.URL, err)
	}
	if issuer.Flows > 0 && provider.Endpoint().DeviceAuthURL == "" {
		return nil, fmt.Errorf("issuer %s: it has no device authorization endpoint: oidc.device_flow cannot be used with it", issuer.URL)
	}
	keep := context.Background()
	if issuer.Client != nil {
		keep = oidc.ClientContext(keep, issuer.Client)
	}
	return &Tokens{
		issuer: issuer, verifier: provider.VerifierContext(keep, &oidc.Config{ClientID: issuer.Audience, Now: now}),
		endpoint: provider.Endpoint(), now: now, flows: make(map[wire.Token]*flow),
	}, nil
}

// Issuer is what a client needs to ask for a token.
func (t *Tokens) Issuer() *wire.Issuer {
	return &wire.Issuer{URL: t.issuer.URL, Client: t.issuer.Audience, Scopes: t.issuer.Scopes, Claim: t.issuer.Claim, Flows: t.issuer.Flows > 0}
}

// idToken is what a verified token says.
type idToken struct {
	name    string // of the user
	issuer  string
	subject string
	expires wire.Time
	// hash names the token by its claims: its text can be changed without making the signature invalid.
	hash wire.Hash
}

// verify reads a token that enrols a device with a key: an ID token with the key's nonce, or the name of a flow that
// was begun for the key.
func (t *Tokens) verify(ctx context.Context, raw string, key []byte) (*idToken, error) {
	if id, ok, err := wire.ParseFlowToken(raw); ok {
		if err != nil {
			return nil, err
		}
		return t.ofFlow(id, key)
	}
	token, nonce, err := t.read(ctx, raw)
	if err != nil {
		return nil, err
	}
	if !t.issuer.AnyKey && subtle.ConstantTimeCompare([]byte(nonce), []byte(KeyNonce(key))) != 1 {
		return nil, denyToken("its nonce is not that of the device's key: ask the issuer for one with the nonce that the device names")
	}
	return token, nil
}

func denyToken(format string, args ...any) error {
	return wire.Errorf(wire.Denied, "enrol", "token: "+format, args...)
}

// read verifies an ID token, but for its nonce.
func (t *Tokens) read(ctx context.Context, raw string) (id *idToken, nonce string, err error) {
	deny := func(format string, args ...any) (*idToken, string, error) { return nil, "", denyToken(format, args...) }
	if len(raw) > maxToken {
		return nil, "", wire.Errorf(wire.TooLarge, "enrol", "token of %d bytes, at most %d", len(raw), maxToken)
	}
	token, err := t.verifier.Verify(ctx, raw)
	if err != nil {
		return deny("%v", err)
	}
	if token.Issuer == "" || token.Subject == "" || len(token.Subject) > maxSubject {
		return deny("its subject has %d bytes, wanted 1 to %d", len(token.Subject), maxSubject)
	}
	var payload json.RawMessage
	if err := token.Claims(&payload); err != nil {
		return deny("%v", err)
	}
	claims := make(map[string]any)
	if err := json.Unmarshal(payload, &claims); err != nil {
		return deny("%v", err)
	}
	name, ok := claims[t.issuer.Claim].(string)
	if !ok || name == "" {
		return deny("it has no claim %q", t.issuer.Claim)
	}
	if !t.admits(claims) {
		return deny("%.80q is in none of the groups whose users may enrol devices here (claim %q): ask your operator", name, t.issuer.GroupClaim)
	}
	return &idToken{
		name: name, issuer: token.Issuer, subject: token.Subject, expires: wire.TimeOf(token.Expiry),
		hash: sha256.Sum256(append([]byte("mlsfed token 1\x00"), payload...)),
	}, token.Nonce, nil
}

// admits reports whether a token's groups let its user enrol.
func (t *Tokens) admits(claims map[string]any) bool {
	if len(t.issuer.Groups) == 0 {
		return true
	}
	for _, g := range claimTexts(claims, t.issuer.GroupClaim) {
		if slices.Contains(t.issuer.Groups, g) {
			return true
		}
	}
	return false
}

// claimTexts are the texts in a claim: itself, or a list. A name with dots is looked for as it is first, since names
// may hold dots, and then as a path into objects.
func claimTexts(claims map[string]any, name string) []string {
	value, ok := claims[name]
	if !ok {
		first, rest, nested := strings.Cut(name, ".")
		if inner, isObject := claims[first].(map[string]any); nested && isObject {
			return claimTexts(inner, rest)
		}
		return nil
	}
	switch v := value.(type) {
	case string:
		return []string{v}
	case []any:
		var list []string
		for _, e := range v {
			if s, ok := e.(string); ok {
				list = append(list, s)
			}
		}
		return list
	}
	return nil
}

// EnrolByToken enrols a device of the user that an ID token names, who is made if need be, and returns its
// certificate chain. A token enrols one device; a repetition with the same device and key gets the same
// answer. The first token that enrols a device of a user binds him to its issuer and subject: a token of
// another subject is refused, whatever name it bears, until the operator rebinds the user. Errors are those
// of Enrol, and wire.Quota for a user who has used Config.MaxTokens tokens that have not expired.
func (d *Directory) EnrolByToken(ctx context.Context, t *Tokens, raw string, e Enrolment) (chain [][]byte, err error) {
	if err := d.checkEnrolment(&e); err != nil {
		return nil, err
	}
	token, err := t.verify(ctx, raw, e.Key)
	if err != nil {
		return nil, err
	}
	u := e.Device.User()
	if token.name != u.Name() {
		return nil, wire.Errorf(wire.Denied, "enrol", "the token is for %q, not for %s", token.name, u)
	}
	err = d.store.UpdateSubject(ctx, u, func(tx recordstore.Tx) error {
		repeated, err := d.useToken(ctx, tx, token, &e)
		if err != nil {
			return err
		}
		r, err := tx.Device(ctx, e.Device)
		if err != nil {
			return err
		}
		same := r != nil && subtle.ConstantTimeCompare(r.Key, e.Key) == 1
		if repeated && !same {
			d.counts.tokensReused.Add(1)
			return wire.Errorf(wire.Denied, "enrol", "the token was used: ask the issuer for a new one")
		}
		if err := d.bind(ctx, tx, u, token); err != nil {
			return err
		}
		if same {
			chain = [][]byte{r.Certificate, d.cfg.CA.Certificate().Raw}
			return nil
		}
		if err := d.makeUser(ctx, tx, u); err != nil {
			return err
		}
		chain, err = d.enrol(ctx, tx, &e)
		return err
	})
	return chain, err
}
