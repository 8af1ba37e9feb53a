package directory

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// login is an issuer, its tokens, and the directory that takes them.
type login struct {
	t      *testing.T
	clock  *testClock
	d      *Directory
	issuer *issuer
	tokens *Tokens
}

func newLogin(t *testing.T, cfg Config, anyKey bool) *login {
	t.Helper()
	l := &login{t: t, clock: newClock(), issuer: newIssuer(t)}
	t.Cleanup(l.issuer.Client().CloseIdleConnections)
	cfg.Clock = l.clock
	l.d = open(t, cfg)
	l.tokens = l.trust(l.issuer, anyKey)
	return l
}

func (l *login) trust(i *issuer, anyKey bool) *Tokens {
	l.t.Helper()
	tokens, err := NewTokens(l.t.Context(), Issuer{URL: i.URL, Audience: "mlsfed", AnyKey: anyKey, Client: i.Client()}, l.clock.Now)
	if err != nil {
		l.t.Fatal(err)
	}
	return tokens
}

// token is one for a subject that bears a name, and the key whose nonce it has, if any. id distinguishes tokens.
func (l *login) token(i *issuer, subject, name string, e *device, id int) string {
	l.t.Helper()
	claims := map[string]any{
		"iss": i.URL, "aud": "mlsfed", "sub": subject, "preferred_username": name, "jti": id,
		"iat": l.clock.Now().Unix(), "exp": l.clock.Now().Add(time.Hour).Unix(),
	}
	if e != nil {
		claims["nonce"] = KeyNonce(e.pub)
	}
	return i.token(l.t, i.key, claims)
}

func (l *login) enrol(token string, e *device) error {
	l.t.Helper()
	_, err := l.d.EnrolByToken(l.t.Context(), l.tokens, token, e.enrolment(l.t))
	return err
}

// TestTokenEnrolsOneKey: an ID token that leaks enrols no other key, and none a second one.
func TestTokenEnrolsOneKey(t *testing.T) {
	l := newLogin(t, Config{}, false)
	e, thief := newDevice(t, phone, 1), newDevice(t, "mimi://a.example/d/alice/evil1", 1)
	wantCode(t, l.enrol(l.token(l.issuer, "1234", "alice", nil, 1), e), wire.Denied) // bound to no key
	token := l.token(l.issuer, "1234", "alice", e, 2)
	wantCode(t, l.enrol(token, thief), wire.Denied)
	for range 2 {
		if err := l.enrol(token, e); err != nil {
			t.Fatal(err)
		}
	}

	// Where tokens need not name a key, the first one to use it has it.
	l = newLogin(t, Config{}, true)
	token = l.token(l.issuer, "1234", "alice", nil, 1)
	if err := l.enrol(token, e); err != nil {
		t.Fatal(err)
	}
	wantCode(t, l.enrol(token, thief), wire.Denied)
	again := newDevice(t, phone, 1) // another key under the name of the device
	wantCode(t, l.enrol(token, again), wire.Denied)
	if err := l.enrol(token, e); err != nil {
		t.Fatalf("a repetition: %v", err)
	}
	// A token whose text is written differently is the same one.
	parts := strings.Split(token, ".")
	object, err := json.Marshal(map[string]string{"payload": parts[1], "protected": parts[0], "signature": parts[2]})
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, l.enrol(string(object), thief), wire.Denied)
	tail, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, l.enrol(parts[0]+"."+parts[1]+"."+base64.URLEncoding.EncodeToString(tail), thief), wire.Denied)
	if n := l.d.Refusals().Tokens; n < 2 {
		t.Errorf("%d tokens were counted as used before", n)
	}
	// Revoking the device does not give its token back, not even to the same key.
	if err := l.d.Revoke(l.t.Context(), phone); err != nil {
		t.Fatal(err)
	}
	wantCode(t, l.enrol(token, e), wire.Denied)
	wantCode(t, l.enrol(token, newDevice(t, phone, 1)), wire.Denied)
	if err := l.d.RemoveUser(l.t.Context(), alice); err != nil {
		t.Fatal(err)
	}
	wantCode(t, l.enrol(token, e), wire.Denied)
	if err := l.d.Sweep(l.t.Context()); err != nil {
		t.Fatal(err)
	}
	wantCode(t, l.enrol(token, e), wire.Denied)
	if err := l.enrol(l.token(l.issuer, "1234", "alice", nil, 2), e); err != nil {
		t.Fatalf("a new token: %v", err)
	}
	// Expired tokens are not kept.
	l.clock.advance(time.Hour + time.Second)
	if err := l.d.Sweep(l.t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := stored(t, l.d, kindToken); n != 0 {
		t.Fatalf("%d tokens are kept", n)
	}
}

// TestTokensOfOneUserAreBounded: a user who uses tokens up keeps nobody else from enrolling, and the table
// forgets none that is still valid.
func TestTokensOfOneUserAreBounded(t *testing.T) {
	l := newLogin(t, Config{MaxTokens: 2, MaxDevices: 8}, true)
	use := func(subject, name string, device wire.DeviceID, id int) error {
		return l.enrol(l.token(l.issuer, subject, name, nil, id), newDevice(t, device, 1))
	}
	for i, device := range []wire.DeviceID{phone, laptop} {
		if err := use("1234", "alice", device, i); err != nil {
			t.Fatal(err)
		}
	}
	const third = "mimi://a.example/d/alice/tablet"
	wantCode(t, use("1234", "alice", third, 2), wire.Quota)
	if err := use("5678", "bob", "mimi://a.example/d/bob/phone", 3); err != nil {
		t.Fatalf("another user: %v", err)
	}
	l.clock.advance(time.Hour + time.Second)
	if err := use("1234", "alice", third, 4); err != nil {
		t.Fatal(err)
	}
}

