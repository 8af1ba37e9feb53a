package mlscore

import (
	"cmp"
	"crypto/rand"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// cryptoBasicsCase is a case of the format "Crypto Basics".
type cryptoBasicsCase struct {
	Suite     CipherSuite `json:"cipher_suite"`
	Reference struct {
		Label string  `json:"label"`
		Value hexData `json:"value"`
		Out   hexData `json:"out"`
	} `json:"ref_hash"`
	Expand struct {
		Secret  hexData `json:"secret"`
		Label   string  `json:"label"`
		Context hexData `json:"context"`
		Length  uint16  `json:"length"`
		Out     hexData `json:"out"`
	} `json:"expand_with_label"`
	Derive struct {
		Secret hexData `json:"secret"`
		Label  string  `json:"label"`
		Out    hexData `json:"out"`
	} `json:"derive_secret"`
	Tree struct {
		Secret     hexData `json:"secret"`
		Label      string  `json:"label"`
		Generation uint32  `json:"generation"`
		Length     uint16  `json:"length"`
		Out        hexData `json:"out"`
	} `json:"derive_tree_secret"`
	Sign struct {
		Private   hexData `json:"priv"`
		Public    hexData `json:"pub"`
		Content   hexData `json:"content"`
		Label     string  `json:"label"`
		Signature hexData `json:"signature"`
	} `json:"sign_with_label"`
	Encrypt struct {
		Private    hexData `json:"priv"`
		Public     hexData `json:"pub"`
		Label      string  `json:"label"`
		Context    hexData `json:"context"`
		Plaintext  hexData `json:"plaintext"`
		KEMOutput  hexData `json:"kem_output"`
		Ciphertext hexData `json:"ciphertext"`
	} `json:"encrypt_with_label"`
}

func (c *cryptoBasicsCase) verify(s *suite) error {
	return cmp.Or(
		same("ref_hash", s.refHash(c.Reference.Label, c.Reference.Value), c.Reference.Out),
		c.verifyExpansion(s),
		within("sign_with_label", ErrInvalid, c.verifySigning(s)),
		within("encrypt_with_label", ErrInvalid, c.verifyEncryption(s)),
	)
}

// expandable refuses arguments for which expandWithLabel would panic.
func (s *suite) expandable(object string, secret []byte, n int) error {
	if len(secret) == 0 || n > s.maxExpand() {
		return fail(ErrMalformed, "§8", object, "%d bytes from a secret of %d", n, len(secret))
	}
	return nil
}

func (c *cryptoBasicsCase) verifyExpansion(s *suite) error {
	e, d, t := &c.Expand, &c.Derive, &c.Tree
	if err := cmp.Or(
		s.expandable("expand_with_label", e.Secret, int(e.Length)),
		s.expandable("derive_secret", d.Secret, s.hashLen()),
		s.expandable("derive_tree_secret", t.Secret, int(t.Length)),
	); err != nil {
		return err
	}
	return cmp.Or(
		same("expand_with_label", s.expandWithLabel(e.Secret, e.Label, e.Context, int(e.Length)).Bytes(), e.Out),
		same("derive_secret", s.deriveSecret(d.Secret, d.Label).Bytes(), d.Out),
		same("derive_tree_secret", s.deriveTreeSecret(t.Secret, t.Label, t.Generation, int(t.Length)).Bytes(), t.Out),
	)
}

func (c *cryptoBasicsCase) verifySigning(s *suite) error {
	v := &c.Sign
	pub, err := s.signaturePublicKey(s.privateKeyOf(v.Private))
	if err != nil {
		return err
	}
	if err := cmp.Or(same("public key of priv", pub, v.Public), s.validateSignatureKey(v.Public)); err != nil {
		return err
	}
	if !s.verifyWithLabel(v.Public, v.Label, v.Content, v.Signature) {
		return fail(ErrForged, "§5.1.2", "signature", "does not verify")
	}
	own, err := s.signWithLabel(s.privateKeyOf(v.Private), v.Label, v.Content)
	if err != nil {
		return err
	}
	if !s.verifyWithLabel(v.Public, v.Label, v.Content, own) {
		return fail(ErrForged, "§5.1.2", "signature made here", "does not verify")
	}
	return nil
}

func (c *cryptoBasicsCase) verifyEncryption(s *suite) error {
	v := &c.Encrypt
	pub, err := s.publicKeyOf(s.privateKeyOf(v.Private))
	if err != nil {
		return err
	}
	if err := cmp.Or(same("public key of priv", pub, v.Public), s.validatePublicKey(v.Public)); err != nil {
		return err
	}
	plain, err := s.decryptWithLabel(s.privateKeyOf(v.Private), v.Label, v.Context, v.KEMOutput, v.Ciphertext)
	if err := cmp.Or(err, same("plaintext", plain, v.Plaintext)); err != nil {
		return err
	}
	kem, ciphertext, err := s.encryptWithLabel(rand.Reader, v.Public, v.Label, v.Context, v.Plaintext)
	if err != nil {
		return err
	}
	plain, err = s.decryptWithLabel(s.privateKeyOf(v.Private), v.Label, v.Context, kem, ciphertext)
	return cmp.Or(err, same("plaintext of the ciphertext made here", plain, v.Plaintext))
}

// deserializationCase is a case of the format "Vector Deserialization".
type deserializationCase struct {
	Header hexData `json:"vlbytes_header"`
	Length uint32  `json:"length"`
}

func (c *deserializationCase) verify(*suite) error {
	n, err := reencodes("vlbytes_header", c.Header, (*codec.Reader).Varint, func(n uint32, w *codec.Writer) { w.Varint(int(n)) })
	return cmp.Or(err, sameNumber("length", n, c.Length))
}

// pskSecretCase is a case of the format "Pre-Shared Keys".
type pskSecretCase struct {
	Suite CipherSuite `json:"cipher_suite"`
	PSKs  []pskVector `json:"psks"`
	Out   hexData     `json:"psk_secret"`
}

type pskVector struct {
	ID    hexData `json:"psk_id"`
	PSK   hexData `json:"psk"`
	Nonce hexData `json:"psk_nonce"`
}

func (c *pskSecretCase) verify(s *suite) error {
	out, err := c.compute(s)
	return cmp.Or(err, same("psk_secret", out, c.Out))
}

func (c *pskSecretCase) compute(s *suite) ([]byte, error) {
	var ids []PreSharedKeyID
	var psks []Secret
	for _, v := range c.PSKs {
		ids = append(ids, PreSharedKeyID{Type: PSKExternal, ID: v.ID, Nonce: v.Nonce})
		psks = append(psks, NewSecret(v.PSK))
	}
	secret, err := s.pskSecret(ids, psks)
	return secret.Bytes(), err
}

// transcriptCase is a case of the format "Transcript Hashes".
type transcriptCase struct {
	Suite           CipherSuite `json:"cipher_suite"`
	ConfirmationKey hexData     `json:"confirmation_key"`
	Content         hexData     `json:"authenticated_content"`
	InterimBefore   hexData     `json:"interim_transcript_hash_before"`
	ConfirmedAfter  hexData     `json:"confirmed_transcript_hash_after"`
	InterimAfter    hexData     `json:"interim_transcript_hash_after"`
}

func (c *transcriptCase) verify(s *suite) error {
	ac, err := reencodes("authenticated_content", c.Content, decodeAuthenticatedContent, encodeAgain)
	if err != nil {
		return err
	}
	if ac.content.kind != ContentCommit {
		return fail(ErrInvalid, "§8.2", "authenticated_content", "is a %v, not a commit", ac.content.kind)
	}
	if !s.verifyMAC(c.ConfirmationKey, c.ConfirmedAfter, ac.confirmationTag) {
		return fail(ErrForged, "§6.1", "confirmation tag", "does not verify")
	}
	confirmed := s.confirmedTranscript(c.InterimBefore, ac)
	return cmp.Or(
		same("confirmed_transcript_hash_after", confirmed, c.ConfirmedAfter),
		same("interim_transcript_hash_after", s.interimTranscript(confirmed, ac.confirmationTag), c.InterimAfter),
	)
}

// encodeAgain encodes an AuthenticatedContent from its fields, not from its received bytes.
func encodeAgain(ac *authenticatedContent, w *codec.Writer) {
	again := *ac.content
	again.encoded = nil
	w.Uint16(uint16(ac.format))
	w.Fixed(again.marshal())
	ac.encodeAuth(w)
}
