package mlscore

import (
	"fmt"
	"io"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// tag returns the membership tag of §6.2, the MAC over the signed content and the signature.
func (m *publicMessage) tag(s *suite, key Secret, context []byte) []byte {
	return s.mac(key.Bytes(), m.tbm(context))
}

// tbm returns AuthenticatedContentTBM (§6.2).
func (m *publicMessage) tbm(context []byte) []byte {
	parts := m.tbs(context)
	w := codec.NewWriter(make([]byte, 0, length(parts)+m.authSize()))
	for _, part := range parts {
		w.Fixed(part)
	}
	m.encodeAuth(w)
	return w.Buffer()
}

// protectPublic frames content as a PublicMessage. A member's message gets a membership tag.
func (s *suite) protectPublic(ac *authenticatedContent, membership Secret, context []byte) ([]byte, error) {
	if ac.content.kind == ContentApplication {
		return nil, fail(ErrMisuse, "§6", "application message", "must be a PrivateMessage")
	}
	m := &publicMessage{authenticatedContent: *ac}
	if ac.content.sender.Type == SenderMember {
		m.membershipTag = m.tag(s, membership, context)
	}
	return encodeMessage(WireFormatPublicMessage, m.encode)
}

// openPublic checks a PublicMessage's membership tag. The caller, who knows the key, must verify the signature.
func (s *suite) openPublic(m *publicMessage, membership Secret, context []byte) (*authenticatedContent, error) {
	object := fmt.Sprintf("%v from %v", m.content.kind, m.content.sender)
	if m.content.kind == ContentApplication {
		return nil, fail(ErrInvalid, "§6", object, "must be a PrivateMessage")
	}
	if m.content.sender.Type == SenderMember && !s.verifyMAC(membership.Bytes(), m.tbm(context), m.membershipTag) {
		return nil, fail(ErrForged, "§6.2", object, "membership tag does not verify")
	}
	return &m.authenticatedContent, nil
}

// reuseGuard is a random value that prevents a nonce from repeating if state is lost (§6.3.1).
type reuseGuard [4]byte

// apply XORs the guard into the first bytes of a nonce.
func (g reuseGuard) apply(nonce []byte) []byte {
	out := append([]byte(nil), nonce...)
	for i, b := range g {
		out[i] ^= b
	}
	return out
}

// senderDataKey derives key and nonce for the sender data from a sample of the ciphertext (§6.3.2).
func (s *suite) senderDataKey(secret Secret, ciphertext []byte) (key, nonce Secret) {
	sample := ciphertext[:min(len(ciphertext), s.hashLen())]
	return s.expandWithLabel(secret.Bytes(), "key", sample, s.keyLen()),
		s.expandWithLabel(secret.Bytes(), "nonce", sample, s.nonceLen())
}

// protectPrivate frames signed content as a PrivateMessage under one key of the sender's ratchet.
func (s *suite) protectPrivate(rand io.Reader, ac *authenticatedContent, senderData Secret, key messageKey, padding Padding) ([]byte, error) {
	c := ac.content
	// The body is a part of the encoded content, so that the buffer is never moved: no copy of the plaintext is left.
	plain := codec.NewWriter(make([]byte, 0, padding.padded(len(c.marshal())+ac.authSize())))
	c.encodeBody(plain)
	ac.encodeAuth(plain)
	plaintext, err := plain.Finish()
	if err != nil {
		return nil, malformed("message", err)
	}
	if padded := padding.padded(len(plaintext)); padded > cap(plaintext) {
		long := make([]byte, padded)
		copy(long, plaintext)
		clear(plaintext)
		plaintext = long
	} else {
		plaintext = plaintext[:padded] // what follows the content is still zero
	}
	defer clear(plaintext)
	m := &privateMessage{groupID: c.groupID, epoch: c.epoch, kind: c.kind, authenticatedData: c.authenticatedData}
	var guard reuseGuard
	if _, err := io.ReadFull(rand, guard[:]); err != nil {
		return nil, fmt.Errorf("read randomness for the reuse guard: %w", err)
	}
	var aad codec.Writer
	m.encodeHeader(&aad)
	headerLen := len(aad.Buffer())
	aad.Bytes(m.authenticatedData)
	m.ciphertext = s.aeadSeal(key.key.Bytes(), guard.apply(key.nonce.Bytes()), aad.Buffer(), plaintext)

	var data codec.Writer
	data.Uint32(c.sender.Index)
	data.Uint32(key.generation)
	data.Fixed(guard[:])
	dataKey, dataNonce := s.senderDataKey(senderData, m.ciphertext)
	defer eraseAll(dataKey, dataNonce)
	m.encryptedSenderData = s.aeadSeal(dataKey.Bytes(), dataNonce.Bytes(), aad.Buffer()[:headerLen], data.Buffer())
	return encodeSized(WireFormatPrivateMessage, m.size(), m.encode)
}

// senderData is SenderData of §6.3.2.
type senderData struct {
	leaf       LeafIndex
	generation uint32
	guard      reuseGuard
}

// openSenderData decrypts the sender data of a PrivateMessage: sender and key generation.
func (s *suite) openSenderData(m *privateMessage, secret Secret) (d senderData, err error) {
	var aad codec.Writer
	m.encodeHeader(&aad)
	key, nonce := s.senderDataKey(secret, m.ciphertext)
	defer eraseAll(key, nonce)
	plain, err := s.aeadOpen(key.Bytes(), nonce.Bytes(), aad.Buffer(), m.encryptedSenderData)
	if err != nil {
		return d, fail(ErrForged, "§6.3.2", "private message", "sender data does not decrypt")
	}
	r := codec.NewReader(plain, codec.DefaultLimits)
	d.leaf = LeafIndex(r.Uint32())
	d.generation = r.Uint32()
	copy(d.guard[:], r.Fixed(4))
	return d, malformed("sender data", r.Finish())
}

// openPrivate decrypts a PrivateMessage with the key that its sender data names. The caller must verify the
// signature.
func (s *suite) openPrivate(m *privateMessage, d senderData, key messageKey, limits codec.Limits) (*authenticatedContent, error) {
	var aad codec.Writer
	m.encodeHeader(&aad)
	aad.Bytes(m.authenticatedData)
	plain, err := s.aeadOpen(key.key.Bytes(), d.guard.apply(key.nonce.Bytes()), aad.Buffer(), m.ciphertext)
	if err != nil {
		return nil, fail(ErrForged, "§6.3.1", fmt.Sprintf("%v from %v, generation %d", m.kind, leafName(d.leaf), d.generation), "ciphertext does not decrypt")
	}
	ac := &authenticatedContent{
		format: WireFormatPrivateMessage,
		content: &framedContent{
			groupID:           m.groupID,
			epoch:             m.epoch,
			sender:            member(d.leaf),
			authenticatedData: m.authenticatedData,
			kind:              m.kind,
		},
	}
	r := codec.NewReader(plain, limits)
	ac.content.decodeBody(r)
	ac.decodeAuth(r)
	for _, b := range r.Rest() {
		if b != 0 {
			r.Fail(fail(ErrMalformed, "§6.3.1", "padding", "is not all zero"))
			break
		}
	}
	if err := r.Finish(); err != nil {
		return nil, malformed(fmt.Sprintf("private message from %v", leafName(d.leaf)), err)
	}
	return ac, nil
}
