// Package mlsbench has what benchmarks of package mlscore need: a large group without a commit for each member, and
// the cryptographic operations of a group individually. Applications do not need it.
package mlsbench

import (
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/mlscore/internal/bridge"
)

var fabricator = bridge.Inside.(interface {
	Fabricate(n int, clients [2]*mlscore.Client, ids [2]mlscore.Identity, groupID []byte, opts mlscore.GroupOptions) (first, last *mlscore.Group, err error)
})

var primitives = bridge.Inside.(interface {
	NewPrimitives(cs mlscore.CipherSuite) (any, error)
})

// Fabricate makes a group of n members, 2 to 2^30, at once instead of commit by commit. Its tree is fully populated
// and valid in every respect: all leaves are signed, all parent hashes are valid. Two members are real, with the
// clients and identities that the caller passes: first at the first leaf, last at the last leaf. Every other member
// is called "member i" and has a basic credential; nobody holds its private keys.
//
// Fabricate takes about 120 µs for each member with cipher suite 1. It returns mlscore.ErrMisuse for another number
// of members, mlscore.ErrUnsupported for an unknown cipher suite.
func Fabricate(n int, clients [2]*mlscore.Client, ids [2]mlscore.Identity, groupID []byte, opts mlscore.GroupOptions) (first, last *mlscore.Group, err error) {
	return fabricator.Fabricate(n, clients, ids, groupID, opts)
}

// Primitives runs the cryptographic operations of a group individually, with the same sizes. Benchmarks compare a
// group's operations with the sum of their primitives. The methods panic on an error, which means that the library is
// broken.
type Primitives interface {
	// GenerateKey makes an HPKE key pair.
	GenerateKey()
	// DeriveKey derives an HPKE key pair.
	DeriveKey()
	// Seal encrypts a path secret with HPKE.
	Seal() (kem, ct []byte)
	// Open decrypts a path secret, with a private key whose public key is known.
	Open()
	// Sign signs 200 bytes, different at each call: the time of ML-DSA depends on the signed content (FIPS 204 §6.2
	// tries until a signature reveals nothing).
	Sign() []byte
	// Verify verifies a signature over 200 bytes.
	Verify()
	// VerifyFirst is Verify with a key that has not verified before. Some schemes keep a prepared key, which makes a
	// second verification cheaper.
	VerifyFirst()
	// VerifyMany verifies as many of n signatures as the scheme can verify together, and returns their number.
	VerifyMany(n int) int
	// HashLeaf hashes as much as the tree hash of a leaf covers (RFC 9420 §7.8): its keys, its signature, and some
	// 110 bytes.
	HashLeaf()
	// HashParent hashes as much as the tree hash of a parent covers (§7.8): its key and parent hash, and the tree
	// hashes of its children.
	HashParent()
	// HashParentHash hashes as much as a parent hash covers (§7.9): a key and two hashes.
	HashParentHash()
	// Derive derives one secret from another.
	Derive()
	// SealKilobyte encrypts 1 KiB with the AEAD.
	SealKilobyte() []byte
	// OpenKilobyte decrypts 1 KiB.
	OpenKilobyte()
}

// NewPrimitives makes keys for a cipher suite. It returns mlscore.ErrUnsupported for an unknown suite.
func NewPrimitives(cs mlscore.CipherSuite) (Primitives, error) {
	p, err := primitives.NewPrimitives(cs)
	if err != nil {
		return nil, err
	}
	return p.(Primitives), nil
}
