package mlscore

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"testing"

	"filippo.io/edwards25519"
	"github.com/cloudflare/circl/dh/x25519"
	fp "github.com/cloudflare/circl/math/fp25519"
)

// TestEdwardsArithmetic compares points with those of filippo.io/edwards25519: sums, differences and doubles of
// random points, points of small order, equal points and opposite points.
func TestEdwardsArithmetic(t *testing.T) {
	random := seeded("edwards")
	var list [][]byte
	for range 20 {
		wide := sha512.Sum512(drawn(t, random, 32))
		s := must[*edwards25519.Scalar](t)(edwards25519.NewScalar().SetUniformBytes(wide[:]))
		p := new(edwards25519.Point).ScalarBaseMult(s)
		list = append(list, p.Bytes(), new(edwards25519.Point).Negate(p).Bytes())
	}
	list = append(list, smallOrderPoints(t)...)
	list = append(list, edwards25519.NewGeneratorPoint().Bytes())
	if got := edBase.encode(); !bytes.Equal(got[:], list[len(list)-1]) {
		t.Fatalf("base point %x", got)
	}
	for _, a := range list {
		for _, b := range list {
			var pair [2]edAffinePoint
			if !edDecompress(&pair, (*[32]byte)(a), (*[32]byte)(b)) {
				t.Fatalf("%x or %x is no point", a, b)
			}
			p := must[*edwards25519.Point](t)(new(edwards25519.Point).SetBytes(a))
			q := must[*edwards25519.Point](t)(new(edwards25519.Point).SetBytes(b))
			var affine edAffine
			pair[1].ready(&affine)
			var cached edCached
			other := pair[1].extended()
			other.double(true) // so that z is not 1
			other.ready(&cached)
			twice := new(edwards25519.Point).Add(q, q)
			for _, minus := range []bool{false, true} {
				sum, withTwice := new(edwards25519.Point).Add(p, q), new(edwards25519.Point).Add(p, twice)
				if minus {
					sum.Subtract(p, q)
					withTwice.Subtract(p, twice)
				}
				got, gotTwice := pair[0].extended(), pair[0].extended()
				got.addAffine(&affine, minus, true)
				gotTwice.add(&cached, minus, true)
				samePoint(t, "a sum", &got, sum)
				samePoint(t, "a sum with a double", &gotTwice, withTwice)
				got.double(true)
				samePoint(t, "a double of a sum", &got, sum.Add(sum, sum))
				got.setAffine(&affine, minus)
				one := new(edwards25519.Point).Set(q)
				if minus {
					one.Negate(q)
				}
				samePoint(t, "a point", &got, one)
			}
		}
	}
}

// samePoint compares a point with one of the other library, and checks its t.
func samePoint(t *testing.T, what string, got *edPoint, want *edwards25519.Point) {
	t.Helper()
	if b := got.encode(); !bytes.Equal(b[:], want.Bytes()) {
		t.Fatalf("%s is %x, want %x", what, b, want.Bytes())
	}
	var left, right fp.Elt
	fp.Mul(&left, &got.x, &got.y)
	fp.Mul(&right, &got.z, &got.t)
	fp.Sub(&left, &left, &right)
	if !fp.IsZero(&left) {
		t.Fatalf("%s: x·y is not z·t", what)
	}
	copied := *got
	if copied.smallOrder() != smallOrderEd25519(want) {
		t.Fatalf("%s: the order is not small, or is", what)
	}
}

// smallOrderPoints are the eight points of small order, in their reduced encodings.
func smallOrderPoints(t testing.TB) (list [][]byte) {
	t.Helper()
	p := must[*edwards25519.Point](t)(new(edwards25519.Point).SetBytes(smallOrderY[3][:]))
	q := edwards25519.NewIdentityPoint()
	for range 8 {
		list = append(list, q.Bytes())
		q = new(edwards25519.Point).Add(q, p)
	}
	return list
}

