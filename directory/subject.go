package directory

import (
	"context"

	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/wire"
)

// maxSubject bounds a token's subject, in bytes. OpenID Connect Core §2 allows 255.
const maxSubject = 255

// useToken stages that a token was used, and reports whether it was used before by the same device. A token
// that another device has used is refused. So is one beyond Config.MaxTokens of one user: what a token has
// enrolled is never forgotten to make room, and the records of one user keep nobody else from enrolling.
func (d *Directory) useToken(ctx context.Context, tx recordstore.Tx, t *idToken, e *Enrolment) (repeated bool, err error) {
	u := e.Device.User()
	r, err := tx.Token(ctx, u, t.hash)
	if err != nil {
		return false, err
	}
	if r != nil {
		if r.Device != e.Device {
			d.counts.tokensReused.Add(1)
			return false, wire.Errorf(wire.Denied, "enrol", "the token was used: ask the issuer for a new one")
		}
		return true, nil
	}
	open, err := tx.Tokens(ctx, u, d.now(), d.cfg.MaxTokens)
	if err != nil {
		return false, err
	}
	if open >= d.cfg.MaxTokens {
		return false, wire.Errorf(wire.Quota, "enrol", "%s has used %d tokens that have not expired: wait, or ask the operator for an invitation", u, open)
	}
	return false, tx.Set(ctx, &recordstore.Token{User: u, Hash: t.hash, Device: e.Device, Expires: t.expires})
}

// bind stages that a user is the token's subject, or refuses a token of another one. The change must be one of
// UpdateSubject.
func (d *Directory) bind(ctx context.Context, tx recordstore.Tx, u wire.UserID, t *idToken) error {
	refuse := func(format string, args ...any) error {
		d.counts.subjectsRefused.Add(1)
		return wire.Errorf(wire.Denied, "enrol", format, args...)
	}
	bound, err := tx.Subject(ctx, u)
	if err != nil {
		return err
	}
	if bound != nil && (bound.Issuer != t.issuer || bound.Subject != t.subject) {
		return refuse("the token bears the name of %s, who is another subject of the issuer than %.80q of %.200s: the operator rebinds with 'mlsfed user rebind %s'", u, t.subject, t.issuer, u.Name())
	}
	if bound != nil {
		return nil
	}
	other, err := tx.SubjectUser(ctx, t.issuer, t.subject)
	if err != nil {
		return err
	}
	if other != "" && other != u {
		return refuse("the token's subject %.80q is %s here, and not %s: the operator rebinds with 'mlsfed user rebind %s'", t.subject, other, u, other.Name())
	}
	return tx.Set(ctx, &recordstore.Subject{User: u, Issuer: t.issuer, Subject: t.subject})
}

// Subject is the issuer and the subject that a user is bound to; both are "" for a user who is not bound.
func (d *Directory) Subject(ctx context.Context, u wire.UserID) (issuer, subject string, err error) {
	if err := d.checkUser("subject", u); err != nil {
		return "", "", err
	}
	r, err := d.store.Subject(ctx, u)
	if err != nil || r == nil {
		return "", "", err
	}
	return r.Issuer, r.Subject, nil
}

// Rebind binds a user to a subject of an issuer. With both "", the user is bound to none, and the next token
// that enrols a device of his binds him. Devices stay enrolled. wire.NotFound for an unknown user, Exists
// for a subject that is another user here.
func (d *Directory) Rebind(ctx context.Context, u wire.UserID, issuer, subject string) error {
	if err := d.checkUser("rebind", u); err != nil {
		return err
	}
	if (issuer == "") != (subject == "") || len(subject) > maxSubject {
		return wire.Errorf(wire.Malformed, "rebind", "wanted an issuer and a subject of at most %d bytes, or neither", maxSubject)
	}
	return d.store.UpdateSubject(ctx, u, func(tx recordstore.Tx) error {
		user, err := tx.User(ctx, u)
		if err != nil {
			return err
		}
		if user == nil {
			return wire.Errorf(wire.NotFound, "rebind", "%s", u)
		}
		if err := tx.RemoveSubject(ctx, u); err != nil || issuer == "" {
			return err
		}
		other, err := tx.SubjectUser(ctx, issuer, subject)
		if err != nil {
			return err
		}
		if other != "" && other != u {
			return wire.Errorf(wire.Exists, "rebind", "%.80q is %s here: rebind that user first", subject, other)
		}
		return tx.Set(ctx, &recordstore.Subject{User: u, Issuer: issuer, Subject: subject})
	})
}
