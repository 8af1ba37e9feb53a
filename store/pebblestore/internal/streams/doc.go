// Package streams implements mailbox.Box in a Pebble database.
//
// # Goroutines
//
// [New] starts none. [Mailbox.Run] has three: one wakes subscriptions of streams that have many, the sweeper removes,
// and one counts what senders have. All changes of a stream's state are made on the goroutine of a batch.Writer, which
// [Mailbox.Run] runs too unless others share it. Reads run in their callers.
//
// Removing never reads or rewrites items: it is one deleted range, in the same queue as the appends.
package streams
