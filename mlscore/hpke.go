package mlscore

import (
	"encoding/binary"
	"io"
)

// HPKE (RFC 9180) in base mode, single-shot: a context seals one plaintext, at sequence number 0, and is then
// dropped. There is therefore no counter to share between goroutines. The nonce of a key is used once because each
// key comes from a fresh encapsulation.

// hpkeVersion precedes every labelled input (RFC 9180 §4).
const hpkeVersion = "HPKE-v1"

// hpkeID is the suite_id in labelled inputs: it identifies a KEM, or a whole HPKE suite.
type hpkeID [10]byte

// kemIdentity returns the suite_id of a KEM (RFC 9180 §4.1), 5 bytes.
func kemIdentity(id uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte("KEM"), id)
}

// hpkeIdentity returns the suite_id of HPKE (RFC 9180 §5.1).
func (s *suite) hpkeIdentity() (id hpkeID) {
	copy(id[:], "HPKE")
	binary.BigEndian.PutUint16(id[4:], s.kem.id())
	binary.BigEndian.PutUint16(id[6:], s.kdf.id)
	binary.BigEndian.PutUint16(id[8:], s.aead.id)
	return id
}

// labeledExtract implements LabeledExtract (RFC 9180 §4) for the concatenated parts of ikm.
func (k *kdf) labeledExtract(suiteID, salt []byte, label string, ikm ...[]byte) []byte {
	h := k.get()
	defer k.put(h)
	h.keyed(salt)
	h.buf = append(append(append(h.buf[:0], hpkeVersion...), suiteID...), label...)
	h.h.Write(h.buf)
	for _, p := range ikm {
		h.h.Write(p)
	}
	return h.finish(make([]byte, 0, k.size))
}

// labeledExpand implements LabeledExpand (RFC 9180 §4) with n bytes of output.
func (k *kdf) labeledExpand(suiteID, prk []byte, label string, info []byte, n int) []byte {
	h := k.get()
	defer k.put(h)
	h.buf = binary.BigEndian.AppendUint16(h.buf[:0], uint16(n))
	h.buf = append(append(append(append(h.buf, hpkeVersion...), suiteID...), label...), info...)
	return h.expand(prk, h.buf, n)
}

// hpkeInfo is key_schedule_context (RFC 9180 §5.1): the info of HPKE, hashed. It is read-only: any number of
// goroutines may use it, with the suite that made it.
type hpkeInfo struct{ context []byte }

// hashInfo makes an hpkeInfo of the concatenated parts of info.
func (s *suite) hashInfo(info ...[]byte) *hpkeInfo {
	id := s.hpkeIdentity()
	context := make([]byte, 1, 1+2*s.kdf.size) // mode_base is 0
	context = append(context, s.kdf.labeledExtract(id[:], nil, "psk_id_hash")...)
	context = append(context, s.kdf.labeledExtract(id[:], nil, "info_hash", info...)...)
	return &hpkeInfo{context}
}

// hpkeContext is the result of KeySchedule (RFC 9180 §5.1) for a shared secret.
type hpkeContext struct {
	suite  *suite
	id     hpkeID
	info   *hpkeInfo
	secret []byte
}

// schedule takes ownership of shared and erases it.
func (s *suite) schedule(shared []byte, info *hpkeInfo) *hpkeContext {
	c := &hpkeContext{suite: s, id: s.hpkeIdentity(), info: info}
	c.secret = s.kdf.labeledExtract(c.id[:], shared, "secret")
	clear(shared)
	return c
}

func (c *hpkeContext) expand(label string, n int) []byte {
	return c.suite.kdf.labeledExpand(c.id[:], c.secret, label, c.info.context, n)
}

// keys returns key and base_nonce, which is the nonce of sequence number 0.
func (c *hpkeContext) keys() (key, nonce []byte) {
	return c.expand("key", c.suite.aead.keyLen), c.expand("base_nonce", c.suite.aead.nonceLen)
}

// export implements Context.Export (RFC 9180 §5.3) with n bytes of output.
func (c *hpkeContext) export(exporterContext string, n int) Secret {
	exporter := c.expand("exp", c.suite.kdf.size)
	defer clear(exporter)
	return ownSecret(c.suite.kdf.labeledExpand(c.id[:], exporter, "sec", []byte(exporterContext), n))
}

// encryptTo implements SealBase (RFC 9180 §6.1) with empty associated data, as MLS uses it. It reads from rand the
// bytes of one encapsulation, and is otherwise deterministic.
func (s *suite) encryptTo(rand io.Reader, pub []byte, info *hpkeInfo, plaintext []byte) (kemOutput, ciphertext []byte, err error) {
	shared, kemOutput, err := s.kem.encap(rand, pub)
	if err != nil {
		return nil, nil, err
	}
	c := s.schedule(shared, info)
	defer clear(c.secret)
	key, nonce := c.keys()
	defer clear(key)
	return kemOutput, s.aeadSeal(key, nonce, nil, plaintext), nil
}

