package mlscore

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
)

// primitives implements mlsbench.Primitives, which describes the methods.
type primitives struct {
	suite     *suite
	priv      Secret
	pub       []byte
	signer    *signer
	signKey   []byte
	signature []byte
	unsigned  []byte // the content that was signed last, which begins with a number
	info      *hpkeInfo
	kem, ct   []byte
	secret    Secret
	key       messageKey
	kilobyte  []byte
	content   []byte // the input of hashes
	sealed    []byte
	batch     []signedItem
}

// newPrimitives makes keys for a cipher suite.
func newPrimitives(cs CipherSuite) (*primitives, error) {
	s, err := suiteOf(cs)
	if err != nil {
		return nil, err
	}
	p := &primitives{suite: s, secret: ownSecret(make([]byte, s.hashLen())), kilobyte: make([]byte, 1024)}
	if p.priv, p.pub, err = s.generateKeyPair(rand.Reader); err != nil {
		return nil, err
	}
	priv, pub, err := s.generateSignatureKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	p.signKey = pub
	if p.signer, err = s.newSigner(priv.Bytes()); err != nil {
		return nil, err
	}
	p.info = s.sealInfo("UpdatePathNode", make([]byte, 150))
	p.key = s.ratchetKey(p.secret, 0)
	if p.signature, err = p.signer.signWithLabel("primitive", p.kilobyte[:200]); err != nil {
		return nil, err
	}
	p.unsigned = make([]byte, 200)
	p.kem, p.ct = p.Seal()
	p.content = make([]byte, len(p.pub)+len(p.signKey)+len(p.signature)+4*s.hashLen()+110)
	p.sealed = p.SealKilobyte()
	return p, nil
}

// fillBatch makes n signatures by n different signers, so that no verification finds its key in the cache.
func (p *primitives) fillBatch(n int) error {
	for len(p.batch) < n {
		priv, pub, err := p.suite.generateSignatureKey(rand.Reader)
		if err != nil {
			return err
		}
		s, err := p.suite.newSigner(priv.Bytes())
		if err != nil {
			return err
		}
		signature, err := s.signWithLabel("primitive", p.kilobyte[:200])
		if err != nil {
			return err
		}
		p.batch = append(p.batch, signedItem{pub, signContent("primitive", p.kilobyte[:200]), signature})
	}
	return nil
}

func (p *primitives) must(err error) {
	if err != nil {
		panic(fmt.Sprintf("mlscore: primitive of %v: %v", p.suite.id, err))
	}
}

// GenerateKey makes an HPKE key pair.
func (p *primitives) GenerateKey() {
	_, _, err := p.suite.generateKeyPair(rand.Reader)
	p.must(err)
}

// DeriveKey derives an HPKE key pair.
func (p *primitives) DeriveKey() {
	_, _, err := p.suite.deriveKeyPair(p.secret.Bytes())
	p.must(err)
}

// Seal encrypts a path secret with HPKE.
func (p *primitives) Seal() (kem, ct []byte) {
	kem, ct, err := p.suite.encryptTo(rand.Reader, p.pub, p.info, p.secret.Bytes())
	p.must(err)
	return kem, ct
}

// Open decrypts a path secret, with a private key whose public key is known.
func (p *primitives) Open() {
	_, err := p.suite.decryptFor(p.priv.Bytes(), p.pub, p.info, p.kem, p.ct)
	p.must(err)
}

// Sign signs 200 bytes, different at each call: the time of ML-DSA depends on the signed content (FIPS 204 §6.2 tries
// until a signature reveals nothing).
func (p *primitives) Sign() []byte {
	binary.BigEndian.PutUint64(p.unsigned, binary.BigEndian.Uint64(p.unsigned)+1)
	sig, err := p.signer.signWithLabel("primitive", p.unsigned)
	p.must(err)
	return sig
}

// VerifyFirst is Verify with a key that has not verified before. Some schemes keep a prepared key, which makes a
// second verification cheaper.
func (p *primitives) VerifyFirst() {
	if _, ok := p.suite.signature.(ed25519Scheme); !ok {
		p.Verify()
		return
	}
	k := newEd25519Public((*[32]byte)(p.signKey))
	if k == nil || !k.verify(signContent("primitive", p.kilobyte[:200]), p.signature) {
		p.must(badLeafSignature())
	}
}

// Verify verifies a signature over 200 bytes.
func (p *primitives) Verify() {
	if !p.suite.verifyWithLabel(p.signKey, "primitive", p.kilobyte[:200], p.signature) {
		p.must(badLeafSignature())
	}
}

// VerifyMany verifies as many of n signatures as the scheme can verify together, and returns their number.
func (p *primitives) VerifyMany(n int) int {
	b, ok := p.suite.signature.(batchVerifier)
	if !ok {
		p.Verify()
		return 1
	}
	n = min(n, batchSize)
	p.must(p.fillBatch(n))
	if !b.verifyBatch(p.batch[:n]) {
		p.must(badLeafSignature())
	}
	return n
}

// HashLeaf hashes as much as the tree hash of a leaf covers (RFC 9420 §7.8): its keys, its signature, and
// some 110 bytes.
func (p *primitives) HashLeaf() { p.hash(len(p.pub) + len(p.signKey) + len(p.signature) + 110) }

// HashParent hashes as much as the tree hash of a parent covers: its key and parent hash, and the tree
// hashes of its children.
func (p *primitives) HashParent() { p.hash(len(p.pub) + 3*p.suite.hashLen() + 8) }

// HashParentHash hashes as much as a parent hash covers (§7.9): a key and two hashes.
func (p *primitives) HashParentHash() { p.hash(len(p.pub) + 2*p.suite.hashLen() + 4) }

func (p *primitives) hash(n int) {
	h := p.suite.kdf.get()
	defer p.suite.kdf.put(h)
	h.sum(h.tag[:0], p.content[:n])
}

// Derive derives one secret from another.
func (p *primitives) Derive() { p.suite.deriveSecret(p.secret.Bytes(), "primitive") }

// SealKilobyte encrypts 1 KiB with the AEAD.
func (p *primitives) SealKilobyte() []byte {
	return p.suite.aeadSeal(p.key.key.Bytes(), p.key.nonce.Bytes(), nil, p.kilobyte)
}

// OpenKilobyte decrypts 1 KiB.
func (p *primitives) OpenKilobyte() {
	_, err := p.suite.aeadOpen(p.key.key.Bytes(), p.key.nonce.Bytes(), nil, p.sealed)
	p.must(err)
}
