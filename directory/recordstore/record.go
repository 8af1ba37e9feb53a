package recordstore

import (
	"github.com/mlsfed/mlsfed/wire"
)

// Record is a record that Tx.Set writes: User, Account, Person, Device, Address, Invitation, KeyPackage, LastResort,
// Claim, Buckets, Use, Shared, Subject or Token. Fields without a number in their tag are the key of the record.
type Record interface{ record() }

func (*User) record()       {}
func (*Account) record()    {}
func (*Person) record()     {}
func (*Device) record()     {}
func (*Address) record()    {}
func (*Invitation) record() {}
func (*KeyPackage) record() {}
func (*LastResort) record() {}
func (*Claim) record()      {}
func (*Buckets) record()    {}
func (*Use) record()        {}
func (*Shared) record()     {}
func (*Subject) record()    {}
func (*Token) record()      {}

// User is a user of the organization.
type User struct {
	ID      wire.UserID `cbor:"-"`
	Created wire.Time   `cbor:"2,keyasint"`
}

// Account is what the identity provider has said about a user. It outlives the user: a user whose account has ended
// can enrol nothing, whatever tokens and invitations there are.
type Account struct {
	User     wire.UserID `cbor:"-"`
	External string      `cbor:"2,keyasint,omitempty"`
	Active   bool        `cbor:"3,keyasint,omitempty"`
	Deleted  bool        `cbor:"4,keyasint,omitempty"` // the provider does not list the user any more
	Created  wire.Time   `cbor:"5,keyasint"`
	Modified wire.Time   `cbor:"6,keyasint"`
}

// Person is the id of a user's account.
type Person struct {
	User wire.UserID    `cbor:"-"`
	ID   wire.AccountID `cbor:"2,keyasint"`
	// Made is not before User.Created. An earlier release removes a user without the Person, so a User that is younger
	// is another person.
	Made wire.Time `cbor:"3,keyasint"`
}

// Issued is a certificate that may not have ended.
type Issued struct {
	Serial   []byte    `cbor:"1,keyasint"`
	NotAfter wire.Time `cbor:"2,keyasint"`
}

// Device is an enrolled device.
type Device struct {
	ID          wire.DeviceID `cbor:"-"`
	Enrolled    wire.Time     `cbor:"2,keyasint"`
	Key         []byte        `cbor:"3,keyasint"` // as MLS encodes it
	Certificate []byte        `cbor:"4,keyasint"` // DER, the one issued last
	NotAfter    wire.Time     `cbor:"5,keyasint"` // its end
	Issued      []Issued      `cbor:"6,keyasint"` // all of this device, the last one included
}

// Address is an address of a device. Enrolled distinguishes the device from a later one of the same name.
type Address struct {
	Token    wire.Token    `cbor:"-"`
	Device   wire.DeviceID `cbor:"2,keyasint"`
	Enrolled wire.Time     `cbor:"3,keyasint"`
}

// Invitation is found by the first half of the code's hash and recognized by the whole.
type Invitation struct {
	Hash    wire.Hash     `cbor:"2,keyasint"`
	User    wire.UserID   `cbor:"3,keyasint"`
	Expires wire.Time     `cbor:"4,keyasint"`
	Used    wire.DeviceID `cbor:"5,keyasint,omitempty"` // by this device; the record stays for a retry, until Expires
}

// KeyPackage is a KeyPackage that is used once.
type KeyPackage struct {
	Device  wire.DeviceID `cbor:"-"`
	Suite   uint16        `cbor:"-"`
	Ref     []byte        `cbor:"-"`          // its reference, RFC 9420 §5.2; not set in what Take returns
	Message []byte        `cbor:"2,keyasint"` // an MLSMessage
	Address wire.Token    `cbor:"3,keyasint"` // where the device receives what is sent to this KeyPackage
	Expires wire.Time     `cbor:"4,keyasint"`
}

// LastResort is the KeyPackage of a device and a suite that is given out when no other is left.
type LastResort struct{ KeyPackage }

// Claimant is a hash of the name of a claimant: a domain or a user.
type Claimant [16]byte

// Claim is a claim that was answered.
type Claim struct {
	By      Claimant          `cbor:"-"`
	ID      wire.SubmissionID `cbor:"-"`
	Time    wire.Time         `cbor:"2,keyasint"`
	User    wire.UserID       `cbor:"3,keyasint"`
	Suite   uint16            `cbor:"4,keyasint"`
	Results []Claimed         `cbor:"5,keyasint"`
}

// Claimed is one device's KeyPackage in the answer to a claim.
type Claimed struct {
	_          struct{} `cbor:",toarray"`
	Device     wire.DeviceID
	Address    wire.Token
	Message    []byte // an MLSMessage
	LastResort bool   // others may have been given it too
}

// Buckets are the rates of claims from a user: when the token bucket of one claimant will be full, and when the token
// bucket of all claimants together will be.
type Buckets struct {
	By        Claimant
	User      wire.UserID
	Pair, All wire.Time
}

// Use is the use of an address for a conversation.
type Use struct {
	Token        wire.Token          `cbor:"-"`
	Conversation wire.ConversationID `cbor:"-"`
	Since        wire.Time           `cbor:"2,keyasint"`
	Refused      bool                `cbor:"3,keyasint,omitempty"` // by the device: nothing of it is stored any more
}

// Shared is the token bucket of the address of a last resort, until the KeyPackage ends.
type Shared struct {
	Token  wire.Token `cbor:"-"`
	FullAt wire.Time  `cbor:"2,keyasint"`
	Ends   wire.Time  `cbor:"3,keyasint"`
}

// Subject is the subject of an issuer that a user is. The name in a token can change hands at the issuer; issuer and
// subject together never do (OpenID Connect Core §5.7).
type Subject struct {
	User    wire.UserID `cbor:"-"`
	Issuer  string      `cbor:"2,keyasint"`
	Subject string      `cbor:"3,keyasint"`
}

// Token is an ID token that was used. It stays until the token expires, so that none is used twice.
type Token struct {
	User    wire.UserID   `cbor:"-"`
	Hash    wire.Hash     `cbor:"-"`
	Device  wire.DeviceID `cbor:"2,keyasint"` // that it enrolled
	Expires wire.Time     `cbor:"3,keyasint"`
}

// Revocation is a revoked certificate.
type Revocation struct {
	Serial   []byte        `cbor:"-"`
	Device   wire.DeviceID `cbor:"2,keyasint"`
	Time     wire.Time     `cbor:"3,keyasint"`
	NotAfter wire.Time     `cbor:"4,keyasint"` // when the certificate ends by itself
}

// List is the revocation list.
type List struct {
	Number uint64    `cbor:"2,keyasint"`
	Next   wire.Time `cbor:"3,keyasint"`
	DER    []byte    `cbor:"4,keyasint"`
}