// decapFor decapsulates with a private key. pub is its public key, or nil if it is not known.
func (s *suite) decapFor(priv, pub, kemOutput []byte) ([]byte, error) {
	if k, ok := s.kem.(*dhKEM); ok {
		return k.decapFor(priv, pub, kemOutput)
	}
	return s.kem.decap(priv, kemOutput)
}

// decryptFrom implements OpenBase (RFC 9180 §6.1) with empty associated data. The caller owns the plaintext.
func (s *suite) decryptFrom(priv []byte, info *hpkeInfo, kemOutput, ciphertext []byte) ([]byte, error) {
	return s.decryptFor(priv, nil, info, kemOutput, ciphertext)
}

// decryptFor is decryptFrom with the public key of priv; pub is nil if it is not known.
func (s *suite) decryptFor(priv, pub []byte, info *hpkeInfo, kemOutput, ciphertext []byte) ([]byte, error) {
	shared, err := s.decapFor(priv, pub, kemOutput)
	if err != nil {
		return nil, err
	}
	c := s.schedule(shared, info)
	defer clear(c.secret)
	key, nonce := c.keys()
	defer clear(key)
	plaintext, err := s.aeadOpen(key, nonce, nil, ciphertext)
	if err != nil {
		return nil, fail(ErrForged, "§5.1.3", "HPKE ciphertext", "does not open with this private key and context")
	}
	return plaintext, nil
}

// exportTo implements SetupBaseS and Context.Export (RFC 9180 §5.1.1, §5.3), as external initialization uses them
// (RFC 9420 §8.3). It returns a KEM output for the holder of pub, and a secret of n bytes, at most s.maxExpand, that
// both can compute.
func (s *suite) exportTo(rand io.Reader, pub, info []byte, exporterContext string, n int) (kemOutput []byte, secret Secret, err error) {
	if err := s.exportable(n); err != nil {
		return nil, Secret{}, err
	}
	shared, kemOutput, err := s.kem.encap(rand, pub)
	if err != nil {
		return nil, Secret{}, err
	}
	c := s.schedule(shared, s.hashInfo(info))
	defer clear(c.secret)
	return kemOutput, c.export(exporterContext, n), nil
}

// exportFrom implements SetupBaseR and Context.Export: the receiver's side of exportTo.
func (s *suite) exportFrom(priv, kemOutput, info []byte, exporterContext string, n int) (Secret, error) {
	return s.exportFor(priv, nil, kemOutput, info, exporterContext, n)
}

// exportFor is exportFrom with the public key of priv; pub is nil if it is not known.
func (s *suite) exportFor(priv, pub, kemOutput, info []byte, exporterContext string, n int) (Secret, error) {
	if err := s.exportable(n); err != nil {
		return Secret{}, err
	}
	shared, err := s.decapFor(priv, pub, kemOutput)
	if err != nil {
		return Secret{}, err
	}
	c := s.schedule(shared, s.hashInfo(info))
	defer clear(c.secret)
	return c.export(exporterContext, n), nil
}

func (s *suite) exportable(n int) error {
	if n < 0 || n > s.maxExpand() {
		return fail(ErrMisuse, "", "HPKE export", "%d bytes wanted, at most %d", n, s.maxExpand())
	}
	return nil
}

// deriveKeyPair implements DeriveKeyPair (RFC 9180 §7.1.3). An X25519 or X448 private key is returned as derived, not
// clamped: every use clamps it, and the published vectors contain unclamped keys.
func (s *suite) deriveKeyPair(ikm []byte) (priv Secret, pub []byte, err error) {
	if len(ikm) == 0 {
		return Secret{}, nil, fail(ErrMisuse, "", "key pair", "to be derived from an erased secret")
	}
	key, pub, err := s.kem.derive(ikm)
	if err != nil {
		return Secret{}, nil, err
	}
	return ownSecret(key), pub, nil
}

// generateKeyPair makes an HPKE key pair that depends only on the next bytes of rand.
func (s *suite) generateKeyPair(rand io.Reader) (Secret, []byte, error) {
	seed, err := readSeed(rand, s.kem.seedLen())
	if err != nil {
		return Secret{}, nil, err
	}
	defer clear(seed)
	return s.deriveKeyPair(seed)
}

// publicKeyOf computes the public key of an HPKE private key.
func (s *suite) publicKeyOf(priv []byte) ([]byte, error) { return s.kem.publicKey(priv) }

// validatePublicKey refuses an HPKE public key to which nothing could be encrypted: ErrMalformed if
// it has the wrong length or is no point of the curve, ErrInvalid if it is a point of small order.
func (s *suite) validatePublicKey(pub []byte) error { return s.kem.validate(pub) }

// readSeed reads n bytes of randomness.
func readSeed(rand io.Reader, n int) ([]byte, error) {
	if rand == nil {
		return nil, fail(ErrMisuse, "", "random source", "is nil")
	}
	seed := make([]byte, n)
	if _, err := io.ReadFull(rand, seed); err != nil {
		return nil, within("random source", ErrMisuse, err)
	}
	return seed, nil
}
