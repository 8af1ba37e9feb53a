package mailbox

import (
	"context"

	"github.com/mlsfed/mlsfed/wire"
)

// Box keeps the streams and cursors of one organization. It is safe for concurrent use. The package documentation has
// the contract, and package mailboxtest has tests that check an implementation against it.
type Box interface {
	// Put appends items, to different streams or the same, in their order, and returns when they are on disk: all that
	// were accepted, or none if the machine fails before. The error concerns the call as a whole, and then nothing is
	// known of the Puts: repeat them with the same ids. If ctx ends first, the items may have been appended.
	Put(ctx context.Context, puts ...Put) ([]Result, error)
	// Change makes readers join and leave a stream without an item: joining makes the stream; a reader that joins
	// reads from the stream's end, and a reader that leaves reads up to it. The change is on disk when Change
	// returns. An existing reader that joins keeps its cursor, and a leaving reader that joins stays. The error is
	// wire.UnknownConversation if no reader joins and there is no such stream.
	Change(ctx context.Context, s Stream, join, leave []wire.Token) error
	// Acknowledge records that readers have all items up to a sequence number. It does not wait for the disk. A
	// number at or below the reader's cursor changes nothing. One beyond the stream's end, or beyond the end of a
	// reader that leaves, is wire.Invalid; an address that does not read the stream is wire.UnknownConversation. The
	// first refusal is returned, and the other acknowledgements are taken.
	Acknowledge(ctx context.Context, acks ...Ack) error
	// Read returns what follows a sequence number, for one of the stream's readers. A reader that left reads up to its
	// last item. A number beyond that end is wire.Invalid. Read does not wait for appends.
	Read(ctx context.Context, s Stream, r wire.Token, after uint64, limit Limit) (Page, error)
	// ReaderStates returns the cursors of readers, in the order of the arguments.
	ReaderStates(ctx context.Context, of ...Reader) ([]ReaderState, error)
	// Position returns the highest position in the conversation's log that the stream has an item for, 0 for none.
	Position(ctx context.Context, s Stream) (uint64, error)
	// Wanted returns the lowest position in the conversation's log whose item some reader of the stream has not
	// acknowledged and can still read. ok is false if all readers have acknowledged all items, and if there is no
	// reader.
	Wanted(ctx context.Context, s Stream) (position uint64, ok bool, err error)
	// Readers returns the number of readers of a stream, with those that have left and not read up to its end.
	Readers(ctx context.Context, s Stream) (int, error)
	// Remove forgets a stream: its items, cursors and position. A missing stream is no error.
	Remove(ctx context.Context, s Stream) error
	// RemoveUnread removes a stream that has no reader, as Readers counts them. A stream with a reader stays.
	RemoveUnread(ctx context.Context, s Stream) error
	// Subscribe returns a subscription without streams. Its Close ends it.
	Subscribe() *Subscription
	// Sweep removes what all readers have acknowledged, and what is older than Config.MaxAge, from all streams. Run
	// does this automatically.
	Sweep(ctx context.Context) error
	// Run does the work of the box until ctx ends or the disk fails. It can be called once. Until it runs, all calls
	// but those that only read wait; after it, they are refused with wire.Unavailable.
	Run(ctx context.Context) error
}

// Reader names a reader of a stream.
type Reader struct {
	Stream Stream
	Token  wire.Token
}

// Ack states that a reader has all items up to a sequence number.
type Ack struct {
	Reader
	Sequence uint64
}

// ReaderState is the place of a reader in its stream.
type ReaderState struct {
	Known        bool   // false if there is no such stream or the address does not read it; then all other fields are 0
	Acknowledged uint64 // up to this item
	End          uint64 // the last item that the reader may read now
	Until        uint64 // the last item that a leaving reader will get; 0 for a reader that stays
}

// Reached waits until a stream has what the conversation's log ordered up to a position.
func Reached(ctx context.Context, b Box, s Stream, position uint64) error {
	sub := b.Subscribe()
	defer sub.Close()
	sub.Add(s)
	for {
		at, err := b.Position(ctx, s)
		if err != nil || at >= position {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-sub.C:
			sub.Ready() // the next item signals again
		}
	}
}
