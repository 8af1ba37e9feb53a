package directory

import (
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// TestEndedAccount: a user whose account has ended has no devices, KeyPackages and invitations left, and enrols nothing by
// code or token until the account is active again.
func TestEndedAccount(t *testing.T) {
	i := newIssuer(t)
	defer i.Client().CloseIdleConnections()
	clock := newClock()
	d := open(t, Config{Clock: clock})
	tokens, err := NewTokens(t.Context(), Issuer{URL: i.URL, Audience: "mlsfed", Client: i.Client()}, clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	token := func(e *device, n int) string {
		return i.token(t, i.key, map[string]any{
			"iss": i.URL, "aud": "mlsfed", "sub": "1234", "preferred_username": "alice", "nonce": KeyNonce(e.pub), "jti": n,
			"iat": clock.Now().Unix(), "exp": clock.Now().Add(time.Hour).Unix(),
		})
	}
	if _, err := d.Account(t.Context(), alice); wire.CodeOf(err) != wire.NotFound {
		t.Errorf("an account of nobody: %v", err)
	}
	e := newDevice(t, phone, 1)
	if e.chain, err = d.EnrolByToken(t.Context(), tokens, token(e, 1), e.enrolment(t)); err != nil {
		t.Fatal(err)
	}
	upload(t, d, phone, e.uploads(t, d, 1, mlscore.KeyPackageOptions{})...)
	if a, err := d.Account(t.Context(), alice); err != nil || !a.Active || a.Devices != 1 || a.External != "" {
		t.Errorf("before the provider has said anything: %+v, %v", a, err)
	}
	code, err := d.Invite(t.Context(), alice, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	ended, err := d.SetAccount(t.Context(), alice, "x7", false)
	if err != nil || len(ended) != 1 || ended[0] != phone {
		t.Fatalf("ended %v, %v", ended, err)
	}
	again := newDevice(t, phone, 1)
	_, err = d.Enrol(t.Context(), code, again.enrolment(t))
	wantCode(t, err, wire.Denied)
	_, err = d.EnrolByToken(t.Context(), tokens, token(again, 2), again.enrolment(t))
	wantCode(t, err, wire.Denied)
	_, err = d.Invite(t.Context(), alice, time.Hour)
	wantCode(t, err, wire.Denied)
	if a, err := d.Account(t.Context(), alice); err != nil || a.Active || a.Devices != 0 || a.External != "x7" {
		t.Errorf("ended: %+v, %v", a, err)
	}
	if users, err := d.Users(t.Context()); err != nil || len(users) != 0 {
		t.Errorf("users %v, %v", users, err)
	}
	if ended, err := d.SetAccount(t.Context(), alice, "x7", true); err != nil || len(ended) != 0 {
		t.Errorf("active again: %v, %v", ended, err)
	}
	if _, err := d.EnrolByToken(t.Context(), tokens, token(again, 3), again.enrolment(t)); err != nil {
		t.Errorf("after the account is active again: %v", err)
	}
	if list, err := d.Accounts(t.Context()); err != nil || len(list) != 1 || list[0].User != alice || !list[0].Active {
		t.Errorf("accounts %+v, %v", list, err)
	}
	if ended, err := d.DeleteAccount(t.Context(), alice); err != nil || len(ended) != 1 {
		t.Errorf("deleted: %v, %v", ended, err)
	}
	if list, err := d.Accounts(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("accounts after the deletion: %+v, %v", list, err)
	}
	_, err = d.DeleteAccount(t.Context(), alice)
	wantCode(t, err, wire.NotFound)
	_, err = d.EnrolByToken(t.Context(), tokens, token(e, 4), e.enrolment(t))
	wantCode(t, err, wire.Denied)
	_, err = d.SetAccount(t.Context(), alice, string(make([]byte, maxExternal+1)), true)
	wantCode(t, err, wire.TooLarge)
	_, err = d.SetAccount(t.Context(), "mimi://b.example/u/bob", "", true)
	wantCode(t, err, wire.NotFound)
}
