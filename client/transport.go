package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/mlsfed/mlsfed/wire"
)

// Conn is the connection of one session: it carries the binary messages of a WebSocket. One goroutine calls Read;
// Write is called by one goroutine at a time. Close makes both return.
type Conn interface {
	// Read returns the next message. If the node gave a reason for ending the session, the error is a *CloseError.
	Read(ctx context.Context) ([]byte, error)
	Write(ctx context.Context, frame []byte) error
	Close() error
}

// Transport reaches a node of the device's organization.
type Transport interface {
	// Dial opens the connection of a session.
	Dial(ctx context.Context) (Conn, error)
	// Enrol posts a request to /v1/enrol. A refusal is a *Error.
	Enrol(ctx context.Context, r *wire.EnrolRequest) (*wire.ChainAnswer, error)
}

// CloseError is the reason that a node gave for ending a session.
type CloseError struct {
	Code wire.CloseCode
	Text string
}

// Error contains the code and the node's text.
func (e *CloseError) Error() string {
	return fmt.Sprintf("session ended by the node (%d): %s", e.Code, wire.Line(e.Text))
}

// final reports whether connecting again cannot succeed until somebody acts.
func (e *CloseError) final() bool {
	switch e.Code {
	case wire.CloseLogin, wire.CloseRevoked, wire.CloseSubprotocol:
		return true
	}
	return false
}

// ErrOffline is the cause if an operation needs the node and its context ended before there was a connection.
var ErrOffline = errors.New("not connected to the organization's node")