// TestUserIsOneSubject: a name at the issuer can change hands; who bears it later is not its earlier bearer.
func TestUserIsOneSubject(t *testing.T) {
	l := newLogin(t, Config{}, false)
	names := []wire.DeviceID{phone, laptop, "mimi://a.example/d/alice/stranger", "mimi://a.example/d/bob/phone"}
	e := make([]*device, len(names))
	for i, name := range names {
		e[i] = newDevice(t, name, 1)
	}
	enrol(t, l.d, "mimi://a.example/d/alice/old", 1) // by an invitation: alice is no subject yet
	if issuer, subject, err := l.d.Subject(l.t.Context(), alice); issuer != "" || subject != "" || err != nil {
		t.Fatalf("bound to %q of %q, %v", subject, issuer, err)
	}
	if err := l.enrol(l.token(l.issuer, "1234", "alice", e[0], 1), e[0]); err != nil {
		t.Fatal(err)
	}
	if issuer, subject, err := l.d.Subject(l.t.Context(), alice); issuer != l.issuer.URL || subject != "1234" || err != nil {
		t.Fatalf("bound to %q of %q, %v", subject, issuer, err)
	}
	err := l.enrol(l.token(l.issuer, "9999", "alice", e[2], 2), e[2])
	wantCode(t, err, wire.Denied)
	if !strings.Contains(err.Error(), "mlsfed user rebind alice") {
		t.Errorf("the refusal does not say what to do: %v", err)
	}
	if err := l.enrol(l.token(l.issuer, "1234", "alice", e[1], 3), e[1]); err != nil {
		t.Fatalf("the same subject: %v", err)
	}
	// The subject takes another name at the issuer: it does not become another user here.
	wantCode(t, l.enrol(l.token(l.issuer, "1234", "bob", e[3], 4), e[3]), wire.Denied)
	if n := l.d.Refusals().Subjects; n != 2 {
		t.Errorf("%d refusals are counted, want 2", n)
	}
	// The same subject of another issuer is somebody else.
	second := newIssuer(t)
	t.Cleanup(second.Client().CloseIdleConnections)
	other := l.trust(second, false)
	_, err = l.d.EnrolByToken(l.t.Context(), other, l.token(second, "1234", "alice", e[2], 5), e[2].enrolment(t))
	wantCode(t, err, wire.Denied)

	wantCode(t, l.d.Rebind(l.t.Context(), "mimi://a.example/u/nobody", "", ""), wire.NotFound)
	wantCode(t, l.d.Rebind(l.t.Context(), alice, l.issuer.URL, ""), wire.Malformed)
	wantCode(t, l.d.Rebind(l.t.Context(), alice, l.issuer.URL, strings.Repeat("x", maxSubject+1)), wire.Malformed)
	if err := l.d.Rebind(l.t.Context(), alice, l.issuer.URL, "9999"); err != nil {
		t.Fatal(err)
	}
	if err := l.enrol(l.token(l.issuer, "9999", "alice", e[2], 6), e[2]); err != nil {
		t.Fatalf("after the operator has rebound alice: %v", err)
	}
	if err := l.enrol(l.token(l.issuer, "1234", "bob", e[3], 7), e[3]); err != nil {
		t.Fatalf("the subject that alice was is free: %v", err)
	}
	wantCode(t, l.d.Rebind(l.t.Context(), alice, l.issuer.URL, "1234"), wire.Exists)
	if err := l.d.Rebind(l.t.Context(), alice, "", ""); err != nil {
		t.Fatal(err)
	}
	if _, subject, err := l.d.Subject(l.t.Context(), alice); subject != "" || err != nil {
		t.Fatalf("bound to %q, %v", subject, err)
	}
	if err := l.d.RemoveUser(l.t.Context(), "mimi://a.example/u/bob"); err != nil {
		t.Fatal(err)
	}
	if err := l.d.Rebind(l.t.Context(), alice, l.issuer.URL, "1234"); err != nil {
		t.Fatalf("the subject of a user who was removed: %v", err)
	}
}

// TestSubjectRace: two names of one subject enrol at once, and one of them wins.
func TestSubjectRace(t *testing.T) {
	l := newLogin(t, Config{}, false)
	var all sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		name := string(rune('a'+i)) + "lice"
		e := newDevice(t, wire.DeviceID("mimi://a.example/d/"+name+"/phone"), 1)
		token, enrolment := l.token(l.issuer, "1234", name, e, i), e.enrolment(t)
		all.Go(func() { _, errs[i] = l.d.EnrolByToken(l.t.Context(), l.tokens, token, enrolment) })
	}
	all.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			wantCode(t, err, wire.Denied)
		}
	}
	if users, err := l.d.Users(l.t.Context()); won != 1 || len(users) != 1 || err != nil {
		t.Fatalf("%d won, users %v, %v", won, users, err)
	}
}

// TestInvitationOfARevokedDevice: a code that was used does not enrol the device again after it was revoked.
func TestInvitationOfARevokedDevice(t *testing.T) {
	d := open(t, Config{})
	code, e := invite(t, d, alice), newDevice(t, phone, 1)
	if _, err := d.Enrol(t.Context(), code, e.enrolment(t)); err != nil {
		t.Fatal(err)
	}
	if err := d.Revoke(t.Context(), phone); err != nil {
		t.Fatal(err)
	}
	_, err := d.Enrol(t.Context(), code, e.enrolment(t))
	wantCode(t, err, wire.Denied)
	_, err = d.Enrol(t.Context(), code, newDevice(t, phone, 1).enrolment(t))
	wantCode(t, err, wire.Denied)
}
