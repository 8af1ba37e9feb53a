package client

import "crypto/sha256"

// repeats remembers the ciphertexts that this process decrypted last. A member, or a node, can put a ciphertext of
// somebody else into a new message: its key has been used, and it says nothing about the sender's device. A device
// whose store is an older copy makes another ciphertext under the used key. The caller has the turn.
type repeats struct {
	known map[[sha256.Size]byte]bool
	ring  [][sha256.Size]byte
	next  int
}

// maxRepeats is the number of ciphertexts that are remembered, 32 bytes each.
const maxRepeats = 4096

// add remembers a ciphertext.
func (r *repeats) add(ciphertext []byte) {
	sum := sha256.Sum256(ciphertext)
	if r.known[sum] {
		return
	}
	if r.known == nil {
		r.known = make(map[[sha256.Size]byte]bool)
	}
	if len(r.ring) < maxRepeats {
		r.ring = append(r.ring, sum)
	} else {
		delete(r.known, r.ring[r.next])
		r.ring[r.next] = sum
		r.next = (r.next + 1) % maxRepeats
	}
	r.known[sum] = true
}

// has reports whether a ciphertext is remembered.
func (r *repeats) has(ciphertext []byte) bool { return r.known[sha256.Sum256(ciphertext)] }