// TestSmallOrderPoints checks that the list of small orders is complete.
func TestSmallOrderPoints(t *testing.T) {
	distinct := map[string]bool{}
	for _, b := range smallOrderPoints(t) {
		distinct[string(b)] = true
		k := newEd25519Public((*[32]byte)(b))
		if k == nil || !k.point.smallOrder() {
			t.Errorf("%x: not of small order", b)
		}
	}
	if len(distinct) != 8 {
		t.Errorf("%d points", len(distinct))
	}
	for _, item := range signedItems(t, 50) {
		if newEd25519Public((*[32]byte)(item.pub)).point.smallOrder() {
			t.Errorf("%x: of small order", item.pub)
		}
	}
}

// TestDecompression checks that this package and filippo.io/edwards25519, which has the predicate of crypto/ed25519,
// accept the same points, alone and as one of two.
func TestDecompression(t *testing.T) {
	random := seeded("decompression")
	var list [][]byte
	for range 400 {
		list = append(list, drawn(t, random, 32))
	}
	for y := range 256 { // near 0 and near p: not reduced, x = 0, both signs
		for _, sign := range []byte{0, 0x80} {
			low, high := make([]byte, 32), bytes.Repeat([]byte{0xff}, 32)
			low[0], high[0] = byte(y), byte(y)
			low[31], high[31] = sign, 0x7f|sign
			list = append(list, low, high)
		}
	}
	good := edwards25519.NewGeneratorPoint().Bytes()
	points := 0
	for _, b := range list {
		want, err := new(edwards25519.Point).SetBytes(b)
		k := newEd25519Public((*[32]byte)(b))
		if (k == nil) != (err != nil) {
			t.Fatalf("%x: %v, and %v elsewhere", b, k != nil, err)
		}
		var pair [2]edAffinePoint
		for at, two := range [][2][]byte{{b, good}, {good, b}} {
			if edDecompress(&pair, (*[32]byte)(two[0]), (*[32]byte)(two[1])) != (err == nil) {
				t.Fatalf("%x as number %d of two: another verdict", b, at)
			}
			if err == nil {
				p := pair[at].extended()
				samePoint(t, fmt.Sprintf("%x as number %d of two", b, at), &p, want)
			}
		}
		if err == nil {
			points++
			p := k.point.extended()
			samePoint(t, fmt.Sprintf("%x", b), &p, want)
		}
	}
	if points < 200 || points > len(list)-200 {
		t.Errorf("%d of %d are points", points, len(list))
	}
}

// TestX25519Base compares public keys with those of circl, for random keys and edge cases.
func TestX25519Base(t *testing.T) {
	random := seeded("x25519 base")
	list := [][]byte{make([]byte, 32), bytes.Repeat([]byte{0xff}, 32), bytes.Repeat([]byte{0x88}, 32), bytes.Repeat([]byte{0x77}, 32), bytes.Repeat([]byte{0x80, 0x7f}, 16)}
	for range 500 {
		list = append(list, drawn(t, random, 32))
	}
	for i := range 64 { // each digit in turn at 8, where the carry begins
		b := make([]byte, 32)
		b[i/2] = 8 << (4 * (i % 2))
		list = append(list, b)
	}
	for _, b := range list {
		var want x25519.Key
		x25519.KeyGen(&want, (*x25519.Key)(b))
		if got := x25519Base((*[32]byte)(b)); got != [32]byte(want) {
			t.Fatalf("public key of %x is %x, want %x", b, got, want)
		}
	}
}

