package mlscore

import (
	"encoding/binary"
	"io"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// labelPrefix stands before every label of RFC 9420 but those of RefHash.
const labelPrefix = "MLS 1.0 "

// appendLabelled appends the struct that SignContent, EncryptContext and the tail of KDFLabel have
// in common, opaque label<V> and the header of opaque content<V>; the content itself, n bytes, is
// the caller's to append. n must not exceed codec.MaxLength.
func appendLabelled(b []byte, label string, n int) []byte {
	b = codec.AppendVarint(b, uint32(len(labelPrefix)+len(label)))
	b = append(b, labelPrefix...)
	b = append(b, label...)
	return codec.AppendVarint(b, uint32(n))
}

// fits refuses content that no vector can carry.
func fits(clause, object string, content []byte) error {
	if len(content) > codec.MaxLength {
		return fail(ErrLimit, clause, object, "%d bytes, a vector carries at most %d", len(content), codec.MaxLength)
	}
	return nil
}

// expandWithLabel is ExpandWithLabel (RFC 9420 §8) to n bytes. It panics if n is over s.maxExpand,
// which a caller checks where n comes from outside, if context is longer than a vector can be, and
// if secret is empty: that is an erased Secret, and what would be derived from it is public.
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

// deriveSecret is DeriveSecret (RFC 9420 §8).
func (s *suite) deriveSecret(secret []byte, label string) Secret {
	return s.expandWithLabel(secret, label, nil, s.kdf.size)
}

// deriveTreeSecret is DeriveTreeSecret (RFC 9420 §9.1).
func (s *suite) deriveTreeSecret(secret []byte, label string, generation uint32, n int) Secret {
	var context [4]byte
	binary.BigEndian.PutUint32(context[:], generation)
	return s.expandWithLabel(secret, label, context[:], n)
}

// refHash is RefHash (RFC 9420 §5.2). label is the whole label; no prefix is added.
func (s *suite) refHash(label string, value []byte) []byte {
	h := s.kdf.get()
	defer s.kdf.put(h)
	h.buf = codec.AppendVarint(h.buf[:0], uint32(len(label)))
	h.buf = append(h.buf, label...)
	h.buf = codec.AppendVarint(h.buf, uint32(len(value)))
	return h.sum(make([]byte, 0, s.kdf.size), h.buf, value)
}

// signContent is the encoding of SignContent (RFC 9420 §5.1.2).
func signContent(label string, content []byte) []byte {
	b := make([]byte, 0, len(labelPrefix)+len(label)+len(content)+8)
	return append(appendLabelled(b, label, len(content)), content...)
}

// signer signs many times with one key, at half the cost or less of as many signWithLabel. It is
// read-only and serves any number of goroutines. The key stands behind a pointer to an interface,
// which no verb of fmt follows: a pointer to a struct or a slice is printed by a verb that does not
// suit it, like %s.
type signer struct{ key *signingKey }

// newSigner makes a signature private key ready. It copies priv; the copy cannot be erased.
func (s *suite) newSigner(priv []byte) (*signer, error) {
	key, err := s.signature.newSigningKey(priv)
	if err != nil {
		return nil, err
	}
	return &signer{&key}, nil
}

// signWithLabel is SignWithLabel (RFC 9420 §5.1.2). The same key, label and content give the same
// signature, whatever the scheme.
func (k *signer) signWithLabel(label string, content []byte) ([]byte, error) {
	if err := fits("§5.1.2", "content to sign", content); err != nil {
		return nil, err
	}
	return (*k.key).sign(signContent(label, content))
}

// signWithLabel is signer.signWithLabel for one signature.
func (s *suite) signWithLabel(priv []byte, label string, content []byte) ([]byte, error) {
	k, err := s.newSigner(priv)
	if err != nil {
		return nil, err
	}
	return k.signWithLabel(label, content)
}

// verifyWithLabel is VerifyWithLabel (RFC 9420 §5.1.2). A key or a signature that is not one does
// not verify.
func (s *suite) verifyWithLabel(pub []byte, label string, content, signature []byte) bool {
	if len(content) > codec.MaxLength {
		return false
	}
	return s.signature.verify(pub, signContent(label, content), signature)
}

// unverified says why a signature does not verify: because the key is none of the suite, or else for
// the reason given. One fault in a key is one kind of error, whatever is verified with it first.
func (s *suite) unverified(pub []byte, reason error) error {
	if err := s.validateSignatureKey(pub); err != nil {
		return within("signature_key", ErrInvalid, err)
	}
	return reason
}

// sealInfo hashes EncryptContext (RFC 9420 §5.1.3) into HPKE's key schedule context, once for any
// number of encryptTo and decryptFrom. context must not exceed codec.MaxLength.
func (s *suite) sealInfo(label string, context []byte) *hpkeInfo {
	var buf [64]byte
	return s.hashInfo(appendLabelled(buf[:0], label, len(context)), context)
}

// encryptWithLabel is EncryptWithLabel (RFC 9420 §5.1.3), for one recipient. For several that share
// label and context, see sealInfo.
func (s *suite) encryptWithLabel(rand io.Reader, pub []byte, label string, context, plaintext []byte) (kemOutput, ciphertext []byte, err error) {
	if err := fits("§5.1.3", "encryption context", context); err != nil {
		return nil, nil, err
	}
	return s.encryptTo(rand, pub, s.sealInfo(label, context), plaintext)
}

// decryptWithLabel is DecryptWithLabel (RFC 9420 §5.1.3).
func (s *suite) decryptWithLabel(priv []byte, label string, context, kemOutput, ciphertext []byte) ([]byte, error) {
	return s.decryptLabelled(priv, nil, label, context, kemOutput, ciphertext)
}

// decryptLabelled is decryptWithLabel where the public key of priv is known, unless pub is nil.
func (s *suite) decryptLabelled(priv, pub []byte, label string, context, kemOutput, ciphertext []byte) ([]byte, error) {
	if err := fits("§5.1.3", "encryption context", context); err != nil {
		return nil, err
	}
	return s.decryptFor(priv, pub, s.sealInfo(label, context), kemOutput, ciphertext)
}
