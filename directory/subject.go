package directory

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/wire"
)

// maxSubject bounds a token's subject, in bytes. OpenID Connect Core §2 allows 255.
const maxSubject = 255

// subjectRecord says which subject of which issuer a user is. The name in a token can change hands at the
// issuer; issuer and subject together never do (OpenID Connect Core §5.7).
type subjectRecord struct {
	Version version `cbor:"1,keyasint"`
	Issuer  string  `cbor:"2,keyasint"`
	Subject string  `cbor:"3,keyasint"`
}

func (r *subjectRecord) Check() error { return r.Version.check("subject") }

// subjectUserRecord says which user a subject is.
type subjectUserRecord struct {
	Version version     `cbor:"1,keyasint"`
	User    wire.UserID `cbor:"2,keyasint"`
}

func (r *subjectUserRecord) Check() error { return r.Version.check("user of a subject") }

// tokenRecord is an ID token that was used. It stays until the token expires, so that none is used twice.
type tokenRecord struct {
	Version version       `cbor:"1,keyasint"`
	Device  wire.DeviceID `cbor:"2,keyasint"` // that it enrolled
	Expires wire.Time     `cbor:"3,keyasint"`
}

func (r *tokenRecord) Check() error { return r.Version.check("token") }

func (d *Directory) subjectKey(u wire.UserID) []byte { return d.key(kindSubject, u.Name()) }

func (d *Directory) subjectUserKey(issuer, subject string) []byte {
	h := sha256.Sum256([]byte(fmt.Sprintf("mlsfed subject 1\x00%d:%s%s", len(issuer), issuer, subject)))
	return d.key(kindSubjectUser, h[:])
}

// useToken stages that a token was used, and reports whether it was used before by the same device. A token
// that another device has used is refused. So is one beyond Config.MaxTokens of one user: what a token has
// enrolled is never forgotten to make room, and the records of one user keep nobody else from enrolling.
func (d *Directory) useToken(b *pebble.Batch, t *idToken, e *Enrolment) (repeated bool, err error) {
	u := e.Device.User()
	prefix := d.key(kindToken, u.Name()+"/")
	var r tokenRecord
	ok, err := d.get(append(append([]byte{}, prefix...), t.hash[:]...), &r)
	if err != nil {
		return false, err
	}
	if ok {
		if r.Device != e.Device {
			d.counts.tokensReused.Add(1)
			return false, wire.Errorf(wire.Denied, "enrol", "the token was used: ask the issuer for a new one")
		}
		return true, nil
	}
	open, now := 0, d.now()
	err = d.each(prefix, func(_, value []byte) (bool, error) {
		var r tokenRecord
		if err := wire.Decode(value, maxRecord, &r); err != nil {
			return false, err
		}
		if r.Expires >= now {
			open++
		}
		return open < d.cfg.MaxTokens, nil
	})
	if err != nil {
		return false, err
	}
	if open >= d.cfg.MaxTokens {
		return false, wire.Errorf(wire.Quota, "enrol", "%s has used %d tokens that have not expired: wait, or ask the operator for an invitation", u, open)
	}
	return false, set(b, append(prefix, t.hash[:]...), &tokenRecord{Version: recordVersion, Device: e.Device, Expires: t.expires})
}

// bind stages that a user is the token's subject, or refuses a token of another one. The caller has
// d.subjects.
func (d *Directory) bind(b *pebble.Batch, u wire.UserID, t *idToken) error {
	refuse := func(format string, args ...any) error {
		d.counts.subjectsRefused.Add(1)
		return wire.Errorf(wire.Denied, "enrol", format, args...)
	}
	var bound subjectRecord
	ok, err := d.get(d.subjectKey(u), &bound)
	if err != nil {
		return err
	}
	if ok && (bound.Issuer != t.issuer || bound.Subject != t.subject) {
		return refuse("the token bears the name of %s, who is another subject of the issuer than %.80q of %.200s: the operator rebinds with 'mlsfed user rebind %s'", u, t.subject, t.issuer, u.Name())
	}
	if ok {
		return nil
	}
	var other subjectUserRecord
	taken, err := d.get(d.subjectUserKey(t.issuer, t.subject), &other)
	if err != nil {
		return err
	}
	if taken && other.User != u {
		return refuse("the token's subject %.80q is %s here, and not %s: the operator rebinds with 'mlsfed user rebind %s'", t.subject, other.User, u, other.User.Name())
	}
	return d.setSubject(b, u, t.issuer, t.subject)
}

func (d *Directory) setSubject(b *pebble.Batch, u wire.UserID, issuer, subject string) error {
	return errors.Join(
		set(b, d.subjectKey(u), &subjectRecord{Version: recordVersion, Issuer: issuer, Subject: subject}),
		set(b, d.subjectUserKey(issuer, subject), &subjectUserRecord{Version: recordVersion, User: u}),
	)
}

// forgetSubject stages that a user is no subject of any issuer.
func (d *Directory) forgetSubject(b *pebble.Batch, u wire.UserID) error {
	var bound subjectRecord
	ok, err := d.get(d.subjectKey(u), &bound)
	if err != nil || !ok {
		return err
	}
	return errors.Join(b.Delete(d.subjectKey(u), nil), b.Delete(d.subjectUserKey(bound.Issuer, bound.Subject), nil))
}

// Subject is the issuer and the subject that a user is bound to; both are "" for a user who is not bound.
func (d *Directory) Subject(u wire.UserID) (issuer, subject string, err error) {
	var r subjectRecord
	if err := d.checkUser("subject", u); err != nil {
		return "", "", err
	}
	_, err = d.get(d.subjectKey(u), &r)
	return r.Issuer, r.Subject, err
}

// Rebind binds a user to a subject of an issuer. With both "", the user is bound to none, and the next token
// that enrols a device of his binds him. Devices stay enrolled. wire.NotFound for an unknown user, Exists
// for a subject that is another user here.
func (d *Directory) Rebind(u wire.UserID, issuer, subject string) error {
	if err := d.checkUser("rebind", u); err != nil {
		return err
	}
	if (issuer == "") != (subject == "") || len(subject) > maxSubject {
		return wire.Errorf(wire.Malformed, "rebind", "wanted an issuer and a subject of at most %d bytes, or neither", maxSubject)
	}
	d.subjects.Lock()
	defer d.subjects.Unlock()
	return d.update(u, func(b *pebble.Batch) error {
		ok, err := d.get(d.userKey(u), new(userRecord))
		if err != nil {
			return err
		}
		if !ok {
			return wire.Errorf(wire.NotFound, "rebind", "%s", u)
		}
		if err := d.forgetSubject(b, u); err != nil || issuer == "" {
			return err
		}
		var other subjectUserRecord
		taken, err := d.get(d.subjectUserKey(issuer, subject), &other)
		if err != nil {
			return err
		}
		if taken && other.User != u {
			return wire.Errorf(wire.Exists, "rebind", "%.80q is %s here: rebind that user first", subject, other.User)
		}
		return d.setSubject(b, u, issuer, subject)
	})
}
