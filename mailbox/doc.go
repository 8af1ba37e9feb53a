// Package mailbox keeps what an organization's devices have yet to read: durable streams of items, and
// how far each reader has come.
//
// # Streams and readers
//
// A [Stream] is what this organization stores of one conversation, or the inbox of one device. An item
// is written once, however many read it. Its place in the stream is its sequence number, from 1,
// without holes. A reader is a mailbox address with a cursor: the highest sequence number that it has
// acknowledged. Who joins with an item reads from that item on; who leaves with one reads up to it.
//
// # What holds
//
//   - An item that Put accepted is on disk (fsync), and it is never shown to a reader before.
//   - An id is accepted once a stream within [Config.DedupeWindow]: a retry gets the first answer. An
//     item with a position in a conversation's log is accepted once for good.
//   - A cursor moves forward only, and never past the end.
//   - What all readers have acknowledged is removed. So is what is older than [Config.MaxAge]: a reader
//     behind it is told of the [Gap].
//   - Removing never reads or rewrites items: it is one deleted range, in the same queue as the appends.
//
// An acknowledgement does not wait for the disk. If the machine fails right after it, the reader is
// given those items again; they are removed only in a batch that follows the acknowledgement in the log.
//
// # Goroutines
//
// [New] starts none. [Mailbox.Run] has two: the notifier, which wakes subscribers of streams that have many;
// the sweeper, which removes. All changes of a stream's state are made on the goroutine of a batch.Writer, which
// [Mailbox.Run] runs too unless others share it. Reads run in their callers.
package mailbox
