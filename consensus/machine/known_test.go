package machine

import (
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"filippo.io/edwards25519"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/wire"
)

// TestKnownEntryHasTheSameOutcome checks that the facts which a caller knows about an entry change neither outcome nor
// state, and that a forged entry which is not marked as checked is refused.
func TestKnownEntryHasTheSameOutcome(t *testing.T) {
	plain, place := newBranches(t, "a.example", "b.example")
	informed, _ := newBranches(t, "a.example", "b.example")
	for n := range 40 {
		e := place.Commit(plain.id(), 100, wire.DeliveryChange{})
		switch n % 4 {
		case 1:
			e.Signature[3] ^= 1
		case 2:
			e.Epoch++ // no such epoch
			e = author.Sign(e, place.Opener)
		}
		raw := plain.raw(e, nil)
		one := plain.m.ApplyLogged(raw, Known{}, uint64(n+1))
		known := Known{Checked: one.Err == nil || one.Err.Code != wire.Forged}
		if n%2 == 0 {
			known.Entry = new(wire.Entry)
			if err := wire.Decode(raw, wire.MaxEntry, known.Entry); err != nil {
				t.Fatal(err)
			}
		}
		two := informed.m.ApplyLogged(raw, known, uint64(n+1))
		if one.Receipt != two.Receipt || (one.Err == nil) != (two.Err == nil) || one.Err != nil && one.Err.Code != two.Err.Code {
			t.Fatalf("entry %d: %+v and %+v", n, one, two)
		}
		if plain.digest() != informed.digest() {
			t.Fatalf("entry %d: the states differ", n)
		}
		if one.Err == nil {
			place = author.After(e, one.Receipt)
		}
	}
}

// torsion is a key pair whose public key differs from an ordinary one by a point of order 8.
type torsion struct {
	secret *edwards25519.Scalar
	public wire.SubmissionKey
}

func newTorsion(t *testing.T, seed byte) torsion {
	t.Helper()
	raw, err := hex.DecodeString("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa")
	if err != nil {
		t.Fatal(err)
	}
	small, err := new(edwards25519.Point).SetBytes(raw)
	if err != nil {
		t.Fatal(err)
	}
	secret := scalar(t, []byte{seed})
	public := new(edwards25519.Point).ScalarBaseMult(secret)
	return torsion{secret, wire.SubmissionKey(public.Add(public, small).Bytes())}
}

