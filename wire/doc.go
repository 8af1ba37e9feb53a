// Package wire holds what crosses a socket or a log: identifiers, submissions, log entries and errors.
// It does no I/O and knows no clock.
//
// # Encoding
//
// Everything is CBOR (RFC 8949) in the core deterministic encoding of its section 4.2: structures are
// maps with small integer keys, or arrays where a value is small and frequent. One value has one
// encoding, and [Decode] enforces it: it refuses input that is not what [Encode] would have written,
// and with it duplicate and unknown keys, indefinite lengths, tags, floats where an integer belongs and
// bytes that follow. What is signed or hashed is therefore signed and hashed as it stands.
//
// # Limits
//
// [Decode] takes the largest size that its caller allows and checks it first. Inside, an array holds at
// most [MaxElements] elements, a map at most 16 pairs, and nesting ends at 8. Each structure has a
// Check method for the rules that the encoding cannot express; Decode calls it.
//
// # Versions
//
// [Envelope] and [Entry] begin with a version. A reader refuses a version that it does not know with
// [Version], and never guesses. A new field is a new version: unknown keys are refused.
//
// # Errors
//
// An [Error] has a [Code], which is what a program acts on, the operation that failed and a text for
// people. It crosses the network whole, so that errors.Is(err, wire.StaleEpoch) holds on the other side.
package wire
