package core

import (
	"time"

	"github.com/mlsfed/mlsfed/internal/stats"
	"github.com/mlsfed/mlsfed/mlscore/mlsbench"
)

// primitiveCosts holds milliseconds. verifyFirst is the first verification with a key. verifyMany is the time for one
// signature if as many are verified together as in a group of this size. The hashes are those of a leaf, of a parent,
// and the parent hash.
type primitiveCosts struct {
	generate, derive, seal, open, sign, verify, verifyFirst, verifyMany, secret, sealKB, openKB float64
	hashLeaf, hashParent, parentHash                                                            float64
}

// measurePrimitives takes up to half a second with most cipher suites.
func (now clock) measurePrimitives(p mlsbench.Primitives, n int) primitiveCosts {
	many := p.VerifyMany(n) // the first call creates the signatures
	const some = 20         // signatures: with ML-DSA some take a multiple of the time of others
	return primitiveCosts{
		generate: now.each(p.GenerateKey),
		derive:   now.each(p.DeriveKey),
		seal:     now.each(func() { p.Seal() }),
		open:     now.each(p.Open),
		sign: now.each(func() {
			for range some {
				p.Sign()
			}
		}) / some,
		verify:      now.each(p.Verify),
		verifyFirst: now.each(p.VerifyFirst),
		verifyMany:  now.each(func() { p.VerifyMany(n) }) / float64(many),
		secret:      now.each(p.Derive),
		sealKB:      now.each(func() { p.SealKilobyte() }),
		openKB:      now.each(p.OpenKilobyte),
		hashLeaf:    now.each(p.HashLeaf),
		hashParent:  now.each(p.HashParent),
		parentHash:  now.each(p.HashParentHash),
	}
}

// between returns the mean of two measurements, made before and after the compared operation: a shared machine gets
// faster and slower in the course of a run.
func (c primitiveCosts) between(o primitiveCosts) primitiveCosts {
	mean := func(a, b float64) float64 { return (a + b) / 2 }
	return primitiveCosts{
		generate:    mean(c.generate, o.generate),
		derive:      mean(c.derive, o.derive),
		seal:        mean(c.seal, o.seal),
		open:        mean(c.open, o.open),
		sign:        mean(c.sign, o.sign),
		verify:      mean(c.verify, o.verify),
		verifyFirst: mean(c.verifyFirst, o.verifyFirst),
		verifyMany:  mean(c.verifyMany, o.verifyMany),
		secret:      mean(c.secret, o.secret),
		sealKB:      mean(c.sealKB, o.sealKB),
		openKB:      mean(c.openKB, o.openKB),
		hashLeaf:    mean(c.hashLeaf, o.hashLeaf),
		hashParent:  mean(c.hashParent, o.hashParent),
		parentHash:  mean(c.parentHash, o.parentHash),
	}
}

// floors holds the least time that operations can take, in milliseconds.
type floors struct{ commit, process, join, bulk, stage, unmerged, protect, unprotect float64 }

// floorsFor adds up the primitives for a populated tree of n members, path nodes on a direct path, and k members
// added at once. The sum has only cryptographic operations: no decoding, no copy, no memory.
func (c primitiveCosts) floorsFor(n, path, k int) floors {
	p, members, added := float64(path), float64(n), float64(k)
	const (
		epoch   = 13 // secrets: member, epoch, and the nine under it; the two tags
		commit  = 4  // more where the commit secret is known: that, joiner (two), welcome
		ratchet = 5  // key and nonce of the sender data and of the message, and the next secret
	)
	f := floors{
		// HPKE, keys and secrets along the path, with the hashes of its nodes; the leaf's key; signatures
		// of the leaf and the commit.
		commit: p*(c.seal+c.derive+2*c.secret+c.hashParent+c.parentHash) + c.generate + 2*c.sign + (epoch+commit)*c.secret,
		// One path secret, since the two members share only the root; signatures of leaf and commit.
		process: c.open + c.derive + 2*c.verify + p*(c.hashParent+c.parentHash) + (epoch+commit)*c.secret,
		// All leaves' signatures, all tree hashes and parent hashes; the GroupInfo's signature.
		join:      members*(c.verifyMany+c.hashLeaf+c.hashParent+c.parentHash) + c.open + c.derive + c.verifyFirst + epoch*c.secret,
		protect:   c.sign + c.sealKB + ratchet*c.secret,
		unprotect: c.verify + c.openKB + ratchet*c.secret,
	}
	// The Welcome's GroupInfo is signed. For each newcomer, the signatures of its KeyPackage and leaf, a seal for its Welcome, the hash that
	// names the KeyPackage, and those of its leaf and of the parent above.
	f.bulk = f.commit + c.sign + added*(c.verifyFirst+c.verify+c.seal+2*c.hashLeaf+c.hashParent)
	// The receiver verifies and hashes the same.
	f.stage = f.process + added*(c.verifyFirst+c.verify+2*c.hashLeaf+c.hashParent)
	f.unmerged = f.commit + added*c.seal
	return f
}

// timed returns how long a call takes, in milliseconds.
func (now clock) timed(call func() error) (float64, error) {
	start := now()
	err := call()
	return float64(now()-start) / 1e6, err
}

// repeated returns the median of several calls in milliseconds, without the first call. No call begins more than
// longest milliseconds after the start.
func (now clock) repeated(times int, longest float64, call func() error) (float64, error) {
	var list []float64
	total := 0.0
	for len(list) < times+1 && total < longest {
		ms, err := now.timed(call)
		if err != nil {
			return 0, err
		}
		list = append(list, ms)
		total += ms
	}
	if len(list) > 1 {
		list = list[1:]
	}
	return stats.Median(list), nil
}

// each returns the time of one call among many, in milliseconds: the median of rounds. The rounds are as short as the
// operations with which the time is compared, so that an interruption of one round does not count.
func (now clock) each(call func()) float64 {
	const round, longest = 0.2, 200
	once, _ := now.repeated(5, longest, func() error { call(); return nil })
	calls := int(min(max(round/max(once, 1e-4), 1), 1000))
	ms, _ := now.repeated(30, longest, func() error {
		for range calls {
			call()
		}
		return nil
	})
	return ms / float64(calls)
}

// clock returns the measured time.
type clock func() time.Duration
