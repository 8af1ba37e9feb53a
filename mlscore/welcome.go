package mlscore

import (
	"fmt"
	"io"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// welcome is Welcome of §12.4.3.1.
type welcome struct {
	suite              CipherSuite
	secrets            []encryptedGroupSecrets
	encryptedGroupInfo []byte
}

type encryptedGroupSecrets struct {
	newMember []byte
	secrets   hpkeCiphertext
}

func (w *welcome) encode(e *codec.Writer) {
	e.Uint16(uint16(w.suite))
	e.Vector(func(e *codec.Writer) {
		for _, s := range w.secrets {
			e.Bytes(s.newMember)
			s.secrets.encode(e)
		}
	})
	e.Bytes(w.encryptedGroupInfo)
}

func decodeWelcome(r *codec.Reader) *welcome {
	w := &welcome{suite: CipherSuite(r.Uint16())}
	r.Vector(func(r *codec.Reader) {
		w.secrets = append(w.secrets, encryptedGroupSecrets{r.Bytes(), decodeHPKECiphertext(r)})
	})
	w.encryptedGroupInfo = r.Bytes()
	return w
}

// groupSecrets is GroupSecrets of §12.4.3.1.
type groupSecrets struct {
	joiner     Secret
	pathSecret *Secret
	psks       []PreSharedKeyID
}

func (g *groupSecrets) marshal() []byte {
	var w codec.Writer
	w.Bytes(g.joiner.Bytes())
	w.Optional(g.pathSecret != nil)
	if g.pathSecret != nil {
		w.Bytes(g.pathSecret.Bytes())
	}
	w.Vector(func(w *codec.Writer) {
		for _, id := range g.psks {
			id.encode(w)
		}
	})
	return w.Buffer()
}

// parseGroupSecrets decodes b. The result shares no memory with b, which holds secrets and is erased.
func parseGroupSecrets(b []byte, limits codec.Limits) (*groupSecrets, error) {
	r := codec.NewReader(b, limits)
	g := &groupSecrets{joiner: NewSecret(r.Bytes())}
	if r.Optional() {
		s := NewSecret(r.Bytes())
		g.pathSecret = &s
	}
	r.Vector(func(r *codec.Reader) { g.psks = append(g.psks, decodePSKID(r).clone()) })
	return g, malformed("group secrets", r.Finish())
}

func (g *groupSecrets) erase() {
	g.joiner.Erase()
	if g.pathSecret != nil {
		g.pathSecret.Erase()
	}
}

// newcomer is one recipient of a Welcome.
type newcomer struct {
	keyPackage *KeyPackage
	pathSecret *Secret // of the lowest common ancestor with the committer
}

// sealWelcome encrypts a GroupInfo to newcomers. The encrypted GroupInfo is the HPKE context for all of them and is
// hashed once.
func (s *suite) sealWelcome(rand io.Reader, info *groupInfo, joiner, member Secret, psks []PreSharedKeyID, to []newcomer) ([]byte, error) {
	key, nonce := s.welcomeKey(member)
	defer eraseAll(key, nonce)
	var plain codec.Writer
	info.encode(&plain)
	plaintext, err := plain.Finish()
	if err != nil {
		return nil, malformed("GroupInfo", err)
	}
	w := &welcome{suite: s.id, encryptedGroupInfo: s.aeadSeal(key.Bytes(), nonce.Bytes(), nil, plaintext)}
	context := s.sealInfo("Welcome", w.encryptedGroupInfo)
	list := make([]sealing, len(to))
	w.secrets = make([]encryptedGroupSecrets, len(to))
	for i, n := range to {
		ref, err := n.keyPackage.Ref()
		if err != nil {
			return nil, err
		}
		w.secrets[i].newMember = ref
		secrets := (&groupSecrets{joiner, n.pathSecret, psks}).marshal()
		defer clear(secrets)
		list[i] = sealing{
			name:      fmt.Sprintf("Welcome for key package %x", ref),
			key:       n.keyPackage.InitKey,
			info:      context,
			plaintext: secrets,
		}
	}
	sealed, err := s.sealAll(rand, list)
	if err != nil {
		return nil, err
	}
	for i := range sealed {
		w.secrets[i].secrets = sealed[i]
	}
	return encodeMessage(WireFormatWelcome, w.encode)
}

// welcomeKey derives the key and nonce under which a Welcome's GroupInfo is encrypted (§12.4.3.1).
func (s *suite) welcomeKey(member Secret) (key, nonce Secret) {
	welcome := s.welcomeSecret(member)
	defer welcome.Erase()
	return s.expandWithLabel(welcome.Bytes(), "key", nil, s.keyLen()),
		s.expandWithLabel(welcome.Bytes(), "nonce", nil, s.nonceLen())
}

// find returns the entry for the KeyPackage with a reference.
func (w *welcome) find(ref []byte) (hpkeCiphertext, bool) {
	for _, s := range w.secrets {
		if string(s.newMember) == string(ref) {
			return s.secrets, true
		}
	}
	return hpkeCiphertext{}, false
}

// openSecrets decrypts the group secrets for the holder of an init key. initPub is its public key, or nil.
func (s *suite) openSecrets(w *welcome, c hpkeCiphertext, initKey Secret, initPub []byte, limits codec.Limits) (*groupSecrets, error) {
	plain, err := s.decryptLabelled(initKey.Bytes(), initPub, "Welcome", w.encryptedGroupInfo, c.kemOutput, c.ciphertext)
	if err != nil {
		return nil, because(err, ErrForged, "§12.4.3.1", "Welcome", "group secrets do not decrypt")
	}
	defer clear(plain)
	g, err := parseGroupSecrets(plain, limits)
	if err != nil {
		return nil, err
	}
	err = s.checkSecretLen("joiner secret", g.joiner.Len())
	if err == nil && g.pathSecret != nil {
		err = s.checkSecretLen("path secret", g.pathSecret.Len())
	}
	if err != nil {
		g.erase()
		return nil, within("Welcome", ErrInvalid, err)
	}
	return g, nil
}

// openInfo decrypts a Welcome's GroupInfo.
func (s *suite) openInfo(w *welcome, member Secret, limits codec.Limits) (*groupInfo, error) {
	key, nonce := s.welcomeKey(member)
	defer eraseAll(key, nonce)
	plain, err := s.aeadOpen(key.Bytes(), nonce.Bytes(), nil, w.encryptedGroupInfo)
	if err != nil {
		return nil, fail(ErrForged, "§12.4.3.1", "Welcome", "GroupInfo does not decrypt: wrong joiner secret or PSKs")
	}
	r := codec.NewReader(plain, limits)
	g := decodeGroupInfo(r)
	return g, malformed("GroupInfo", r.Finish())
}
