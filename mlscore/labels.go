package mlscore

import (
	"encoding/binary"
	"io"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// labelPrefix precedes every label of RFC 9420 except those of RefHash.
const labelPrefix = "MLS 1.0 "

// appendLabelled appends the struct that SignContent, EncryptContext and the tail of KDFLabel have in common: opaque
// label<V> and the header of opaque content<V>. The caller appends the content itself, n bytes. n must not exceed
// codec.MaxLength.
func appendLabelled(b []byte, label string, n int) []byte {
	b = codec.AppendVarint(b, uint32(len(labelPrefix)+len(label)))
	b = append(b, labelPrefix...)
	b = append(b, label...)
	return codec.AppendVarint(b, uint32(n))
}

// fits refuses content of n bytes that no vector can carry.
func fits(clause, object string, n int) error {
	if n > codec.MaxLength {
		return fail(ErrLimit, clause, object, "%d bytes, a vector carries at most %d", n, codec.MaxLength)
	}
	return nil
}

// expandWithLabel implements ExpandWithLabel (RFC 9420 §8) with n bytes of output. It panics if n is over s.maxExpand
// (a caller checks an n that comes from outside), if context is longer than a vector can be, and if secret is empty:
// an empty secret is an erased Secret, and anybody could compute the output.
func (s *suite) expandWithLabel(secret []byte, label string, context []byte, n int) Secret {
	if len(secret) == 0 {
		panic("mlscore: deriving " + label + " from an erased secret")
	}
	h := s.kdf.get()
	defer s.kdf.put(h)
	h.buf = binary.BigEndian.AppendUint16(h.buf[:0], uint16(n))
	h.buf = appendLabelled(h.buf, label, len(context))
	h.buf = append(h.buf, context...)
	return ownSecret(h.expand(secret, h.buf, n))
}

// deriveSecret implements DeriveSecret (RFC 9420 §8).
func (s *suite) deriveSecret(secret []byte, label string) Secret {
	return s.expandWithLabel(secret, label, nil, s.kdf.size)
}

// deriveTreeSecret implements DeriveTreeSecret (RFC 9420 §9.1).
func (s *suite) deriveTreeSecret(secret []byte, label string, generation uint32, n int) Secret {
	var context [4]byte
	binary.BigEndian.PutUint32(context[:], generation)
	return s.expandWithLabel(secret, label, context[:], n)
}

// refHash implements RefHash (RFC 9420 §5.2). label is the whole label; no prefix is added.
func (s *suite) refHash(label string, value []byte) []byte {
	h := s.kdf.get()
	defer s.kdf.put(h)
	h.buf = codec.AppendVarint(h.buf[:0], uint32(len(label)))
	h.buf = append(h.buf, label...)
	h.buf = codec.AppendVarint(h.buf, uint32(len(value)))
	return h.sum(make([]byte, 0, s.kdf.size), h.buf, value)
}

// signContent returns the encoding of SignContent (RFC 9420 §5.1.2). The content is the concatenation of its parts.
func signContent(label string, parts ...[]byte) []byte {
	n := length(parts)
	b := appendLabelled(make([]byte, 0, len(labelPrefix)+len(label)+n+8), label, n)
	for _, part := range parts {
		b = append(b, part...)
	}
	return b
}

// length returns the number of bytes of all parts.
func length(parts [][]byte) (n int) {
	for _, part := range parts {
		n += len(part)
	}
	return n
}

// signer signs many times with one key, at half the cost or less of as many calls of signWithLabel. It is read-only:
// any number of goroutines may use it. The key is behind a pointer to an interface, which no verb of fmt follows: a
// verb that does not suit the value, like %s, would print a pointer to a struct or a slice.
type signer struct{ key *signingKey }

// newSigner prepares a signature private key for use. It copies priv; the copy cannot be erased.
func (s *suite) newSigner(priv []byte) (*signer, error) {
	key, err := s.signature.newSigningKey(priv)
	if err != nil {
		return nil, err
	}
	return &signer{&key}, nil
}

// signWithLabel implements SignWithLabel (RFC 9420 §5.1.2) for content in parts. With every scheme, the same key, label
// and content give the same signature.
func (k *signer) signWithLabel(label string, parts ...[]byte) ([]byte, error) {
	if err := fits("§5.1.2", "content to sign", length(parts)); err != nil {
		return nil, err
	}
	return (*k.key).sign(signContent(label, parts...))
}

// signWithLabel is signer.signWithLabel for one signature.
func (s *suite) signWithLabel(priv []byte, label string, content []byte) ([]byte, error) {
	k, err := s.newSigner(priv)
	if err != nil {
		return nil, err
	}
	return k.signWithLabel(label, content)
}

// verifyWithLabel implements VerifyWithLabel (RFC 9420 §5.1.2). It returns false for an invalid key or a malformed
// signature.
func (s *suite) verifyWithLabel(pub []byte, label string, content, signature []byte) bool {
	return s.verifyParts(pub, label, signature, content)
}

// verifyParts is verifyWithLabel for content in parts.
func (s *suite) verifyParts(pub []byte, label string, signature []byte, parts ...[]byte) bool {
	if length(parts) > codec.MaxLength {
		return false
	}
	return s.signature.verify(pub, signContent(label, parts...), signature)
}

// labelled returns a signature for verifyEach, which verifies it as verifyWithLabel does. For content that is too
// long, the item has no key and therefore does not verify.
func labelled(pub []byte, label string, content, signature []byte) signedItem {
	if len(content) > codec.MaxLength {
		return signedItem{}
	}
	return signedItem{pub, signContent(label, content), signature}
}

// unverified returns the reason why a signature does not verify: the key is invalid in the suite, or else reason. An
// invalid key therefore gives the same kind of error in every place.
func (s *suite) unverified(pub []byte, reason error) error {
	if err := s.validateSignatureKey(pub); err != nil {
		return within("signature_key", ErrInvalid, err)
	}
	return reason
}

// sealInfo hashes EncryptContext (RFC 9420 §5.1.3) into HPKE's key schedule context, once for any number of calls of
// encryptTo and decryptFrom. context must not exceed codec.MaxLength.
func (s *suite) sealInfo(label string, context []byte) *hpkeInfo {
	var buf [64]byte
	return s.hashInfo(appendLabelled(buf[:0], label, len(context)), context)
}

// encryptWithLabel implements EncryptWithLabel (RFC 9420 §5.1.3) for one recipient. For several recipients with the
// same label and context, see sealInfo.
func (s *suite) encryptWithLabel(rand io.Reader, pub []byte, label string, context, plaintext []byte) (kemOutput, ciphertext []byte, err error) {
	if err := fits("§5.1.3", "encryption context", len(context)); err != nil {
		return nil, nil, err
	}
	return s.encryptTo(rand, pub, s.sealInfo(label, context), plaintext)
}

// decryptWithLabel implements DecryptWithLabel (RFC 9420 §5.1.3).
func (s *suite) decryptWithLabel(priv []byte, label string, context, kemOutput, ciphertext []byte) ([]byte, error) {
	return s.decryptLabelled(priv, nil, label, context, kemOutput, ciphertext)
}

// decryptLabelled is decryptWithLabel with the public key of priv; pub is nil if it is not known.
func (s *suite) decryptLabelled(priv, pub []byte, label string, context, kemOutput, ciphertext []byte) ([]byte, error) {
	if err := fits("§5.1.3", "encryption context", len(context)); err != nil {
		return nil, err
	}
	return s.decryptFor(priv, pub, s.sealInfo(label, context), kemOutput, ciphertext)
}
