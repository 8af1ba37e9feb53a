package mlscore

import (
	"crypto/sha512"
	"encoding/binary"

	"filippo.io/edwards25519"
)

// signedItem is a signature that is verified together with others.
type signedItem struct{ pub, message, signature []byte }

// batchVerifier is a signature scheme that verifies many signatures together at a lower cost.
type batchVerifier interface {
	// verifyBatch reports whether validate would accept all public keys and all signatures are good. If the result is
	// false, some signatures may still be good.
	verifyBatch([]signedItem) bool
}

// batchSize bounds the memory of a batch, about 0.6 kB per signature. Larger batches would hardly reduce the cost per
// signature.
const batchSize = 4096

// leastBatch is the largest batch that is not divided among processors: in two halves each signature would cost 50%
// more.
const leastBatch = 64

// verifyBatch checks 8·Σ zᵢ(sᵢB − Rᵢ − kᵢAᵢ) = 0 with coefficients zᵢ of 128 bits that depend on all
// signatures, so that nobody can choose signatures whose errors cancel out.
//
// This is the cofactored predicate: it also accepts signatures whose equation fails only by a point of small order,
// which crypto/ed25519 refuses. Only a holder of the private key can make such a signature. The predicate is used
// only for the leaves of a tree that is being joined. There it can accept a leaf that the members refused
// individually; such a leaf is not in the members' tree, so the tree hash differs.
//
// Decompressing a key is a fifth of the cost of its signature, so the key is validated here too.
func (ed25519Scheme) verifyBatch(items []signedItem) bool {
	points := make([]edAffine, 2*len(items)+1) // Rᵢ, Aᵢ, and the base point
	scalars := make([]edwards25519.Scalar, 2*len(items)+1)
	digests := make([]byte, 0, 96*len(items)) // kᵢ before its reduction, and sᵢ
	h := sha512.New()
	var pair [2]edAffinePoint
	for i, item := range items {
		if len(item.pub) != 32 || len(item.signature) != 64 || !reducedEd25519(item.pub) {
			return false
		}
		if !edDecompress(&pair, (*[32]byte)(item.signature), (*[32]byte)(item.pub)) || pair[1].smallOrder() {
			return false
		}
		pair[0].ready(&points[2*i])
		pair[1].ready(&points[2*i+1])
		h.Reset()
		h.Write(item.signature[:32])
		h.Write(item.pub)
		h.Write(item.message)
		digests = append(h.Sum(digests), item.signature[32:]...)
	}
	base := edwards25519.NewScalar() // Σ zᵢsᵢ
	coefficients := newBatchCoefficients(digests)
	var s, k edwards25519.Scalar
	for i := range items {
		digest := digests[96*i : 96*i+96]
		if _, err := s.SetCanonicalBytes(digest[64:]); err != nil {
			return false
		}
		if _, err := k.SetUniformBytes(digest[:64]); err != nil {
			return false
		}
		z := &scalars[2*i]
		coefficients.next(z)
		base.MultiplyAdd(z, &s, base)
		scalars[2*i+1].Multiply(z, &k)
	}
	last := 2 * len(items)
	scalars[last].Negate(base)
	points[last] = edBaseTable()[0][0]
	return multiScalar(scalars, points).smallOrder() // Σ zᵢRᵢ + zᵢkᵢAᵢ − zᵢsᵢB
}

// batchCoefficients generates numbers of 128 bits that depend on all signatures, keys and messages of the batch: kᵢ
// is a hash of Rᵢ, the key and the message.
type batchCoefficients struct {
	seed  [sha512.Size]byte
	block [sha512.Size]byte // four coefficients
	n     uint64
}

func newBatchCoefficients(digests []byte) *batchCoefficients {
	return &batchCoefficients{seed: sha512.Sum512(digests)}
}

// next sets z to the next coefficient.
func (c *batchCoefficients) next(z *edwards25519.Scalar) {
	const size = 16
	at := int(c.n%(sha512.Size/size)) * size
	if at == 0 {
		var b [sha512.Size + 8]byte
		copy(b[:], c.seed[:])
		binary.BigEndian.PutUint64(b[sha512.Size:], c.n)
		c.block = sha512.Sum512(b[:])
	}
	c.n++
	var wide [32]byte
	copy(wide[:], c.block[at:at+size])
	if _, err := z.SetCanonicalBytes(wide[:]); err != nil {
		panic(err) // 128 bits are below the order
	}
}

