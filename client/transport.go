package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/mlsfed/mlsfed/wire"
)

// Conn is one session's connection: it carries the binary messages of a WebSocket. Read is called by one
// goroutine, Write by one at a time. Close makes both return.
type Conn interface {
	// Read returns the next message. An end that the node gave a reason for is a *CloseError.
	Read(ctx context.Context) ([]byte, error)
	Write(ctx context.Context, frame []byte) error
	Close() error
}

// Transport reaches a node of the device's organization.
type Transport interface {
	// Dial opens the connection of a session.
	Dial(ctx context.Context) (Conn, error)
	// Enrol posts a request to /v1/enrol. A refusal is a *wire.Error.
	Enrol(ctx context.Context, r *wire.EnrolRequest) (*wire.ChainAnswer, error)
}

// CloseError is the reason that a node gave for ending a session.
type CloseError struct {
	Code wire.CloseCode
	Text string
}

// Error names the code and the node's words.
func (e *CloseError) Error() string {
	return fmt.Sprintf("session ended by the node (%d): %s", e.Code, wire.Line(e.Text))
}

// final says whether connecting again is of no use until somebody does something.
func (e *CloseError) final() bool {
	switch e.Code {
	case wire.CloseLogin, wire.CloseRevoked, wire.CloseSubprotocol:
		return true
	}
	return false
}

// ErrOffline is the cause when an operation needs the node and its context ended before there was a
// connection.
var ErrOffline = errors.New("not connected to the organization's node")
