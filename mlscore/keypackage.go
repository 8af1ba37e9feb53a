package mlscore

import (
	"bytes"
	"fmt"
	"time"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// KeyPackage is published by a client so that others can add the client while it is offline (RFC 9420 §10).
type KeyPackage struct {
	Version     ProtocolVersion
	CipherSuite CipherSuite
	InitKey     []byte
	LeafNode    *LeafNode
	Extensions  Extensions
	Signature   []byte
}

func (k *KeyPackage) encodeTBS(w *codec.Writer) {
	w.Uint16(uint16(k.Version))
	w.Uint16(uint16(k.CipherSuite))
	w.Bytes(k.InitKey)
	k.LeafNode.encode(w)
	k.Extensions.encode(w)
}

func (k *KeyPackage) encode(w *codec.Writer) {
	k.encodeTBS(w)
	w.Bytes(k.Signature)
}

func decodeKeyPackage(r *codec.Reader) *KeyPackage {
	return &KeyPackage{
		Version:     ProtocolVersion(r.Uint16()),
		CipherSuite: CipherSuite(r.Uint16()),
		InitKey:     r.Bytes(),
		LeafNode:    decodeLeafNode(r),
		Extensions:  decodeExtensions(r),
		Signature:   r.Bytes(),
	}
}

// marshal returns the encoding without the MLSMessage header, which is the input of KeyPackageRef.
func (k *KeyPackage) marshal() ([]byte, error) {
	var w codec.Writer
	k.encode(&w)
	b, err := w.Finish()
	return b, malformed("key package", err)
}

// Message encodes the KeyPackage as an MLSMessage, the form in which a KeyPackage is sent.
func (k *KeyPackage) Message() ([]byte, error) {
	return encodeMessage(WireFormatKeyPackage, k.encode)
}

// ParseKeyPackage decodes an MLSMessage with a KeyPackage in it (§10). It checks only the form: see Verify. Errors:
// ErrMalformed; ErrUnsupported for another protocol version; ErrLimit for a message over codec.DefaultLimits. The
// KeyPackage shares memory with the message.
func ParseKeyPackage(message []byte) (*KeyPackage, error) {
	m, err := parseMessage(message, codec.DefaultLimits)
	if err != nil {
		return nil, err
	}
	if m.keyPackage == nil {
		return nil, fail(ErrMalformed, "§6", "message", "is a %v, not a KeyPackage", m.format)
	}
	return m.keyPackage, nil
}

// Ref returns the KeyPackageRef by which a Welcome names its recipient (§5.2).
func (k *KeyPackage) Ref() ([]byte, error) {
	s, err := suiteOf(k.CipherSuite)
	if err != nil {
		return nil, err
	}
	b, err := k.marshal()
	if err != nil {
		return nil, err
	}
	return s.refHash("MLS 1.0 KeyPackage Reference", b), nil
}

// LastResort reports whether the KeyPackage may be claimed more than once, when no other is left.
func (k *KeyPackage) LastResort() bool {
	_, ok := k.Extensions.Find(ExtensionLastResort)
	return ok
}

// KeyPackageRules are the rules that Verify applies in addition to the RFC's.
type KeyPackageRules struct {
	Auth Authenticator
	// Now is compared with the lifetime; the zero time skips the comparison.
	Now time.Time
	// MaxLifetime is the longest total lifetime accepted (§7.2); zero for no bound.
	MaxLifetime time.Duration
	Intake      Intake
}

// Verify checks a KeyPackage without a group (§10.1, §7.3). A directory calls it before it stores a KeyPackage, a
// client before it adds the owner. A group applies its own rules when the KeyPackage is used there. Errors:
// ErrUnsupported for an unknown cipher suite, ErrForged for a signature that does not verify, ErrInvalid for a breach of
// another rule, its lifetime included, ErrPolicy if the Authenticator refuses the credential.
func (k *KeyPackage) Verify(rules KeyPackageRules) error {
	s, err := rules.Intake.suite(k.CipherSuite)
	if err != nil {
		return err
	}
	return k.verify(s, rules)
}

func (k *KeyPackage) verify(s *suite, rules KeyPackageRules) error {
	signed := signedPackages(s, []*KeyPackage{k})
	return k.verifySigned(s, rules, signed[0], signed[1])
}

// packagesTogether is the number of KeyPackages whose signatures are verified together.
const packagesTogether = 16

// verifyKeyPackages verifies KeyPackages on all processors. Each result is the same as that of verify for the
// KeyPackage alone. An error has the index of its KeyPackage; a nil KeyPackage has no error.
func verifyKeyPackages(s *suite, rules KeyPackageRules, list []*KeyPackage) []error {
	errs := make([]error, len(list))
	inParallel((len(list)+packagesTogether-1)/packagesTogether, func(chunk int) {
		from := chunk * packagesTogether
		some := list[from:min(from+packagesTogether, len(list))]
		signed := signedPackages(s, some)
		for i, k := range some {
			if k != nil {
				errs[from+i] = k.verifySigned(s, rules, signed[2*i], signed[2*i+1])
			}
		}
	})
	return errs
}

// signedPackages reports for each KeyPackage whether the signature of its leaf verifies, and whether the signature of
// the KeyPackage verifies.
func signedPackages(s *suite, list []*KeyPackage) []bool {
	items := make([]signedItem, 2*len(list)) // no signature for a nil KeyPackage
	for i, k := range list {
		if k != nil {
			var w codec.Writer
			k.encodeTBS(&w)
			items[2*i] = labelled(k.LeafNode.SignatureKey, "LeafNodeTBS", k.LeafNode.tbs(nil, 0), k.LeafNode.Signature)
			items[2*i+1] = labelled(k.LeafNode.SignatureKey, "KeyPackageTBS", w.Buffer(), k.Signature)
		}
	}
	return s.verifyEach(items)
}

// verifySigned makes the checks of verify. leafSigned and signed are the results of signedPackages.
func (k *KeyPackage) verifySigned(s *suite, rules KeyPackageRules, leafSigned, signed bool) error {
	const object = "key package"
	if k.Version != MLS10 {
		return fail(ErrUnsupported, "§10.1", object, "protocol version %d", k.Version)
	}
	if k.CipherSuite != s.id {
		return fail(ErrInvalid, "§10.1", object, "cipher suite %v, the group has %v", k.CipherSuite, s.id)
	}
	if k.LeafNode.Source != SourceKeyPackage {
		return fail(ErrInvalid, "§7.3", object, "leaf node source is %d, not key_package", k.LeafNode.Source)
	}
	if err := s.validatePublicKey(k.InitKey); err != nil {
		return within(object+", init_key", ErrInvalid, err)
	}
	if bytes.Equal(k.InitKey, k.LeafNode.EncryptionKey) {
		return fail(ErrInvalid, "§10.1", object, "init_key equals the leaf's encryption_key")
	}
	if err := k.LeafNode.verifyAlone(s, rules); err != nil {
		return within(object, ErrInvalid, err)
	}
	if !leafSigned {
		return within(object, ErrForged, badLeafSignature())
	}
	if !signed {
		return fail(ErrForged, "§10.1", object, "signature does not verify")
	}
	return rules.validate(s, k.LeafNode, UseKeyPackage)
}

// validate asks the Authenticator about a leaf's credential.
func (rules KeyPackageRules) validate(s *suite, l *LeafNode, use CredentialUse) error {
	if err := rules.Auth.ValidateCredential(l.Credential, s.authKey(l.SignatureKey), use); err != nil {
		return &Error{Kind: ErrPolicy, Clause: "§5.3.1", Object: "credential", Detail: "refused", Err: err}
	}
	return nil
}

// verifyAlone makes the checks of §7.3 that need no group: keys, capabilities, lifetime.
func (l *LeafNode) verifyAlone(s *suite, rules KeyPackageRules) error {
	if err := s.validateSignatureKey(l.SignatureKey); err != nil {
		return within("leaf node, signature_key", ErrInvalid, err)
	}
	return l.verifyContent(s, rules)
}

// verifyContent is verifyAlone without the signature key.
func (l *LeafNode) verifyContent(s *suite, rules KeyPackageRules) error {
	const object = "leaf node"
	if err := s.validatePublicKey(l.EncryptionKey); err != nil {
		return within(object+", encryption_key", ErrInvalid, err)
	}
	if err := l.bindCredential(s); err != nil {
		return within(object, ErrInvalid, err)
	}
	if err := rules.Intake.checkLeaf(s, l); err != nil {
		return within(object, ErrInvalid, err)
	}
	if !l.Capabilities.SupportsCredential(l.Credential.Type) {
		return fail(ErrInvalid, "§7.2", object, "its own credential type %#04x is not in its capabilities", uint16(l.Credential.Type))
	}
	for _, x := range l.Extensions {
		if !l.Capabilities.listsExtension(x.Type) {
			return fail(ErrInvalid, "§7.3", object, "extension %#04x is not in its capabilities", uint16(x.Type))
		}
	}
	if l.Source == SourceKeyPackage {
		return l.Lifetime.verify(rules.Now, rules.MaxLifetime)
	}
	return nil
}

// verify checks a lifetime's length, and that the lifetime contains now unless now is zero (§7.2, §7.3).
func (l Lifetime) verify(now time.Time, longest time.Duration) error {
	if l.NotBefore > l.NotAfter {
		return fail(ErrInvalid, "§7.2", "lifetime", "ends (%d) before it begins (%d)", l.NotAfter, l.NotBefore)
	}
	if longest > 0 && l.NotAfter-l.NotBefore > uint64(longest/time.Second) {
		return fail(ErrPolicy, "§7.2", "lifetime", "%d s, at most %v", l.NotAfter-l.NotBefore, longest)
	}
	if !now.IsZero() && !l.Contains(now) {
		return fail(ErrInvalid, "§7.3", "lifetime", "%v is outside of %s", now.UTC().Format(time.RFC3339), l)
	}
	return nil
}

// String formats both ends as times.
func (l Lifetime) String() string {
	const lastYear = 253402300799 // what RFC 3339 can write
	at := func(s uint64) string {
		if s > lastYear {
			return fmt.Sprintf("%d", s)
		}
		return time.Unix(int64(s), 0).UTC().Format(time.RFC3339)
	}
	return at(l.NotBefore) + " to " + at(l.NotAfter)
}
