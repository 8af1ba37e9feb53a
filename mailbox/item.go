package mailbox

import "github.com/mlsfed/mlsfed/wire"

// ID names an item within its stream, so that a retry is known: a submission's id, or a hash.
type ID = wire.SubmissionID

// Kind is the kind of an item. A mailbox does not interpret it; 0 is refused.
type Kind uint8

// The kinds of items.
const (
	KindEntry       Kind = iota + 1 // a wire.Committed: what the conversation's log ordered
	KindMessage                     // an application message
	KindJoined                      // in an inbox: the start of a conversation
	KindNotice                      // in an inbox: from the node, for example that KeyPackages run low
	KindUndelivered                 // from the node: messages that another organization will not get
	KindMissed                      // in an inbox, from the node: a message that came after the device was removed
)

// Item is one item of a stream, as a reader gets it.
type Item struct {
	Sequence uint64
	Kind     Kind
	ID       ID
	Time     wire.Time // of acceptance; within a stream it never decreases
	Position uint64    // in the conversation's log; 0 for an item without one
	Payload  []byte
}

// Gap reports that items From to To were removed before the reader read them.
type Gap struct{ From, To uint64 }

// MaxKept bounds the entries that one removal of old items keeps for readers that are away.
const MaxKept = 1024

// Put appends one item to one stream, and changes the stream's readers.
type Put struct {
	Stream  Stream
	ID      ID
	Kind    Kind
	Payload []byte
	// Position is the item's place in the conversation's log. An item whose position is not beyond the
	// stream's highest is a duplicate, however long ago the first one was. A log has accepted the item
	// already, so the quota does not refuse it. 0 for an item that no log orders.
	Position uint64
	// Sender is who brings the item, where that is another organization than the stream's, and Senders how many
	// share the stream's quota, the own organization among them. The sender can fill its share alone.
	Sender  string
	Senders int
	// Join lists new readers, this item being the first that they read. The stream is made if need be.
	Join []wire.Token
	// Leave lists readers for whom this item is the last. They are forgotten when they have acknowledged it.
	Leave []wire.Token
}

// Result is the result of a Put.
type Result struct {
	Sequence  uint64 // of the item; 0 for a duplicate by position that is no longer known by its id
	Duplicate bool   // it had been accepted before
	// Err refuses this Put alone: wire.Quota, TooLarge, Malformed, or UnknownConversation for a stream that no reader
	// has joined.
	Err error
}

// Limit bounds a page. The first item is given even if it is larger than Bytes. A zero field means 1,024
// items or 1 MiB.
type Limit struct{ Items, Bytes int }

// Page holds the items that follow a place in a stream.
type Page struct {
	Gap   *Gap // what came before Items and is removed; nil if nothing
	Items []Item
	// More reports that the stream continues after the last of Items.
	More bool
}
