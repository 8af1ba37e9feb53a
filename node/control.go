package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/mlsfed/mlsfed/internal/audit"
	"github.com/mlsfed/mlsfed/internal/private"
	"github.com/mlsfed/mlsfed/wire"
)

// The control socket serves the operator's commands: HTTP with JSON over a Unix socket that only the node's own user
// can open. That user can read the data folder anyway.

// Invitation is the answer to an invitation of a user.
type Invitation struct {
	User    wire.UserID `json:"user"`
	Code    string      `json:"code"`
	Ends    time.Time   `json:"ends"`
	Gateway string      `json:"gateway"` // host:port of the node's gateway
	Domain  wire.Domain `json:"domain"`
	// Root is the SHA-256 of the organization's root certificate in hexadecimal, where devices have to
	// pin it; "" where the gateway's certificate is one that systems trust.
	Root string `json:"root,omitempty"`
}

// User is a user of the organization.
type User struct {
	ID      wire.UserID `json:"id"`
	Created time.Time   `json:"created"`
	Devices []Device    `json:"devices"`
}

// Device is a device of a user.
type Device struct {
	ID              wire.DeviceID `json:"id"`
	Enrolled        time.Time     `json:"enrolled"`
	CertificateEnds time.Time     `json:"certificate_ends"`
}

// maxControl bounds the body of a request, in bytes.
const maxControl = 64 << 10

// listenControl opens the socket, and replaces a socket that a crash has left.
func listenControl(path string) (net.Listener, error) {
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("control socket %s: a node is running on this data folder already", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l, err := private.Listen(path)
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w (a path of more than 100 bytes does not work: set admin.socket)", path, err)
	}
	return l, nil
}

// control returns the handler of the socket.
func (n *Node) control() http.Handler {
	mux := http.NewServeMux()
	handle(mux, "POST /users/invite", n.inviteUser)
	handle(mux, "GET /users", n.listUsers)
	handle(mux, "POST /users/remove", n.removeUser)
	handle(mux, "POST /users/rebind", n.rebindUser)
	handle(mux, "POST /devices/revoke", n.revokeDevice)
	handle(mux, "GET /status", n.serveStatus)
	handle(mux, "POST /conversations/recover", n.recoverConversation)
	handle(mux, "POST /conversations/release", n.releaseConversation)
	handle(mux, "POST /conversations/drop", n.dropKept)
	mux.HandleFunc("GET /backup", n.serveBackup)
	return mux
}

// handle registers a function with a JSON body and a JSON answer.
func handle[Q, A any](mux *http.ServeMux, pattern string, fn func(context.Context, *Q) (A, error)) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		q := new(Q)
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxControl))
		d.DisallowUnknownFields()
		if err := d.Decode(q); err != nil && !errors.Is(err, io.EOF) {
			answer(w, http.StatusBadRequest, wire.Errorf(wire.Malformed, "control", "%v", err))
			return
		}
		a, err := fn(r.Context(), q)
		if err != nil {
			answer(w, http.StatusUnprocessableEntity, plainError(err))
			return
		}
		answer(w, http.StatusOK, a)
	})
}

// plainError returns the error for the operator with its whole text; a device does not get that.
func plainError(err error) *wire.Error {
	var e *wire.Error
	if errors.As(err, &e) {
		return e
	}
	return wire.Errorf(wire.Internal, "control", "%v", err)
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a failure means that the client does not read
}

type inviteUser struct {
	User    wire.UserID `json:"user"`
	Seconds int64       `json:"seconds"`
}

func (n *Node) inviteUser(ctx context.Context, q *inviteUser) (*Invitation, error) {
	life := time.Duration(q.Seconds) * time.Second
	if life <= 0 {
		life = 24 * time.Hour
	}
	i, err := n.Invite(ctx, q.User, life)
	if err == nil {
		n.audit.note(audit.UserInvited, byCaller(ctx), string(q.User), map[string]string{"ends": i.Ends.Format(time.RFC3339)})
	}
	return i, err
}

// Invite creates a code with which one device of a user can be enrolled, once, within life.
func (n *Node) Invite(ctx context.Context, u wire.UserID, life time.Duration) (*Invitation, error) {
	if err := n.own(u); err != nil {
		return nil, err
	}
	if n.cfg.OrdersOnly {
		return nil, wire.Errorf(wire.Invalid, "invite", "%s orders conversations only: invite %s at a node of %s that has devices", n.cfg.Node, u, n.cfg.Domain)
	}
	code, err := n.directory.Invite(ctx, u, life)
	if err != nil {
		return nil, err
	}
	return &Invitation{
		User: u, Code: code, Ends: time.Now().Add(life).UTC().Truncate(time.Second), Gateway: n.GatewayAddress(), Domain: n.cfg.Domain, Root: n.pin,
	}, nil
}

