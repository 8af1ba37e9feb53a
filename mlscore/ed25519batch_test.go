package mlscore

import (
	"crypto/ed25519"
	"crypto/sha512"
	"fmt"
	"testing"

	"filippo.io/edwards25519"
)

func signedItems(t testing.TB, n int) []signedItem {
	random := seeded(fmt.Sprintf("batch %d", n))
	items := make([]signedItem, n)
	for i := range items {
		key := ed25519.NewKeyFromSeed(drawn(t, random, 32))
		m := drawn(t, random, 20+i%50)
		items[i] = signedItem{key.Public().(ed25519.PublicKey), m, ed25519.Sign(key, m)}
	}
	return items
}

// TestBatchVerification checks that a batch of any number of good signatures passes, and that one bad signature fails
// it.
func TestBatchVerification(t *testing.T) {
	for _, n := range []int{1, 2, 3, 17, 64, 200, 1024} {
		if raceDetector && n > 200 {
			continue // one goroutine, as with fewer
		}
		items := signedItems(t, n)
		if !(ed25519Scheme{}).verifyBatch(items) {
			t.Fatalf("%d good signatures refused", n)
		}
		for _, bad := range []int{0, n / 2, n - 1} {
			for _, where := range []int{0, 31, 32, 63} {
				good := items[bad].signature
				items[bad].signature = append([]byte(nil), good...)
				items[bad].signature[where] ^= 1
				if (ed25519Scheme{}).verifyBatch(items) {
					t.Fatalf("%d signatures, byte %d of number %d flipped: accepted", n, where, bad)
				}
				items[bad].signature = good
			}
			message := items[bad].message
			items[bad].message = append([]byte{1}, message...)
			if (ed25519Scheme{}).verifyBatch(items) {
				t.Fatal("another message accepted")
			}
			items[bad].message = message
		}
		if n > 1 {
			items[0].signature, items[1].signature = items[1].signature, items[0].signature
			if (ed25519Scheme{}).verifyBatch(items) {
				t.Fatal("exchanged signatures accepted")
			}
		}
	}
}

// TestBatchValidatesKeys checks that a batch refuses a key that validate refuses, even with a matching signature.
func TestBatchValidatesKeys(t *testing.T) {
	scheme := ed25519Scheme{}
	identity := edwards25519.NewIdentityPoint().Bytes()
	unreduced := append([]byte{0xee}, identity[1:]...) // the same point with y = p + 1
	for i := 1; i < 31; i++ {
		unreduced[i] = 0xff
	}
	unreduced[31] = 0x7f
	for name, pub := range map[string][]byte{
		"a point of small order": identity,
		"not reduced":            unreduced,
		"no point":               append([]byte{2}, identity[1:]...),
		"too short":              identity[:31],
	} {
		items := signedItems(t, 3)
		items[1].pub = pub
		items[1].signature = append(edwards25519.NewIdentityPoint().Bytes(), make([]byte, 32)...) // R and s of zero: matches any such key
		if scheme.validate(pub) == nil || scheme.verifyBatch(items) {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestBatchErrorsDoNotCancel checks that two signatures whose errors are opposite fail together.
func TestBatchErrorsDoNotCancel(t *testing.T) {
	items := signedItems(t, 2)
	one := edwards25519.NewScalar()
	var b [32]byte
	b[0] = 1
	if _, err := one.SetCanonicalBytes(b[:]); err != nil {
		t.Fatal(err)
	}
	for i, sign := range []func(a, b *edwards25519.Scalar) *edwards25519.Scalar{
		func(a, b *edwards25519.Scalar) *edwards25519.Scalar { return edwards25519.NewScalar().Add(a, b) },
		func(a, b *edwards25519.Scalar) *edwards25519.Scalar { return edwards25519.NewScalar().Subtract(a, b) },
	} {
		s, err := edwards25519.NewScalar().SetCanonicalBytes(items[i].signature[32:])
		if err != nil {
			t.Fatal(err)
		}
		items[i].signature = append(append([]byte(nil), items[i].signature[:32]...), sign(s, one).Bytes()...)
	}
	if (ed25519Scheme{}).verifyBatch(items) {
		t.Fatal("errors of opposite sign cancel out")
	}
}

// smallOrderEd25519 reports whether 8·p is the identity.
func smallOrderEd25519(p *edwards25519.Point) bool {
	var q edwards25519.Point
	return q.MultByCofactor(p).Equal(edwards25519.NewIdentityPoint()) == 1
}

// TestMultiScalar compares multiScalar with the sum of single products.
func TestMultiScalar(t *testing.T) {
	random := seeded("multi scalar")
	for _, n := range []int{1, 5, 100, 300, 2100} {
		scalars := make([]edwards25519.Scalar, n)
		points := make([]edAffine, n)
		want := edwards25519.NewIdentityPoint()
		for i := range scalars {
			wide := sha512.Sum512(drawn(t, random, 32))
			if _, err := scalars[i].SetUniformBytes(wide[:]); err != nil {
				t.Fatal(err)
			}
			p := new(edwards25519.Point).ScalarBaseMult(&scalars[i])
			want.Add(want, new(edwards25519.Point).ScalarMult(&scalars[i], p))
			newEd25519Public((*[32]byte)(p.Bytes())).point.ready(&points[i])
		}
		for _, method := range []func([]edwards25519.Scalar, []edAffine) *edPoint{multiScalar, multiScalarFew, multiScalarMany} {
			samePoint(t, "a sum of products", method(scalars, points), want)
		}
	}
}

func BenchmarkVerifyBatch(b *testing.B) {
	items := signedItems(b, batchSize)
	b.Run("single", func(b *testing.B) {
		for b.Loop() {
			for _, i := range items[:64] {
				if !ed25519.Verify(i.pub, i.message, i.signature) {
					b.Fatal("refused")
				}
			}
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*64), "µs/signature")
	})
	b.Run("batch", func(b *testing.B) {
		for b.Loop() {
			if !(ed25519Scheme{}).verifyBatch(items) {
				b.Fatal("refused")
			}
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(items)), "µs/signature")
	})
}