// ed25519Cases are the cases of "Taming the many EdDSAs" (Chalkias, Garillot, Nikolaenko 2020, table 5), with its
// numbers: message, public key, signature.
var ed25519Cases = [12][3]string{
	{"8c93255d71dcab10e8f379c26200f3c7bd5f09d9bc3068d3ef4edeb4853022b6", "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa", "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a0000000000000000000000000000000000000000000000000000000000000000"},
	{"9bd9f44f4dcc75bd531b56b2cd280b0bb38fc1cd6d1230e14861d861de092e79", "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa", "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43a5bb704786be79fc476f91d3f3f89b03984d8068dcf1bb7dfc6637b45450ac04"},
	{"aebf3f2601a0c8c5d39cc7d8911642f740b78168218da8471772b35f9d35b9ab", "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43", "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa8c4bd45aecaca5b24fb97bc10ac27ac8751a7dfe1baff8b953ec9f5833ca260e"},
	{"9bd9f44f4dcc75bd531b56b2cd280b0bb38fc1cd6d1230e14861d861de092e79", "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d", "9046a64750444938de19f227bb80485e92b83fdb4b6506c160484c016cc1852f87909e14428a7a1d62e9f22f3d3ad7802db02eb2e688b6c52fcd6648a98bd009"},
	{"e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec4011eaccd55b53f56c", "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d", "160a1cb0dc9c0258cd0a7d23e94d8fa878bcb1925f2c64246b2dee1796bed5125ec6bc982a269b723e0668e540911a9a6a58921d6925e434ab10aa7940551a09"},
	{"e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec4011eaccd55b53f56c", "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d", "21122a84e0b5fca4052f5b1235c80a537878b38f3142356b2c2384ebad4668b7e40bc836dac0f71076f9abe3a53f9c03c1ceeeddb658d0030494ace586687405"},
	{"85e241a07d148b41e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec40", "442aad9f089ad9e14647b1ef9099a1ff4798d78589e66f28eca69c11f582a623", "e96f66be976d82e60150baecff9906684aebb1ef181f67a7189ac78ea23b6c0e547f7690a0e2ddcd04d87dbc3490dc19b3b3052f7ff0538cb68afb369ba3a514"},
	{"85e241a07d148b41e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec40", "442aad9f089ad9e14647b1ef9099a1ff4798d78589e66f28eca69c11f582a623", "8ce5b96c8f26d0ab6c47958c9e68b937104cd36e13c33566acd2fe8d38aa19427e71f98a473474f2f13f06f97c20d58cc3f54b8bd0d272f42b695dd7e89a8c22"},
	{"9bedc267423725d473888631ebf45988bad3db83851ee85c85e241a07d148b41", "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43", "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff03be9678ac102edcd92b0210bb34d7428d12ffc5df5f37e359941266a4e35f0f"},
	{"9bedc267423725d473888631ebf45988bad3db83851ee85c85e241a07d148b41", "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43", "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffca8c5b64cd208982aa38d4936621a4775aa233aa0505711d8fdcfdaa943d4908"},
	{"e96b7021eb39c1a163b6da4e3093dcd3f21387da4cc4572be588fafae23c155b", "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", "a9d55260f765261eb9b84e106f665e00b867287a761990d7135963ee0a7d59dca5bb704786be79fc476f91d3f3f89b03984d8068dcf1bb7dfc6637b45450ac04"},
	{"39a591f5321bbe07fd5a23dc2f39d025d74526615746727ceefd6e82ae65c06f", "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", "a9d55260f765261eb9b84e106f665e00b867287a761990d7135963ee0a7d59dca5bb704786be79fc476f91d3f3f89b03984d8068dcf1bb7dfc6637b45450ac04"},
}

// TestPublishedEd25519Cases checks the published cases of small order, mixed order, and s or encodings that are not
// reduced. A single verification gives the same result as crypto/ed25519. A batch, which verifies the leaves of a
// joined tree, accepts a case with a valid key if multiplication by the cofactor makes both sides equal.
func TestPublishedEd25519Cases(t *testing.T) {
	for i, c := range ed25519Cases {
		single := i <= 3 || i == 11
		together := i >= 2 && i <= 5 || i == 9
		var parts [3][]byte
		for k := range c {
			parts[k] = must[[]byte](t)(hex.DecodeString(c[k]))
		}
		if std := ed25519.Verify(parts[1], parts[0], parts[2]); std != single {
			t.Errorf("case %d: crypto/ed25519 accepts: %v", i, std)
		}
		for range 2 { // the second time the key is prepared
			if got := (ed25519Scheme{}).verify(parts[1], parts[0], parts[2]); got != single {
				t.Errorf("case %d: accepted: %v", i, got)
			}
		}
		item := signedItem{parts[1], parts[0], parts[2]}
		for _, others := range []int{0, 5, 150} {
			if got := (ed25519Scheme{}).verifyBatch(append(signedItems(t, others), item)); got != together {
				t.Errorf("case %d in a batch with %d others: accepted: %v", i, others, got)
			}
		}
	}
}

