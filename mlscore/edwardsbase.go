package mlscore

import (
	"encoding/binary"
	"sync"

	fp "github.com/cloudflare/circl/math/fp25519"
)

// edParts is the number of parts of a scalar, with a table for each part: the computation needs an eighth of the
// doublings of a single table.
const edParts = 8

// edPartBits is the length of a part.
const edPartBits = 256 / edParts

// Widths of the digits of a scalar, which determine the size of tables. The tables of the base point are computed
// once.
const (
	edKeyWidth  = 5 // 8 multiples of a point
	edBaseWidth = 7 // 32
)

// edBaseTable contains the odd multiples of the base point times 2^(edPartBits·i), for each part i.
var edBaseTable = sync.OnceValue(func() *[edParts][1 << (edBaseWidth - 2)]edAffine {
	var out [edParts][1 << (edBaseWidth - 2)]edAffine
	p := edBase
	for part := range out {
		points := make([]edPoint, len(out[part]))
		twice := p
		twice.double(true)
		var step edCached
		twice.ready(&step)
		points[0] = p
		for i := range points[1:] {
			points[i+1] = points[i]
			points[i+1].add(&step, false, true)
		}
		edToAffine(out[part][:], points)
		for i := range edPartBits {
			p.double(i == edPartBits-1)
		}
	}
	return &out
})

// edCombTable contains, for each i below 32, the multiples 1 to 8 of the base point times 256^i, as words: sum, diff
// and t2d of an edAffine.
var edCombTable = sync.OnceValue(func() *[32][8][12]uint64 {
	var out [32][8][12]uint64
	p := edBase
	points := make([]edPoint, 0, 256)
	for range out {
		var step edCached
		p.ready(&step)
		sum := p
		for k := range 8 {
			if k > 0 {
				sum.add(&step, false, true)
			}
			points = append(points, sum)
		}
		for i := range 8 {
			p.double(i == 7)
		}
	}
	ready := make([]edAffine, len(points))
	edToAffine(ready, points)
	for i := range ready {
		for part, e := range []*fp.Elt{&ready[i].sum, &ready[i].diff, &ready[i].t2d} {
			fp.Modp(e)
			for w := range 4 {
				out[i/8][i%8][4*part+w] = binary.LittleEndian.Uint64(e[8*w:])
			}
		}
	}
	return &out
})

// x25519Base computes the public key of an X25519 private key (RFC 7748 §5): a multiple of the base point. It
// multiplies on the birationally equivalent edwards25519, for which there are tables of the base point. Its time does
// not depend on the key.
func x25519Base(private *[32]byte) (u [32]byte) {
	var digits [64]int8 // in base 16, from −8 to 8
	scalar := *private
	scalar[0] &= 248
	scalar[31] = scalar[31]&127 | 64
	for i, b := range scalar {
		digits[2*i], digits[2*i+1] = int8(b&15), int8(b>>4)
	}
	carry := int8(0)
	for i := range digits[:63] {
		digits[i] += carry
		carry = (digits[i] + 8) >> 4
		digits[i] -= carry << 4
	}
	digits[63] += carry // at most 8, since the scalar is below 2²⁵⁵
	table := edCombTable()
	var p edPoint
	var q edAffine
	p.identity()
	for i := 1; i < 64; i += 2 {
		q.pick(&table[i/2], digits[i])
		p.addAffine(&q, false, true)
	}
	for i := range 4 {
		p.double(i == 3)
	}
	for i := 0; i < 64; i += 2 {
		q.pick(&table[i/2], digits[i])
		p.addAffine(&q, false, true)
	}
	// u = (1+y)/(1−y); y is not 1, since no private key is a multiple of the order
	var above, below fp.Elt
	fp.Add(&above, &p.z, &p.y)
	fp.Sub(&below, &p.z, &p.y)
	fp.Inv(&below, &below)
	fp.Mul(&above, &above, &below)
	fp.Modp(&above)
	return above
}

// pick sets q to a multiple, from −8 to 8, of the first entry of a table, in constant time.
func (q *edAffine) pick(table *[8][12]uint64, digit int8) {
	negative := uint64(uint8(digit) >> 7)
	size := uint64(uint8(digit^-int8(negative)) + uint8(negative))
	var words [12]uint64
	zero := (size - 1) >> 63 // 1 for the digit 0, which is not in the table
	words[0], words[4] = zero, zero
	for k := range table {
		mask := -(((size ^ uint64(k+1)) - 1) >> 63)
		for w := range words {
			words[w] |= table[k][w] & mask
		}
	}
	for w := range 4 {
		binary.LittleEndian.PutUint64(q.sum[8*w:], words[w])
		binary.LittleEndian.PutUint64(q.diff[8*w:], words[4+w])
		binary.LittleEndian.PutUint64(q.t2d[8*w:], words[8+w])
	}
	fp.Cswap(&q.sum, &q.diff, uint(negative))
	var other fp.Elt
	fp.Neg(&other, &q.t2d)
	fp.Cmov(&q.t2d, &other, uint(negative))
}
