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
	// verifyBatch reports that validate would accept all public keys, and that all signatures are
	// good. If it does not, some may still be good.
	verifyBatch([]signedItem) bool
}

// batchSize bounds the memory that a batch takes, some 2 kB a signature; the cost for each signature
// falls little beyond it.
const batchSize = 4096

// leastBatch is not divided among processors: the cost for each signature of two halves would be half as
// much again.
const leastBatch = 64

// verifyBatch checks 8·Σ zᵢ(sᵢB − Rᵢ − kᵢAᵢ) = 0 with coefficients zᵢ of 128 bits that depend on all
// signatures, so that nobody can choose signatures whose errors cancel out.
//
// This is the cofactored predicate: it also accepts signatures that miss by a point of small order,
// which crypto/ed25519 refuses. Only a holder of the private key can make such a signature. It is used
// for the leaves of a tree that is being joined and nowhere else: there it can let in a leaf that the
// members refused one by one, which is not in their tree, so that the tree hash differs.
//
// Decompressing a key is a sixth of what its signature costs, so that the key is validated here too.
func (ed25519Scheme) verifyBatch(items []signedItem) bool {
	points := make([]edwards25519.Point, 2*len(items)) // Rᵢ, Aᵢ
	scalars := make([]edwards25519.Scalar, 2*len(items))
	digests := make([]byte, 0, 96*len(items)) // kᵢ before its reduction, and sᵢ
	h := sha512.New()
	for i, item := range items {
		if len(item.pub) != 32 || len(item.signature) != 64 {
			return false
		}
		if _, err := points[2*i].SetBytes(item.signature[:32]); err != nil {
			return false
		}
		a := &points[2*i+1]
		if _, err := a.SetBytes(item.pub); err != nil || !reducedEd25519(item.pub) || smallOrderEd25519(a) {
			return false
		}
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
	sum := multiScalar(scalars, points) // Σ zᵢRᵢ + zᵢkᵢAᵢ
	left := new(edwards25519.Point).ScalarBaseMult(base)
	return smallOrderEd25519(left.Subtract(left, sum))
}

// smallOrderEd25519 says whether 8·p is the identity.
func smallOrderEd25519(p *edwards25519.Point) bool {
	var q edwards25519.Point
	return q.MultByCofactor(p).Equal(edwards25519.NewIdentityPoint()) == 1
}

// batchCoefficients gives numbers of 128 bits that depend on everything that is being verified: kᵢ is a
// hash of Rᵢ, the key and the message.
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

// multiScalar computes Σ scalars·points by Pippenger's method: for each digit of the scalars the points
// are put into buckets by that digit, and the buckets added up with their weights. It runs in variable
// time; everything here is public.
func multiScalar(scalars []edwards25519.Scalar, points []edwards25519.Point) *edwards25519.Point {
	width := digitWidth(len(points))
	windows := scalarBits/width + 1 // one bit more than a scalar has, for the last carry
	digits := make([]int16, windows*len(scalars))
	for i := range scalars {
		signedDigits(digits[i:], len(scalars), scalars[i].Bytes(), width)
	}
	sum := edwards25519.NewIdentityPoint()
	buckets := make([]edwards25519.Point, 1<<(width-1))
	used := make([]bool, len(buckets))
	for w := windows - 1; w >= 0; w-- {
		for range width {
			sum.Double(sum)
		}
		clear(used)
		for i, d := range digits[w*len(points) : (w+1)*len(points)] {
			if d == 0 {
				continue
			}
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
		sum.Add(sum, weighted(buckets, used))
	}
	return sum
}

// digitWidth chooses how many bits a digit has: the wider, the fewer the digits, and the more the buckets.
func digitWidth(points int) int {
	best, least := 0, 0
	for width := 3; width <= 13; width++ {
		if additions := (scalarBits/width + 1) * (points*3/4 + 1<<width); best == 0 || additions < least {
			best, least = width, additions
		}
	}
	return best
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
