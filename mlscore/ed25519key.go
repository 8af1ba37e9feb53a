package mlscore

import (
	"bytes"
	"crypto/sha512"
	"sync"

	"filippo.io/edwards25519"
)

// ed25519Public is a public key prepared for verification. The first verification computes multiples of its point; a
// second verification with the same key then costs half of the first.
type ed25519Public struct {
	encoded [32]byte
	point   edAffinePoint
	once    sync.Once
	table   [edParts][1 << (edKeyWidth - 2)]edCached
}

// newEd25519Public decodes a public key; it returns nil if the key is not a point. It accepts the same keys as
// crypto/ed25519: validate refuses keys of small order and encodings that are not reduced.
func newEd25519Public(encoded *[32]byte) *ed25519Public {
	k := &ed25519Public{encoded: *encoded}
	k.point.y = *encoded
	k.point.y[31] &= 0x7f
	var ok bool
	if k.point.x, ok = edRecoverX(&k.point.y, &edD, encoded[31]>>7); !ok {
		return nil
	}
	return k
}

// multiples computes the table.
func (k *ed25519Public) multiples() {
	p := k.point.extended()
	for part := range k.table {
		edOddMultiples(k.table[part][:], &p)
		if part < edParts-1 {
			for i := range edPartBits {
				p.double(i == edPartBits-1)
			}
		}
	}
}

// verify applies the predicate of crypto/ed25519: the encoding of s·B − k·A equals R byte for byte, and s is below
// the order. The predicate is not cofactored.
func (k *ed25519Public) verify(message, signature []byte) bool {
	var p edPoint
	if !k.recompute(&p, message, signature) {
		return false
	}
	r := p.encode()
	return bytes.Equal(r[:], signature[:32])
}

// recompute sets p to s·B − k·A, whose encoding is R if the signature is good. It returns false for a signature of
// another length, or with an s that is not below the order.
func (k *ed25519Public) recompute(p *edPoint, message, signature []byte) bool {
	if len(signature) != 64 {
		return false
	}
	var s, challenge edwards25519.Scalar
	if _, err := s.SetCanonicalBytes(signature[32:]); err != nil {
		return false
	}
	h := sha512.New()
	h.Write(signature[:32])
	h.Write(k.encoded[:])
	h.Write(message)
	var digest [sha512.Size]byte
	if _, err := challenge.SetUniformBytes(h.Sum(digest[:0])); err != nil {
		return false
	}
	k.once.Do(k.multiples)
	var ofKey, ofBase edDigits
	sparseDigits(&ofKey, challenge.Bytes(), edKeyWidth)
	sparseDigits(&ofBase, s.Bytes(), edBaseWidth)
	k.difference(p, &ofKey, &ofBase)
	return true
}

// difference sets p to a multiple of the base point minus a multiple of the key, for all parts of the digits at once.
func (k *ed25519Public) difference(p *edPoint, ofKey, ofBase *edDigits) {
	base := edBaseTable()
	p.identity()
	for at := edPartBits - 1; at >= 0; at-- {
		p.double(true)
		for part := range edParts {
			if d := int(ofKey[part*edPartBits+at]); d > 0 {
				p.add(&k.table[part][d/2], true, true)
			} else if d < 0 {
				p.add(&k.table[part][-d/2], false, true)
			}
			if d := int(ofBase[part*edPartBits+at]); d > 0 {
				p.addAffine(&base[part][d/2], false, true)
			} else if d < 0 {
				p.addAffine(&base[part][-d/2], true, true)
			}
		}
	}
}

// ed25519Keys is a cache of recently used keys: a member signs many messages, and each KeyPackage and each commit has
// two signatures by one key. A key takes 8.3 kB.
var ed25519Keys = &ed25519Cache{most: 128}

// ed25519Cache keeps at most twice most keys, among them those used last. It is safe for concurrent use.
type ed25519Cache struct {
	most       int
	mu         sync.Mutex
	young, old map[[32]byte]*ed25519Public
}

// get returns a key from the cache, or decodes it; it returns nil if the key is not a point.
func (c *ed25519Cache) get(encoded []byte) *ed25519Public {
	if len(encoded) != 32 {
		return nil
	}
	name := [32]byte(encoded)
	if k := c.find(name); k != nil {
		return k
	}
	k := newEd25519Public(&name)
	if k != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.put(k)
	}
	return k
}

func (c *ed25519Cache) find(name [32]byte) *ed25519Public {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.young[name]; k != nil {
		return k
	}
	k := c.old[name]
	if k != nil {
		c.put(k)
	}
	return k
}

// put adds a key. When the young generation is full, it replaces the old generation, which is dropped.
func (c *ed25519Cache) put(k *ed25519Public) {
	if len(c.young) >= c.most || c.young == nil {
		c.old, c.young = c.young, make(map[[32]byte]*ed25519Public, c.most)
	}
	c.young[k.encoded] = k
}