// TestEd25519LikeStandard checks that signatures of edge cases give the same result as in crypto/ed25519: keys and R
// of small order, of mixed order and not reduced, with an s that matches, is zero, or is at least the order.
func TestEd25519LikeStandard(t *testing.T) {
	order := must[[]byte](t)(hex.DecodeString("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010"))
	var encodings [][]byte
	for _, b := range smallOrderPoints(t) {
		encodings = append(encodings, b, append(bytes.Clone(b[:31]), b[31]^0x80))
	}
	for _, y := range []byte{0, 1, 18} { // p, p+1 and p+18, both signs
		for _, sign := range []byte{0x7f, 0xff} {
			b := bytes.Repeat([]byte{0xff}, 32)
			b[0], b[31] = 0xed+y, sign
			encodings = append(encodings, b)
		}
	}
	torsion := smallOrderPoints(t)
	for i, item := range signedItems(t, 6) {
		for _, b := range [][]byte{item.pub, item.signature[:32]} {
			p := must[*edwards25519.Point](t)(new(edwards25519.Point).SetBytes(b))
			q := must[*edwards25519.Point](t)(new(edwards25519.Point).SetBytes(torsion[1+i]))
			encodings = append(encodings, b, new(edwards25519.Point).Add(p, q).Bytes())
		}
	}
	item := signedItems(t, 1)[0]
	scalars := [][]byte{make([]byte, 32), item.signature[32:], order, bytes.Repeat([]byte{0xff}, 32)}
	less := bytes.Clone(order)
	less[0]--
	scalars = append(scalars, less)
	var items []signedItem
	var verdicts []bool
	accepted := 0
	for _, pub := range encodings {
		for _, r := range encodings {
			for _, s := range scalars {
				for _, message := range [][]byte{item.message, []byte("x")} {
					signature := append(bytes.Clone(r), s...)
					want := ed25519.Verify(pub, message, signature)
					if want {
						accepted++
					}
					items, verdicts = append(items, signedItem{pub, message, signature}), append(verdicts, want)
					if got := (ed25519Scheme{}).verify(pub, message, signature); got != want {
						t.Fatalf("key %x, message %q, signature %x: accepted %v, by crypto/ed25519 %v", pub, message, signature, got, want)
					}
				}
			}
		}
	}
	t.Logf("%d accepted", accepted)
	if accepted < 10 {
		t.Errorf("%d accepted: the cases do not reach far", accepted)
	}
	items, verdicts = append(items, signedItem{}, signedItem{pub: make([]byte, 32)}), append(verdicts, false, false)
	rng := mathrand.New(mathrand.NewPCG(1, 2))
	rng.Shuffle(len(items), func(i, j int) {
		items[i], items[j] = items[j], items[i]
		verdicts[i], verdicts[j] = verdicts[j], verdicts[i]
	})
	for from := 0; from < len(items); {
		to := min(from+1+rng.IntN(40), len(items))
		if got := (ed25519Scheme{}).verifyEach(items[from:to]); !slices.Equal(got, verdicts[from:to]) {
			t.Fatalf("signatures %d to %d, verified together: %v, want %v", from, to, got, verdicts[from:to])
		}
		from = to
	}
	for _, n := range []int{0, 31, 33, 63, 65} {
		if ed := (ed25519Scheme{}); ed.verify(make([]byte, n), nil, make([]byte, 64)) || ed.verify(item.pub, item.message, make([]byte, n)) {
			t.Errorf("%d bytes of key or signature: accepted", n)
		}
	}
}

// TestEd25519Cache checks that the cache keeps the allowed number of keys, among them those used last.
func TestEd25519Cache(t *testing.T) {
	c := &ed25519Cache{most: 8}
	items := signedItems(t, 40)
	first := c.get(items[0].pub)
	for _, item := range items {
		if k := c.get(item.pub); k == nil || !k.verify(item.message, item.signature) {
			t.Fatal("refused")
		}
		if c.get(items[0].pub) != first {
			t.Fatal("a key that is always used was dropped")
		}
		if n := len(c.young) + len(c.old); n > 2*c.most {
			t.Fatalf("%d keys", n)
		}
	}
	if c.find([32]byte(items[1].pub)) != nil {
		t.Error("a key that was not used for long is still there")
	}
	if c.get(make([]byte, 31)) != nil || c.get(append([]byte{2}, make([]byte, 31)...)) != nil {
		t.Error("what is no point is taken for a key")
	}
}
