// Package mailbox keeps what an organization's devices have yet to read: durable streams of items, and
// how far each reader has come.
//
// # Streams and readers
//
// A [Stream] is what this organization stores of one conversation, or the inbox of one device. An item is written
// once for any number of readers. Its place in the stream is its sequence number, from 1, without holes. A reader is
// a mailbox address with a cursor: the highest sequence number that it has acknowledged. A reader that joins with an
// item reads from that item on; one that leaves with an item reads up to it.
//
// # What holds
//
//   - An item that Put accepted is on disk (fsync), and no reader gets it before. The same holds for the readers that
//     join and leave, by Put or by Change.
//   - An id is accepted once a stream within [Config.DedupeWindow]: a retry gets the first answer. An
//     item with a position in a conversation's log is accepted once for good.
//   - A cursor moves forward only, and never past the end.
//   - An item that all readers have acknowledged is removed. So is one that is older than [Config.MaxAge]: a reader
//     behind it gets a [Gap].
//
// # What a crash may lose
//
// A crash may lose acknowledgements, and nothing else that was answered. An acknowledgement does not wait for the
// disk. If the machine fails right after it, the reader is given those items again. Items are removed only by a
// change that is on disk no earlier than the acknowledgement: after a crash, every item that some reader has not
// acknowledged is there. A Put or Change that was not answered is on disk whole, or not at all.
//
// [Box] is the interface. Package mailboxtest checks an implementation against this contract.
package mailbox
