package mlscore

import (
	"crypto/sha512"
	"encoding/binary"

	"filippo.io/edwards25519"
)

// signedItem is a signature to be verified with others.
type signedItem struct{ pub, message, signature []byte }

// batchVerifier is a signature scheme that verifies many signatures for less than their sum.
type batchVerifier interface {
	// verifyBatch reports that all signatures are good. If it does not, some may still be good.
	verifyBatch([]signedItem) bool
}

// batchSize is where the cost for each signature stops falling.
const batchSize = 1024

// verifyBatch checks 8·Σ zᵢ(sᵢB − Rᵢ − kᵢAᵢ) = 0 with coefficients zᵢ of 128 bits that depend on all
// signatures, so that nobody can choose signatures whose errors cancel out.
//
// This is the cofactored predicate: it also accepts signatures that miss by a point of small order,
// which crypto/ed25519 refuses. Only a holder of the private key can make such a signature. It is used
// for the leaves of a tree that is being joined and nowhere else: there it can let in a leaf that the
// members refused one by one, which is not in their tree, so that the tree hash differs.
func (ed25519Scheme) verifyBatch(items []signedItem) bool {
	n := len(items)
	points := make([]edwards25519.Point, 2*n)
	scalars := make([]edwards25519.Scalar, 2*n)
	seed := batchSeed(items)
	base := edwards25519.NewScalar()
	for i, item := range items {
		if len(item.pub) != 32 || len(item.signature) != 64 {
			return false
		}
		r, a := &points[2*i], &points[2*i+1]
		if _, err := r.SetBytes(item.signature[:32]); err != nil {
			return false
		}
		if _, err := a.SetBytes(item.pub); err != nil {
			return false
		}
		s, err := edwards25519.NewScalar().SetCanonicalBytes(item.signature[32:])
		if err != nil {
			return false
		}
		h := sha512.New()
		h.Write(item.signature[:32])
		h.Write(item.pub)
		h.Write(item.message)
		k, err := edwards25519.NewScalar().SetUniformBytes(h.Sum(nil))
		if err != nil {
			return false
		}
		z := &scalars[2*i]
		batchCoefficient(z, seed, i)
		base.MultiplyAdd(z, s, base)
		scalars[2*i+1].Multiply(z, k)
	}
	sum := multiScalar(scalars, points) // Σ zᵢRᵢ + zᵢkᵢAᵢ
	left := new(edwards25519.Point).ScalarBaseMult(base)
	left.Subtract(left, sum)
	return left.MultByCofactor(left).Equal(edwards25519.NewIdentityPoint()) == 1
}

// batchSeed hashes everything that is being verified.
func batchSeed(items []signedItem) []byte {
	h := sha512.New()
	for _, item := range items {
		for _, b := range [...][]byte{item.pub, item.signature, item.message} {
			h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(b))))
			h.Write(b)
		}
	}
	return h.Sum(nil)
}

// batchCoefficient sets z to the i-th coefficient.
func batchCoefficient(z *edwards25519.Scalar, seed []byte, i int) {
	b := binary.BigEndian.AppendUint64(append(make([]byte, 0, 80), seed...), uint64(i))
	h := sha512.Sum512(b)
	var wide [32]byte
	copy(wide[:], h[:16])
	if _, err := z.SetCanonicalBytes(wide[:]); err != nil {
		panic(err) // 128 bits are below the order
	}
}

// multiScalar computes Σ scalars·points by Pippenger's method: for each digit of the scalars the points
// are put into buckets by that digit, and the buckets added up with their weights. It runs in variable
// time; everything here is public.
func multiScalar(scalars []edwards25519.Scalar, points []edwards25519.Point) *edwards25519.Point {
	width := 4
	for width < 12 && len(points) > 6<<width {
		width++
	}
	digits := make([][]int16, len(scalars))
	for i := range scalars {
		digits[i] = signedDigits(scalars[i].Bytes(), width)
	}
	windows := (256+width-1)/width + 1
	sum := edwards25519.NewIdentityPoint()
	buckets := make([]edwards25519.Point, 1<<(width-1))
	used := make([]bool, len(buckets))
	for w := windows - 1; w >= 0; w-- {
		for range width {
			sum.Add(sum, sum)
		}
		clear(used)
		any := false
		for i := range points {
			d := digits[i][w]
			if d == 0 {
				continue
			}
			any = true
			at := int(max(d, -d)) - 1
			b := &buckets[at]
			switch {
			case !used[at] && d > 0:
				b.Set(&points[i])
			case !used[at]:
				b.Negate(&points[i])
			case d > 0:
				b.Add(b, &points[i])
			default:
				b.Subtract(b, &points[i])
			}
			used[at] = true
		}
		if any {
			sum.Add(sum, weighted(buckets, used))
		}
	}
	return sum
}

// weighted is Σ (i+1)·buckets[i].
func weighted(buckets []edwards25519.Point, used []bool) *edwards25519.Point {
	running := edwards25519.NewIdentityPoint()
	total := edwards25519.NewIdentityPoint()
	started := false
	for i := len(buckets) - 1; i >= 0; i-- {
		if used[i] {
			running.Add(running, &buckets[i])
			started = true
		}
		if started {
			total.Add(total, running)
		}
	}
	return total
}

// signedDigits writes a little-endian scalar in base 2^width with digits from -2^(width-1) to
// 2^(width-1).
func signedDigits(le []byte, width int) []int16 {
	n := (256+width-1)/width + 1
	out := make([]int16, n)
	carry := 0
	for w := range n {
		bit := w * width
		v := carry
		for k := range width {
			if at := bit + k; at < 256 {
				v += int(le[at/8]>>(at%8)&1) << k
			}
		}
		carry = 0
		if v > 1<<(width-1) {
			v -= 1 << width
			carry = 1
		}
		out[w] = int16(v)
	}
	return out
}
