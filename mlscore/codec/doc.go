// Package codec reads and writes the presentation language of MLS: the TLS presentation language
// (RFC 8446 §3) with variable-size vector headers (RFC 9420 §2.1.2) and optional values (§2.1.1).
//
// Reading is strict. A vector header must be the shortest that can carry its length, an optional's
// presence octet is 0 or 1, and a value must be followed by nothing. Every length is compared,
// unsigned, with what is left before anything is allocated for it, and a Reader stops at a bounded
// size, number of vector elements and depth of nesting.
//
// Reader and Writer keep the first error and do nothing after it, so that the code that uses them
// reads like the struct it describes:
//
//	r := codec.NewReader(input, codec.DefaultLimits)
//	version := r.Uint16()
//	identity := r.Bytes()
//	if err := r.Finish(); err != nil {
//		return err
//	}
package codec
