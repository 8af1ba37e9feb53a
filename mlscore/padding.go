package mlscore

import (
	"fmt"
	"math"
	"math/bits"
)

// Padding is the amount of zero padding for the content of a PrivateMessage (RFC 9420 §6.3.1), so that the length of
// a ciphertext reveals less about the content. Padding values are comparable; the zero value is NoPadding.
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

// NoPadding adds no padding. A ciphertext reveals the exact length of its content.
func NoPadding() Padding { return Padding{} }

// PadToMultiple pads to the next multiple of n bytes: at most n-1 bytes are added. A ciphertext reveals the multiple,
// which for long content is nearly the length of the content. For n of 1 or less the result is NoPadding.
func PadToMultiple(n int) Padding {
	if n <= 1 {
		return NoPadding()
	}
	return Padding{padMultiple, n}
}

// Padme pads as in Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs"
// (2019), §4: a length is rounded up so that, after its first binary digit, it keeps only as many digits as the
// exponent of the length has; all lower digits become zero. A ciphertext of up to L bytes then reveals O(log log L)
// bits of its length. At most 12% is added, and less to longer content: under 6.3% from 256 bytes on, under 3.2% from
// 64 KiB. Content of up to 8 bytes is not padded.
func Padme() Padding { return Padding{mode: padPadme} }

// String returns the name of the mode, for errors and logs.
func (p Padding) String() string {
	switch p.mode {
	case padMultiple:
		return fmt.Sprintf("to a multiple of %d bytes", p.multiple)
	case padPadme:
		return "padmé"
	}
	return "none"
}

// padded returns the padded length of n bytes, at least n. It returns n if the padded length would overflow an int,
// and if n is negative.
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

// addTo returns n + extra, or n if the sum overflows.
func addTo(n, extra int) int {
	if n > math.MaxInt-extra {
		return n
	}
	return n + extra
}
