package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"

	"github.com/mlsfed/mlsfed/audit"
	"github.com/mlsfed/mlsfed/directory"
	"github.com/mlsfed/mlsfed/gateway"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// devices lets devices in, by what the directory knows of them.
type devices struct {
	domain    wire.Domain
	directory *directory.Directory
	issuer    issuerState
	mail      *mail
	online    *online
	audit     *auditor
}

var _ gateway.Devices = (*devices)(nil)

// Login checks a device's signature, and renews a certificate that ended while the device was away.
func (v *devices) Login(_ context.Context, d wire.DeviceID, input, signature []byte) (wire.Time, error) {
	return v.directory.Admit(d, input, signature)
}

// Enrol enrols a device and tells the user's others.
func (v *devices) Enrol(ctx context.Context, q *wire.EnrolRequest) (*wire.ChainAnswer, error) {
	e := directory.Enrolment{Device: q.Device, Key: q.Key, Proof: q.Proof}
	var chain [][]byte
	by := "token"
	before, err := v.directory.Device(q.Device)
	repeated := err == nil && bytes.Equal(before.Key, q.Key)
	switch {
	case q.Code != "":
		by = "invitation"
		chain, err = v.directory.Enrol(q.Code, e)
	case !v.issuer.configured:
		err = wire.Errorf(wire.Denied, "enrol", "this organization takes no tokens: ask for an invitation")
	default:
		var tokens *directory.Tokens
		if tokens, err = v.issuer.get("enrol"); err == nil {
			chain, err = v.directory.EnrolByToken(ctx, tokens, q.Token, e)
		}
	}
	if err != nil {
		return nil, err
	}
	if err := v.mail.inbox(ctx, q.Device); err != nil {
		return nil, err
	}
	v.online.tellOthers(ctx, q.Device, wire.NoticeEnrolled)
	if !repeated {
		with := map[string]string{"by": by, "key": directory.KeyNonce(q.Key)}
		if issuer, subject, err := v.directory.Subject(q.Device.User()); err == nil && by != "invitation" {
			with["issuer"], with["subject"] = issuer, subject
		}
		v.audit.note(audit.DeviceEnrolled, byDevice(q.Device), string(q.Device), with)
	}
	return &wire.ChainAnswer{Chain: chain}, nil
}

// online reaches devices: their inboxes, and their sessions.
type online struct {
	directory  *directory.Directory
	mail       *mail
	disconnect func(wire.DeviceID)
	log        *slog.Logger
}

// tellOthers puts a notice about a device into the inboxes of the user's other ones.
func (o *online) tellOthers(ctx context.Context, d wire.DeviceID, about wire.NoticeType) {
	list, err := o.directory.Devices(d.User())
	if err != nil {
		o.log.Warn("other devices not told", "device", d, "error", err)
		return
	}
	for _, other := range list {
		if other != d {
			o.tell(ctx, other, &wire.Notice{Type: about, Device: d})
		}
	}
}

// tell puts a notice into a device's inbox. A notice that is lost does no harm: devices look for
// themselves when they connect.
func (o *online) tell(ctx context.Context, d wire.DeviceID, n *wire.Notice) {
	payload, err := wire.Encode(n)
	if err != nil {
		o.log.Error("notice not encoded", "error", err)
		return
	}
	var id mailbox.ID
	_, _ = rand.Read(id[:]) // never fails
	results, err := o.mail.box.Put(ctx, mailbox.Put{Stream: mailbox.Inbox(d), ID: id, Kind: mailbox.KindNotice, Payload: payload})
	if err == nil {
		err = results[0].Err
	}
	if err != nil {
		o.log.Warn("notice not stored", "device", d, "error", err)
	}
}

// low tells a device that others have claimed most of its KeyPackages.
func (o *online) low(ctx context.Context, l directory.Low) {
	o.tell(ctx, l.Device, &wire.Notice{Type: wire.NoticeKeyPackages, Suite: uint16(l.Suite), Left: uint32(l.Left)})
}

// revoked ends the sessions of a device that the directory has revoked, and what waits for it.
func (o *online) revoked(ctx context.Context, d wire.DeviceID) {
	o.disconnect(d)
	o.tellOthers(ctx, d, wire.NoticeRevoked)
	list, err := o.mail.streams.of(d)
	errs := []error{err, o.mail.box.Remove(ctx, mailbox.Inbox(d))}
	for _, r := range list {
		errs = append(errs, o.leave(ctx, r), o.mail.streams.drop(d, r))
	}
	if err := errors.Join(errs...); err != nil {
		o.log.Warn("what waits for a revoked device stays until it expires", "device", d, "error", err)
	}
}

// refuse gives up an address of a device in a conversation. What the directory notes comes first: after a
// crash in between the device refuses again.
func (r *router) refuse(ctx context.Context, d wire.DeviceID, q *wire.RefuseRequest) (any, error) {
	if err := r.directory.Refuse(d, q.Conversation, q.Token); err != nil {
		return nil, err
	}
	gone := reader{q.Conversation, q.Token}
	return nil, errors.Join(r.online.leave(ctx, gone), r.streams.drop(d, gone))
}

// leave ends a reader as if it had read everything, so that it holds nothing back.
func (o *online) leave(ctx context.Context, r reader) error {
	name := mailbox.Conversation(r.Conversation)
	err := o.mail.box.Change(ctx, name, nil, []wire.Token{r.Token})
	if err == nil {
		var end uint64
		if _, end, err = o.mail.box.Cursor(ctx, name, r.Token); err == nil {
			err = o.mail.box.Acknowledge(ctx, name, r.Token, end)
		}
	}
	if wire.CodeOf(err) == wire.UnknownConversation {
		return nil
	}
	return err
}