// scalarBits is the length of the order of the base point.
const scalarBits = 253

// fewPoints is the largest number of points for which a table for each point costs less than buckets for all points.
const fewPoints = 200

// multiScalar computes Σ scalars·points. It runs in variable time; everything here is public.
func multiScalar(scalars []edwards25519.Scalar, points []edAffine) *edPoint {
	if len(points) <= fewPoints {
		return multiScalarFew(scalars, points)
	}
	return multiScalarMany(scalars, points)
}

// multiScalarFew is multiScalar by Straus's method: with odd multiples of each point, and common doublings.
func multiScalarFew(scalars []edwards25519.Scalar, points []edAffine) *edPoint {
	tables := make([][1 << (edKeyWidth - 2)]edCached, len(points))
	digits := make([]edDigits, len(points))
	for i := range points {
		var p edPoint
		p.setAffine(&points[i], false)
		edOddMultiples(tables[i][:], &p)
		sparseDigits(&digits[i], scalars[i].Bytes(), edKeyWidth)
	}
	sum := new(edPoint)
	sum.identity()
	for at := len(edDigits{}) - 1; at >= 0; at-- {
		sum.double(true)
		for i := range digits {
			if d := int(digits[i][at]); d > 0 {
				sum.add(&tables[i][d/2], false, true)
			} else if d < 0 {
				sum.add(&tables[i][-d/2], true, true)
			}
		}
	}
	return sum
}

// multiScalarMany is multiScalar by Pippenger's method: for each digit of the scalars the points are added into
// buckets by that digit, and the buckets are added with their weights.
func multiScalarMany(scalars []edwards25519.Scalar, points []edAffine) *edPoint {
	width := digitWidth(len(points))
	windows := scalarBits/width + 1 // one bit more than a scalar, for the last carry
	digits := make([]int16, windows*len(scalars))
	for i := range scalars {
		signedDigits(digits[i:], len(scalars), scalars[i].Bytes(), width)
	}
	sum := new(edPoint)
	sum.identity()
	buckets := make([]edPoint, 1<<(width-1))
	used := make([]bool, len(buckets))
	for w := windows - 1; w >= 0; w-- {
		for i := range width {
			sum.double(i == width-1)
		}
		clear(used)
		for i, d := range digits[w*len(points) : (w+1)*len(points)] {
			if d == 0 {
				continue
			}
			at := int(max(d, -d)) - 1
			if used[at] {
				buckets[at].addAffine(&points[i], d < 0, true)
			} else {
				buckets[at].setAffine(&points[i], d < 0)
			}
			used[at] = true
		}
		var all edCached
		total := weighted(buckets, used)
		total.ready(&all)
		sum.add(&all, false, true)
	}
	return sum
}

// digitWidth chooses the number of bits of a digit: wider digits are fewer, but need more buckets.
func digitWidth(points int) int {
	best, least := 0, 0
	for width := 3; width <= 13; width++ {
		if additions := (scalarBits/width + 1) * (points*3/4 + 1<<width); best == 0 || additions < least {
			best, least = width, additions
		}
	}
	return best
}

// weighted returns Σ (i+1)·buckets[i].
func weighted(buckets []edPoint, used []bool) *edPoint {
	running, total := new(edPoint), new(edPoint)
	running.identity()
	total.identity()
	started := false
	var q edCached
	for i := len(buckets) - 1; i >= 0; i-- {
		if used[i] {
			buckets[i].ready(&q)
			running.add(&q, false, true)
			started = true
		}
		if started {
			running.ready(&q)
			total.add(&q, false, true)
		}
	}
	return total
}

// signedDigits writes a little-endian scalar in base 2^width with digits from -2^(width-1) to
// 2^(width-1), to each stride-th place of out.
func signedDigits(out []int16, stride int, le []byte, width int) {
	var words [5]uint64
	for k := range 4 {
		words[k] = binary.LittleEndian.Uint64(le[8*k:])
	}
	carry := 0
	for w := 0; w*width <= scalarBits; w++ {
		word, shift := w*width/64, w*width%64
		bits := words[word]>>shift | words[word+1]<<1<<(63-shift)
		v := int(bits&(1<<width-1)) + carry
		carry = 0
		if v > 1<<(width-1) {
			v -= 1 << width
			carry = 1
		}
		out[w*stride] = int16(v)
	}
}
