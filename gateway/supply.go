package gateway

import (
	"context"

	"github.com/mlsfed/mlsfed/wire"
)

// Devices decides on logins and enrolments.
type Devices interface {
	// Login checks that signature is over input, by the key of an enrolled device that is not revoked and whose
	// certificate has not ended. It returns the end of the certificate. wire.NotFound or wire.Denied refuse the
	// login; the client does not learn which. Any other error is a fault of the node.
	Login(ctx context.Context, d wire.DeviceID, input, signature []byte) (certificateEnds wire.Time, err error)
	// Enrol enrols a device. The request has passed its Check.
	Enrol(ctx context.Context, r *wire.EnrolRequest) (*wire.ChainAnswer, error)
}

// A Request was sent by a device that has logged in.
type Request struct {
	Device wire.DeviceID
	Method wire.Method
	// Body is the request, decoded and checked: a pointer to the structure that wire's table of methods has for
	// Method, such as *wire.Envelope; nil for a method that takes nothing.
	Body any
	// Room is the largest size of the encoded answer, in bytes.
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

// Feeds holds the items that devices have to read.
type Feeds interface {
	// Open returns a new feed for a device. The gateway closes it. A device has two feeds for a moment when a newer
	// session replaces an older one.
	Open(ctx context.Context, d wire.DeviceID) (Feed, error)
	// Acknowledge takes acknowledgements from devices, and returns an error or nil for each. It must check that the
	// device reads the stream, and returns wire.UnknownConversation otherwise; the gateway ignores that error, since the
	// device may have left meanwhile. wire.Invalid reports a sequence beyond the stream's end, and ends the session.
	Acknowledge(ctx context.Context, list []Acknowledgement) []error
}

// An Acknowledgement is what a device has read of a stream.
type Acknowledgement struct {
	Device wire.DeviceID
	wire.Ack
}

// A Stream names a stream that a device reads, and the token that the device reads it with. The zero value names the
// device's inbox.
type Stream struct {
	Conversation wire.ConversationID
	Token        wire.Token
}

// A Feed reads the streams of one device. One goroutine calls its methods; another one may call Close, once, at any
// time.
type Feed interface {
	// Ready receives a value when Streams has something new to return. Several changes may cause one signal. A new
	// feed is ready.
	Ready() <-chan struct{}
	// Streams returns the streams that may have items to read since the last call: at first all that the device
	// reads, later those with new items and those that the device has joined.
	Streams(ctx context.Context) []Stream
	// Read returns the items after a sequence number, or for 0 those after the device's cursor, which the mailbox
	// remembers. A gap replaces an item that was removed unread. The gateway sets Conversation and Token of the
	// pushes. The error is wire.UnknownConversation if the device does not read the stream any longer.
	Read(ctx context.Context, s Stream, after uint64, limit Limit) (Page, error)
	Close()
}

// A Limit bounds a page: its pushes, and their bytes of payload. The first push is returned even if it is larger.
type Limit struct{ Items, Bytes int }

// A Page has the items after a place in a stream, in order of sequence.
type Page struct {
	Pushes []wire.Push
	// More reports that the stream has items after the last of Pushes.
	More bool
}