func scalar(t *testing.T, parts ...[]byte) *edwards25519.Scalar {
	t.Helper()
	sum := sha512.Sum512(slices.Concat(parts...))
	s, err := edwards25519.NewScalar().SetUniformBytes(sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sign makes a signature that satisfies 8sB = 8R + 8kA, and sB = R + kA only if k is a multiple of 8.
func (k torsion) sign(t *testing.T, message []byte) []byte {
	t.Helper()
	r := scalar(t, []byte("nonce"), message)
	point := new(edwards25519.Point).ScalarBaseMult(r).Bytes()
	s := edwards25519.NewScalar().MultiplyAdd(scalar(t, point, k.public[:], message), k.secret, r)
	return append(point, s.Bytes()...)
}

// cofactored reports whether 8sB = 8R + 8kA, the predicate that a batch of signatures can check.
func cofactored(t *testing.T, key wire.SubmissionKey, message, signature []byte) bool {
	t.Helper()
	a, err := new(edwards25519.Point).SetBytes(key[:])
	if err != nil {
		t.Fatal(err)
	}
	r, err := new(edwards25519.Point).SetBytes(signature[:32])
	if err != nil {
		t.Fatal(err)
	}
	s, err := edwards25519.NewScalar().SetCanonicalBytes(signature[32:])
	if err != nil {
		t.Fatal(err)
	}
	k := scalar(t, signature[:32], key[:], message)
	left := new(edwards25519.Point).ScalarBaseMult(s)
	right := new(edwards25519.Point).Add(r, new(edwards25519.Point).ScalarMult(k, a))
	return left.MultByCofactor(left).Equal(right.MultByCofactor(right)) == 1
}

// TestReplicasVerifyLikeStandard checks that a member cannot make replicas disagree with a signature that a batch
// accepts and crypto/ed25519 refuses. The replica that judges, a replica that applies and a replica that applies many
// such entries in a row all decide as crypto/ed25519 does.
func TestReplicasVerifyLikeStandard(t *testing.T) {
	leader, first := newBranches(t, "a.example", "b.example")
	follower, _ := newBranches(t, "a.example", "b.example")
	key := newTorsion(t, 1)
	opening := first.Unsigned(leader.id(), key.public, 16, wire.DeliveryChange{})
	opening = author.Sign(opening, first.Opener)
	raw := leader.raw(opening, nil)
	receipt := leader.m.Apply(raw).Receipt
	if out := follower.m.Apply(raw); out.Err != nil || out.Receipt != receipt {
		t.Fatalf("the epoch with the key is not open: %+v", out)
	}
	place := author.After(opening, receipt)
	accepted, refused := 0, 0
	for range 64 {
		next := newTorsion(t, byte(accepted+2))
		e := place.Unsigned(leader.id(), next.public, 16, wire.DeliveryChange{})
		input, err := e.SigningInput()
		if err != nil {
			t.Fatal(err)
		}
		e.Signature = key.sign(t, input)
		if !cofactored(t, key.public, input, e.Signature) {
			t.Fatal("a batch would refuse the signature: it tests nothing")
		}
		standard := ed25519.Verify(key.public[:], input, e.Signature)
		_, verified, err := leader.m.judgeKey(&wire.Entry{Version: 1, Time: leader.time, Proposer: "n1.a.example", Envelope: e})
		if (err == nil) != standard || err != nil && !errors.Is(err, wire.Forged) {
			t.Fatalf("judged %v, crypto/ed25519 says %v", err, standard)
		}
		raw := leader.raw(e, nil)
		one, two := leader.m.applyVerified(raw, verified), follower.m.Apply(raw)
		if (one.Err == nil) != standard || (two.Err == nil) != standard || leader.digest() != follower.digest() {
			t.Fatalf("applied with %v and %v, crypto/ed25519 says %v", one.Err, two.Err, standard)
		}
		if standard {
			accepted++
			place, key = author.After(e, one.Receipt), next
		} else {
			refused++
		}
	}
	if accepted == 0 || refused == 0 {
		t.Fatalf("%d signatures were accepted, %d refused: wanted some of each", accepted, refused)
	}
}

// prunedCopy is prune as it was when trails were immutable.
func prunedCopy(m *Machine, trail []ancestor) []ancestor {
	drop := func(i int) bool { return trail[i].confirmed() || m.now-trail[i].at > HeadLife }
	var rest []ancestor
	for i := range trail {
		switch {
		case i == len(trail)-1 || !drop(i):
			rest = append(rest, trail[i])
		case len(rest) > 0:
			rest[len(rest)-1].change = composeChanges(rest[len(rest)-1].change, trail[i].change)
		}
	}
	for most := m.mostAncestors(); len(rest) > most; {
		i := 3 * most / 4
		rest[i-1].change = composeChanges(rest[i-1].change, rest[i].change)
		rest = slices.Delete(rest, i, i+1)
	}
	return rest
}

// TestPruneInPlace compares prune with its form that changes nothing in place, for random trails, and checks that a
// dropped change of the delivery list is reported.
func TestPruneInPlace(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 400 {
		m := &Machine{now: 2 * HeadLife, level: 2}
		if round%4 == 0 {
			m.policy.Handshakes = wire.HandshakesPublic
		}
		var trail []ancestor
		changes := 0
		for i := range random.IntN(2*MaxAncestors) + 1 {
			a := ancestor{point: &point{seq: wire.SequenceNumber(i + 1)}, child: wire.SequenceNumber(i + 2), at: m.now, by: [2]wire.Domain{"a.example"}}
			if random.IntN(8) == 0 {
				a.by[1] = "b.example"
			}
			if i < 20 && random.IntN(2) == 0 {
				a.at = 0
			}
			if random.IntN(10) == 0 {
				a.change.Add = []wire.Address{author.Address("c.example", uint64(round*1000+i))}
				changes++
			}
			trail = append(trail, a)
		}
		want := prunedCopy(m, slices.Clone(trail))
		got, changed := m.prune(slices.Clone(trail))
		same := slices.EqualFunc(want, got, func(a, b ancestor) bool {
			return a.point == b.point && a.child == b.child && a.by == b.by && a.at == b.at && slices.Equal(a.change.Add, b.change.Add) && slices.Equal(a.change.Remove, b.change.Remove)
		})
		if !same {
			t.Fatalf("round %d: %d ancestors, wanted %d", round, len(got), len(want))
		}
		kept := 0
		for _, a := range got {
			for _, b := range trail {
				if a.point == b.point && !b.change.IsZero() {
					kept++
				}
			}
		}
		if changed != (kept < changes) {
			t.Fatalf("round %d: changed is %v, %d of %d changes kept their epoch", round, changed, kept, changes)
		}
	}
}
