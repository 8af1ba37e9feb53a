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

// BasicCredential is a bare assertion of an identity, in the application's format.
func BasicCredential(identity []byte) Credential {
	return Credential{Type: CredentialBasic, Identity: identity}
}

// X509Credential is a chain of DER certificates, the end entity's first. Its key must be the
// signature key of the leaf that carries it.
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

// key is the encoding.
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

// CredentialUse says where a credential was met.
type CredentialUse uint8

// The places of §5.3.1 at which a new credential is validated.
const (
	UseKeyPackage     CredentialUse = iota + 1 // in a KeyPackage that is to be added
	UseMember                                  // in the tree of a group that is being joined
	UseUpdate                                  // in an Update or a Commit's path: replaces an earlier one
	UseExternalJoin                            // in the path of an external Commit
	UseExternalSender                          // in the external_senders extension
)

// Authenticator is the application's side of the Authentication Service (§5.3.1). It must answer
// alike for all members of a group: a member whose Authenticator refuses what the others accept can
// follow the group no further. It must not judge by the present time what others judged earlier. Its
// methods are called from several goroutines at once. What they are given is part of a larger message:
// one that keeps some of it copies that.
type Authenticator interface {
	// ValidateCredential reports whether the credential legitimately speaks for signatureKey and for
	// somebody who may be met at this place. An error refuses it.
	ValidateCredential(c Credential, signatureKey []byte, use CredentialUse) error
	// Identity names the client that a credential represents: two members of one group never have
	// equal identities, and a replaced credential must keep it unless ValidSuccessor says otherwise.
	// It must be a pure function of its arguments.
	Identity(c Credential, signatureKey []byte) ([]byte, error)
	// ValidSuccessor reports whether next may take the place of old in the same leaf (§5.3.1).
	ValidSuccessor(old, next Credential) error
}

// TrustBasic is an Authenticator for basic credentials whose identities are vouched for elsewhere,
// as in tests or where the delivery service authenticates. It takes equal identities for one client
// and allows no change of identity. In groups where the devices of one user share an identity, as those
// of OpenMLS may, it refuses a user's second device: see TrustBasicDevices.
type TrustBasic struct{}

// ValidateCredential accepts every basic credential.
func (TrustBasic) ValidateCredential(c Credential, _ []byte, _ CredentialUse) error {
	if c.Type != CredentialBasic {
		return fmt.Errorf("%w: credential type %#04x, only basic is accepted", ErrPolicy, uint16(c.Type))
	}
	return nil
}

// Identity is the identity in the credential.
func (TrustBasic) Identity(c Credential, _ []byte) ([]byte, error) { return c.Identity, nil }

// ValidSuccessor demands an equal identity.
func (TrustBasic) ValidSuccessor(old, next Credential) error {
	if !old.equal(next) {
		return fmt.Errorf("%w: the identity changed", ErrPolicy)
	}
	return nil
}

// TrustBasicDevices is TrustBasic for groups in which several members, the devices of one user, have one
// identity: a client is known by its identity and its signature key together. Use TrustBasic where an
// identity is a device's own: it keeps a device from standing in a group twice, under another key.
//
// A device that comes back by an external commit with Resync, after it changed its signature key, is not
// found under its old one; it joins beside its old leaf, which another member removes.
type TrustBasicDevices struct{ TrustBasic }

// Identity is the identity in the credential, behind its length, and the signature key.
func (TrustBasicDevices) Identity(c Credential, signatureKey []byte) ([]byte, error) {
	return append(codec.AppendBytes(nil, c.Identity), signatureKey...), nil
}