// own refuses users of other organizations.
func (n *Node) own(u wire.UserID) error {
	if err := u.Check(); err != nil {
		return wire.Errorf(wire.Malformed, "user", "%v", err)
	}
	if u.Organization() != n.cfg.Domain {
		return wire.Errorf(wire.Invalid, "user", "%s is not a user of %s: ask the operator of %s", u, n.cfg.Domain, u.Organization())
	}
	return nil
}

type nothing struct{}

func (n *Node) listUsers(ctx context.Context, _ *nothing) ([]User, error) {
	list, err := n.directory.Users(ctx)
	if err != nil {
		return nil, err
	}
	users := make([]User, 0, len(list))
	for _, u := range list {
		user := User{ID: u.ID, Created: u.Created.Std(), Devices: []Device{}}
		for _, id := range u.Devices {
			if d, err := n.directory.Device(ctx, id); err == nil {
				user.Devices = append(user.Devices, Device{ID: id, Enrolled: d.Enrolled.Std(), CertificateEnds: d.NotAfter.Std()})
			}
		}
		users = append(users, user)
	}
	return users, nil
}

type removeUser struct {
	User wire.UserID `json:"user"`
}

func (n *Node) removeUser(ctx context.Context, q *removeUser) (*nothing, error) {
	if err := n.own(q.User); err != nil {
		return nil, err
	}
	list, err := n.directory.Devices(ctx, q.User)
	if err != nil {
		return nil, err
	}
	if err := n.directory.RemoveUser(ctx, q.User); err != nil {
		return nil, err
	}
	n.audit.note(audit.UserRemoved, byCaller(ctx), string(q.User), map[string]string{"devices": strconv.Itoa(len(list))})
	for _, d := range list {
		n.online.revoked(ctx, d)
	}
	return &nothing{}, nil
}

type rebindUser struct {
	User    wire.UserID `json:"user"`
	Subject string      `json:"subject,omitempty"` // of the configured issuer; "" for none
}

func (n *Node) rebindUser(ctx context.Context, q *rebindUser) (*nothing, error) {
	if err := n.own(q.User); err != nil {
		return nil, err
	}
	issuer := ""
	if q.Subject != "" {
		if issuer = n.cfg.OIDC.URL; issuer == "" {
			return nil, wire.Errorf(wire.Invalid, "rebind", "no issuer is configured: set oidc.url, or name no subject")
		}
	}
	if err := n.directory.Rebind(ctx, q.User, issuer, q.Subject); err != nil {
		return nil, err
	}
	n.audit.note(audit.UserRebound, byCaller(ctx), string(q.User), map[string]string{"issuer": issuer, "subject": q.Subject})
	return &nothing{}, nil
}

type revokeDevice struct {
	Device wire.DeviceID `json:"device"`
}

func (n *Node) revokeDevice(ctx context.Context, q *revokeDevice) (*nothing, error) {
	if err := q.Device.Check(); err != nil {
		return nil, wire.Errorf(wire.Malformed, "revoke", "%v", err)
	}
	if err := n.directory.Revoke(ctx, q.Device); err != nil {
		return nil, err
	}
	n.audit.note(audit.DeviceRevoked, byCaller(ctx), string(q.Device), nil)
	n.online.revoked(ctx, q.Device)
	return &nothing{}, nil
}

type recoverConversation struct {
	Conversation string `json:"conversation"`
	Note         string `json:"note"`
}

func (n *Node) recoverConversation(ctx context.Context, q *recoverConversation) (*nothing, error) {
	id, err := wire.ParseConversationID(q.Conversation)
	if err != nil {
		return nil, wire.Errorf(wire.Malformed, "recover", "%v", err)
	}
	if err := n.orders.Recover(ctx, id, q.Note); err != nil {
		return nil, err
	}
	n.audit.note(audit.ConversationRecovered, byCaller(ctx), id.String(), map[string]string{"note": q.Note})
	return &nothing{}, nil
}

type releaseConversation struct {
	Conversation string `json:"conversation"`
}

func (n *Node) releaseConversation(ctx context.Context, q *releaseConversation) (*nothing, error) {
	id, err := wire.ParseConversationID(q.Conversation)
	if err != nil {
		return nil, wire.Errorf(wire.Malformed, "release", "%v", err)
	}
	if err := n.orders.Release(id); err != nil {
		return nil, err
	}
	n.audit.note(audit.ConversationReleased, byCaller(ctx), id.String(), nil)
	return &nothing{}, nil
}

type dropKept struct {
	Conversation string `json:"conversation"`
	Number       uint32 `json:"number"`
}

// dropKept deletes a replica that was replaced and kept.
func (n *Node) dropKept(ctx context.Context, q *dropKept) (*nothing, error) {
	id, err := wire.ParseConversationID(q.Conversation)
	if err != nil {
		return nil, wire.Errorf(wire.Malformed, "drop", "%v", err)
	}
	if err := n.orders.DropAside(id, q.Number); err != nil {
		return nil, err
	}
	n.audit.note(audit.ReplicaDropped, byCaller(ctx), id.String(), map[string]string{"number": fmt.Sprint(q.Number)})
	return &nothing{}, nil
}
