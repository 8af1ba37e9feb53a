// Package audit keeps an append-only log of who did what: enrolments, invitations, revocations, what operators do, and
// links that go up and down.
//
// The log is a folder of text files, one JSON object a line (see [Record]). Each record names the SHA-256 of the line
// before it, over all files, so that a line that was changed, removed or inserted breaks the chain ([Verify]). The chain
// cannot show that its end was cut off, or that all of it was rewritten: keep its head elsewhere ([Mark]), as the
// node's ordinary log does at each start and rotation, and compare it.
//
// Each record is on the disk when Append returns. Several processes may append to one log: they take turns by a lock.
// A full file is renamed to the number of its first record, and a new one continues the chain.
package audit
