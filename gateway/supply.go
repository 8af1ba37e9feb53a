package gateway

import (
	"context"

	"github.com/mlsfed/mlsfed/wire"
)

// Devices knows who may log in.
type Devices interface {
	// Login checks that signature is over input, by the key of a device that is enrolled, not revoked and
	// whose certificate has not ended, and says when it ends. wire.NotFound or wire.Denied refuse; the
	// client is not told which. Any other error is a fault of the node.
	Login(ctx context.Context, d wire.DeviceID, input, signature []byte) (certificateEnds wire.Time, err error)
	// Enrol enrols a device. The request has passed its Check.
	Enrol(ctx context.Context, r *wire.EnrolRequest) (*wire.ChainAnswer, error)
}

// Request is one that a device sent. It has logged in.
type Request struct {
	Device wire.DeviceID
	Method wire.Method
	// Body is what the method takes, decoded and checked: a pointer to the structure that stands behind
	// the method's name in wire/request.go, as *wire.Envelope or *wire.EntriesRequest; nil where it takes
	// nothing.
	Body any
	// Room is how many bytes the encoded answer may have.
	Room int
	// Features are what the device has announced in this session.
	Features wire.Features
}

// Service answers requests.
type Service interface {
	// Serve answers a request with the structure that the method returns, or nil for nothing. An error that
	// is no *wire.Error is logged, and the device learns only wire.Internal. ctx ends with the session, and
	// after Config.RequestWait. Requests of a session that submit to one conversation come one after the other.
	Serve(ctx context.Context, r Request) (answer any, err error)
}

// Mail is what devices have to read.
type Mail interface {
	// Open begins to read for a device. The gateway closes the feed. For a moment, when a newer session
	// replaces an older one, a device may have two.
	Open(ctx context.Context, d wire.DeviceID) (Feed, error)
	// Acknowledge takes an acknowledgement from a device. It must make sure that the stream is one which
	// this device reads: wire.UnknownConversation otherwise, which is passed over, since the device may have
	// left meanwhile. wire.Invalid for what is beyond the stream's end; that ends the session.
	Acknowledge(ctx context.Context, d wire.DeviceID, a wire.Ack) error
}

// Stream names a stream that a device reads, under an address of its. The zero value is its inbox.
type Stream struct {
	Conversation wire.ConversationID
	Token        wire.Token
}

// Feed is the streams of one device. One goroutine calls it, but for Close, which may come at any time,
// once.
type Feed interface {
	// Ready receives after Streams has something new to say. Several changes may be one signal. A new
	// feed is ready.
	Ready() <-chan struct{}
	// Streams returns the streams that may have something to read, since it was last called: at first all
	// that the device reads, then those with new items, and those that the device has joined meanwhile.
	Streams() []Stream
	// Read returns what follows a sequence number, or for 0 what follows the device's cursor, which the
	// mailbox remembers. An item that was removed unread is told as a gap in its place. The pushes need not
	// bear Conversation and Token: the gateway sets them. wire.UnknownConversation if the device does not
	// read the stream any longer.
	Read(ctx context.Context, s Stream, after uint64, limit Limit) (Page, error)
	Close()
}

// Limit bounds a page: pushes, and bytes of payload. The first one is given even if it is larger.
type Limit struct{ Items, Bytes int }

// Page is what follows a place in a stream, in order of sequence.
type Page struct {
	Pushes []wire.Push
	// More says that the stream goes on after the last of Pushes.
	More bool
}
