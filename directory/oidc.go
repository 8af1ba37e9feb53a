package directory

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"net/http"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/mlsfed/mlsfed/wire"
)

// Issuer is an OpenID Connect issuer whose ID tokens enrol devices.
type Issuer struct {
	URL      string // "https://login.a.example"
	Audience string // the client id that tokens must be made for
	// Claim is the one that holds a user's name here; "preferred_username" by default.
	Claim string
	// BindKey demands that a token's nonce is KeyNonce of the device's key: then a token that leaks
	// enrols nobody else's key. Clients choose the nonce when they ask the issuer for a token.
	BindKey bool
	Client  *http.Client // nil is http.DefaultClient
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
}

// maxToken bounds an ID token, in bytes.
const maxToken = 16 << 10

// NewTokens asks the issuer for its configuration. ctx bounds that alone; keys are fetched when a token
// needs them.
func NewTokens(ctx context.Context, issuer Issuer, now func() time.Time) (*Tokens, error) {
	issuer.Claim = or(issuer.Claim, "preferred_username")
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
	keep := context.Background()
	if issuer.Client != nil {
		keep = oidc.ClientContext(keep, issuer.Client)
	}
	return &Tokens{issuer, provider.VerifierContext(keep, &oidc.Config{ClientID: issuer.Audience, Now: now})}, nil
}

// user is the name that a token speaks for.
func (t *Tokens) user(ctx context.Context, raw string, key []byte) (string, error) {
	deny := func(format string, args ...any) error {
		return wire.Errorf(wire.Denied, "enrol", "token: "+format, args...)
	}
	if len(raw) > maxToken {
		return "", wire.Errorf(wire.TooLarge, "enrol", "token of %d bytes, at most %d", len(raw), maxToken)
	}
	token, err := t.verifier.Verify(ctx, raw)
	if err != nil {
		return "", deny("%v", err)
	}
	if t.issuer.BindKey && subtle.ConstantTimeCompare([]byte(token.Nonce), []byte(KeyNonce(key))) != 1 {
		return "", deny("its nonce is not that of the device's key")
	}
	claims := make(map[string]any)
	if err := token.Claims(&claims); err != nil {
		return "", deny("%v", err)
	}
	name, ok := claims[t.issuer.Claim].(string)
	if !ok || name == "" {
		return "", deny("it has no claim %q", t.issuer.Claim)
	}
	return name, nil
}

// EnrolByToken enrols a device of the user that an ID token names, who is made if need be, and returns
// its certificate chain. A repetition with the same device and key gets the same answer. Errors are
// those of Enrol.
func (d *Directory) EnrolByToken(ctx context.Context, t *Tokens, raw string, e Enrolment) (chain [][]byte, err error) {
	if err := d.checkEnrolment(&e); err != nil {
		return nil, err
	}
	name, err := t.user(ctx, raw, e.Key)
	if err != nil {
		return nil, err
	}
	u := e.Device.User()
	if name != u.Name() {
		return nil, wire.Errorf(wire.Denied, "enrol", "the token is for %q, not for %s", name, u)
	}
	err = d.update(u, func(b *pebble.Batch) error {
		r := new(deviceRecord)
		ok, err := d.get(d.deviceKey(e.Device), r)
		if err != nil {
			return err
		}
		if ok && subtle.ConstantTimeCompare(r.Key, e.Key) == 1 {
			chain = [][]byte{r.Certificate, d.cfg.CA.Certificate().Raw}
			return nil
		}
		if err := d.makeUser(b, u); err != nil {
			return err
		}
		chain, err = d.enrol(b, &e)
		return err
	})
	return chain, err
}
