// Package timeline computes how the messages of a conversation look from the contents that a device has seen.
//
// Application messages have no common order: devices of several organizations see the same contents in different
// orders. The state of a message is therefore a function of the set of contents, and never of their order or of the
// times of their arrival:
//
//   - A message belongs to the user who sent it. Edits of its author count, and the greatest one is shown
//     ([content.CompareEdits]). Edits by others are reported as refused, and never applied.
//   - A delete by the author, or by a moderator, is final. It wins over each edit, whichever comes first.
//   - A message ends at the earliest absolute end that its author has set, in the message or in one of its edits.
//   - Contents that concern a message that has not come are held: [Take] applies them when the message comes.
//
// A message that is deleted or has expired is erased, together with its edits and reactions. Its State remains, so that
// the same contents do not come back.
//
// The package is pure. The caller decides about the rights of moderators, gives the time, and stores the states.
package timeline
