package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"

	"github.com/mlsfed/mlsfed/directory"
	"github.com/mlsfed/mlsfed/gateway"
	"github.com/mlsfed/mlsfed/internal/audit"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/wire"
)

// devices authenticates and enrols devices with the data of the directory.
type devices struct {
	domain    wire.Domain
	directory *directory.Directory
	issuer    issuerState
	feeds     *feeds
	online    *online
	audit     *auditor
}

var _ gateway.Devices = (*devices)(nil)

// Login checks a device's signature, and renews a certificate that expired while the device was away.
func (v *devices) Login(ctx context.Context, d wire.DeviceID, input, signature []byte) (wire.Time, error) {
	return v.directory.Admit(ctx, d, input, signature)
}

// Enrol enrols a device and notifies the user's other devices.
func (v *devices) Enrol(ctx context.Context, q *wire.EnrolRequest) (*wire.ChainAnswer, error) {
	e := directory.Enrolment{Device: q.Device, Key: q.Key, Proof: q.Proof}
	var chain [][]byte
	by := "token"
	before, err := v.directory.Device(ctx, q.Device)
	repeated := err == nil && bytes.Equal(before.Key, q.Key)
	switch {
	case q.Code != "":
		by = "invitation"
		chain, err = v.directory.Enrol(ctx, q.Code, e)
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
	ctx = context.WithoutCancel(ctx) // the device is enrolled: the other devices get the notice even if the request ends
	if err := v.feeds.inbox(ctx, q.Device); err != nil {
		return nil, err
	}
	v.online.notifyOthers(ctx, q.Device, wire.NoticeEnrolled)
	if !repeated {
		with := map[string]string{"by": by, "key": directory.KeyNonce(q.Key)}
		if issuer, subject, err := v.directory.Subject(ctx, q.Device.User()); err == nil && by != "invitation" {
			with["issuer"], with["subject"] = issuer, subject
		}
		v.audit.note(audit.DeviceEnrolled, byDevice(q.Device), string(q.Device), with)
	}
	return &wire.ChainAnswer{Chain: chain}, nil
}

// online reaches devices through their inboxes and their sessions.
type online struct {
	directory *directory.Directory
	feeds     *feeds
	sessions  later[*gateway.Gateway]
	log       *slog.Logger
}

// notifyOthers puts a notice about a device into the inboxes of the user's other devices.
func (o *online) notifyOthers(ctx context.Context, d wire.DeviceID, about wire.NoticeType) {
	list, err := o.directory.Devices(ctx, d.User())
	if err != nil {
		o.log.Warn("other devices not notified", "device", d, "error", err)
		return
	}
	for _, other := range list {
		if other != d {
			o.notify(ctx, other, &wire.Notice{Type: about, Device: d})
		}
	}
}

// notify puts a notice into a device's inbox. A lost notice does no harm: devices ask for the state when they
// connect.
func (o *online) notify(ctx context.Context, d wire.DeviceID, n *wire.Notice) {
	payload, err := wire.Encode(n)
	if err != nil {
		o.log.Error("notice not encoded", "error", err)
		return
	}
	var id mailbox.ID
	_, _ = rand.Read(id[:]) // never fails
	results, err := o.feeds.box.Put(ctx, mailbox.Put{Stream: mailbox.Inbox(d), ID: id, Kind: mailbox.KindNotice, Payload: payload})
	if err == nil {
		err = results[0].Err
	}
	if err != nil {
		o.log.Warn("notice not stored", "device", d, "error", err)
	}
}

// low notifies a device that others have claimed most of its KeyPackages.
func (o *online) low(ctx context.Context, l directory.Low) {
	o.notify(ctx, l.Device, &wire.Notice{Type: wire.NoticeKeyPackages, Suite: uint16(l.Suite), Left: uint32(l.Left)})
}

// revoked ends the sessions of a device that the directory has revoked, and removes what waits for the device.
func (o *online) revoked(ctx context.Context, d wire.DeviceID) {
	// The directory has revoked the device for good. A device that revokes itself ends its own request here.
	ctx = context.WithoutCancel(ctx)
	o.sessions.get().Disconnect(d)
	o.notifyOthers(ctx, d, wire.NoticeRevoked)
	list, err := o.feeds.readers.kept.Of(ctx, d)
	errs := []error{err, o.feeds.box.Remove(ctx, mailbox.Inbox(d))}
	for _, r := range list {
		errs = append(errs, o.leave(ctx, r), o.feeds.readers.kept.Drop(ctx, d, r))
	}
	if err := errors.Join(errs...); err != nil {
		o.log.Warn("what waits for a revoked device stays until it expires", "device", d, "error", err)
	}
}

// refuse gives up an address of a device in a conversation. The directory records the refusal first: after a crash in
// between, the device sends the refusal again.
func (r *router) refuse(ctx context.Context, d wire.DeviceID, q *wire.RefuseRequest) (any, error) {
	if err := r.directory.Refuse(ctx, d, q.Conversation, q.Token); err != nil {
		return nil, err
	}
	gone := store.Reader{Conversation: q.Conversation, Token: q.Token}
	return nil, errors.Join(r.online.leave(ctx, gone), r.readers.kept.Drop(ctx, d, gone))
}

// leave ends a reader as if it had read everything, so that the reader does not keep items.
func (o *online) leave(ctx context.Context, r store.Reader) error {
	name := mailbox.Conversation(r.Conversation)
	err := o.feeds.box.Change(ctx, name, nil, []wire.Token{r.Token})
	if err == nil {
		var at []mailbox.ReaderState
		who := inStream(r)
		if at, err = o.feeds.box.ReaderStates(ctx, who); err == nil && at[0].Known {
			err = o.feeds.box.Acknowledge(ctx, mailbox.Ack{Reader: who, Sequence: at[0].End})
		}
	}
	if wire.CodeOf(err) == wire.UnknownConversation {
		return nil
	}
	return err
}
