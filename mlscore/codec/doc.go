// Package codec reads and writes the presentation language of MLS: the TLS presentation language
// (RFC 8446 §3) with variable-size vector headers (RFC 9420 §2.1.2) and optional values (§2.1.1).
//
// Reading is strict. A vector header must have the shortest form for its length, the presence octet of an optional
// value is 0 or 1, and no bytes may follow a value. Every length is compared, unsigned, with the remaining input
// before memory is allocated for it. Limits bound the input size, the number of vector elements and the depth of
// nesting.
//
// Reader and Writer keep the first error and do nothing after it, so that a decoder reads like the struct that it
// decodes:
//
//	r := codec.NewReader(input, codec.DefaultLimits)
//	version := r.Uint16()
//	identity := r.Bytes()
//	if err := r.Finish(); err != nil {
//		return err
//	}
package codec
