// Package wire defines the data that crosses a socket or a log: identifiers, submissions, log entries and errors. It
// does no I/O and knows no clock.
//
// # Encoding
//
// All data is CBOR (RFC 8949) in the core deterministic encoding of its section 4.2: structures are maps with small
// integer keys, or arrays if a value is small and frequent. One value has one encoding, and [Decode] enforces that:
// it refuses input that [Encode] would not have written. So it refuses duplicate and unknown keys, indefinite
// lengths, tags, floats instead of integers, and trailing bytes. Signatures and hashes therefore cover the bytes as
// they were sent.
//
// # Limits
//
// [Decode] takes the maximum size from its caller and checks it first. Inside, an array holds at most [MaxElements]
// elements, a map at most 16 pairs, and values nest at most 8 levels deep. Each structure has a Check method for the
// rules that the encoding cannot express; Decode calls it.
//
// # Versions
//
// [Envelope] and [Entry] begin with a version. A reader refuses a version that it does not know with [Version], and
// never guesses. A new field needs a new version: unknown keys are refused.
//
// # Errors
//
// An [Error] has a [Code], on which a program acts, the operation that failed, and a text for people. The whole Error
// crosses the network, so errors.Is(err, wire.StaleEpoch) holds on the other side.
package wire
