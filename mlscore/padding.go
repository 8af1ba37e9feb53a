package mlscore

import (
	"fmt"
	"math"
	"math/bits"
)

// Padding says how much zero padding a PrivateMessage's content gets (RFC 9420 §6.3.1), so that the
// length of a ciphertext tells less about what is in it. It is a value: comparable, and its zero
// value is NoPadding.
type Padding struct {
	mode     paddingMode
	multiple int
}

type paddingMode uint8

const (
	padNone paddingMode = iota
	padMultiple
	padPadme
)

// NoPadding adds nothing. A ciphertext tells the length of its content to the byte.
func NoPadding() Padding { return Padding{} }

// PadToMultiple pads to the next multiple of n bytes: at most n-1 bytes are added, and a ciphertext
// tells how many times n bytes there are, which for long content is nearly its length. With n of 1
// or less it is NoPadding.
func PadToMultiple(n int) Padding {
	if n <= 1 {
		return NoPadding()
	}
	return Padding{padMultiple, n}
}

// Padme pads as in Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication
// with PURBs" (2019), §4: a length is rounded up until, of its binary digits after the first, only as
// many of the highest are kept as it takes to write its exponent. A ciphertext of up to L bytes then
// tells O(log log L) bits of its length. At most 12% is added, and less to longer content: under 6.3%
// from 256 bytes on, under 3.2% from 64 KiB. Content of up to 8 bytes is not padded at all.
func Padme() Padding { return Padding{mode: padPadme} }

// String names the mode, as in an error or a log.
func (p Padding) String() string {
	switch p.mode {
	case padMultiple:
		return fmt.Sprintf("to a multiple of %d bytes", p.multiple)
	case padPadme:
		return "padmé"
	}
	return "none"
}

// padded gives the padded length of n bytes, at least n. Where it would overflow an int, and for a
// negative n, it is n.
func (p Padding) padded(n int) int {
	switch p.mode {
	case padMultiple:
		if rest := n % p.multiple; rest > 0 {
			return addTo(n, p.multiple-rest)
		}
	case padPadme:
		if n < 2 {
			return n
		}
		exponent := bits.Len(uint(n)) - 1
		free := exponent - bits.Len(uint(exponent)) // low bits that become zero
		if rest := n & (1<<free - 1); rest > 0 {
			return addTo(n, 1<<free-rest)
		}
	}
	return n
}

// addTo adds unless that overflows.
func addTo(n, extra int) int {
	if n > math.MaxInt-extra {
		return n
	}
	return n + extra
}
