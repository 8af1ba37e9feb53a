package mlscore

import (
	"fmt"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// CredentialType is a code point of the "MLS Credential Types" registry (RFC 9420 §17.5).
type CredentialType uint16

// The credential types of RFC 9420.
const (
	CredentialBasic CredentialType = 1
	CredentialX509  CredentialType = 2
)

// Credential binds a member to an identity (§5.3).
type Credential struct {
	Type         CredentialType
	Identity     []byte   // basic
	Certificates [][]byte // x509: DER, the end entity's first
	Data         []byte   // any other type: its content, an opaque vector
}

// BasicCredential returns a bare assertion of an identity, in the application's format.
func BasicCredential(identity []byte) Credential {
	return Credential{Type: CredentialBasic, Identity: identity}
}

// X509Credential returns a chain of DER certificates, the end entity's first. Its key must be the signature key of
// the leaf that carries it.
func X509Credential(chain ...[]byte) Credential {
	return Credential{Type: CredentialX509, Certificates: chain}
}

func (c Credential) encode(w *codec.Writer) {
	w.Uint16(uint16(c.Type))
	switch c.Type {
	case CredentialX509:
		w.Vector(func(w *codec.Writer) {
			for _, cert := range c.Certificates {
				w.Bytes(cert)
			}
		})
	case CredentialBasic:
		w.Bytes(c.Identity)
	default:
		w.Bytes(c.Data)
	}
}

// equal compares encodings.
func (c Credential) equal(o Credential) bool { return c.key() == o.key() }

// key returns the encoding.
func (c Credential) key() string {
	var w codec.Writer
	c.encode(&w)
	return string(w.Buffer())
}

func decodeCredential(r *codec.Reader) Credential {
	c := Credential{Type: CredentialType(r.Uint16())}
	switch c.Type {
	case CredentialBasic:
		c.Identity = r.Bytes()
	case CredentialX509:
		r.Vector(func(r *codec.Reader) { c.Certificates = append(c.Certificates, r.Bytes()) })
	default: // as all implementations that carry further types write them
		c.Data = r.Bytes()
	}
	return c
}

// CredentialUse is the place at which a credential is validated.
type CredentialUse uint8

// The places of §5.3.1 at which a new credential is validated.
const (
	UseKeyPackage     CredentialUse = iota + 1 // in a KeyPackage that is to be added
	UseMember                                  // in the tree of a group that is being joined
	UseUpdate                                  // in an Update or a Commit's path: replaces an earlier one
	UseExternalJoin                            // in the path of an external Commit
	UseExternalSender                          // in the external_senders extension
)

// Authenticator is the application's side of the Authentication Service (§5.3.1). It must give the same answers for
// all members of a group: a member whose Authenticator refuses a credential that the others accept can no longer
// follow the group. Its answers must not depend on the present time, since other members validated the same
// credential earlier. Its methods are called from several goroutines at once. The arguments are parts of a larger
// message: a method that keeps a part of them must copy it.
type Authenticator interface {
	// ValidateCredential checks that the credential belongs to signatureKey and that its owner may appear at this
	// place. An error refuses the credential.
	ValidateCredential(c Credential, signatureKey []byte, use CredentialUse) error
	// Identity returns the name of the client that a credential represents: two members of one group never have equal
	// identities, and a new credential of a member must keep the identity unless ValidSuccessor accepts the change.
	// It must be a pure function of its arguments.
	Identity(c Credential, signatureKey []byte) ([]byte, error)
	// ValidSuccessor reports whether next may take the place of old in the same leaf (§5.3.1).
	ValidSuccessor(old, next Credential) error
}

// TrustBasic is an Authenticator for basic credentials whose identities are verified elsewhere, as in tests or where
// the delivery service authenticates. It treats equal identities as the same client and allows no change of identity.
// In groups where the devices of one user share an identity, as those of OpenMLS may, TrustBasic refuses a user's
// second device: see TrustBasicDevices.
type TrustBasic struct{}

// ValidateCredential accepts every basic credential.
func (TrustBasic) ValidateCredential(c Credential, _ []byte, _ CredentialUse) error {
	if c.Type != CredentialBasic {
		return fmt.Errorf("%w: credential type %#04x, only basic is accepted", ErrPolicy, uint16(c.Type))
	}
	return nil
}

// Identity returns the identity in the credential.
func (TrustBasic) Identity(c Credential, _ []byte) ([]byte, error) { return c.Identity, nil }

// ValidSuccessor requires an equal identity.
func (TrustBasic) ValidSuccessor(old, next Credential) error {
	if !old.equal(next) {
		return fmt.Errorf("%w: the identity changed", ErrPolicy)
	}
	return nil
}

// TrustBasicDevices is TrustBasic for groups in which several members, the devices of one user, have one identity:
// identity and signature key together name a client. Use TrustBasic where each device has its own identity:
// TrustBasic prevents that a device is in a group twice, under different keys.
//
// A device that changed its signature key and then comes back by an external commit with Resync is not found under
// its old key. It joins at a new leaf, and another member must remove the old leaf.
type TrustBasicDevices struct{ TrustBasic }

// Identity returns the length of the identity in the credential, the identity, and the signature key.
func (TrustBasicDevices) Identity(c Credential, signatureKey []byte) ([]byte, error) {
	return append(codec.AppendBytes(nil, c.Identity), signatureKey...), nil
}
