package records

import (
	"encoding/binary"

	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/wire"
)

// recordVersion is the version of all records. They are CBOR in the one encoding that package wire accepts.
const recordVersion = 1

// maxRecord bounds a record: the largest is a claim's, with a KeyPackage for each device.
const maxRecord = 16 << 20

type version uint8

func (v version) check(what string) error {
	if v != recordVersion {
		return wire.Errorf(wire.Version, "read", "%s of version %d, this node knows %d: upgrade it", what, v, recordVersion)
	}
	return nil
}

// The records as they are on disk: the version, and the fields of package recordstore.
type (
	userRecord struct {
		Version version `cbor:"1,keyasint"`
		recordstore.User
	}
	accountRecord struct {
		Version version `cbor:"1,keyasint"`
		recordstore.Account
	}
	personRecord struct {
		Version version `cbor:"1,keyasint"`
		recordstore.Person
	}
	deviceRecord struct {
		Version version `cbor:"1,keyasint"`
		recordstore.Device
	}
	addressRecord struct {
		Version version `cbor:"1,keyasint"`
		recordstore.Address
	}
	invitationRecord struct {
		Version version `cbor:"1,keyasint"`
		recordstore.Invitation
	}
	keyPackageRecord struct {
		Version version `cbor:"1,keyasint"`
		recordstore.KeyPackage
	}
	claimRecord struct {
		Version version `cbor:"1,keyasint"`
		recordstore.Claim
	}
	boundRecord struct {
		Version version `cbor:"1,keyasint"`
		recordstore.Use
	}
	sharedRecord struct {
		Version version `cbor:"1,keyasint"`
		recordstore.Shared
	}
	subjectRecord struct {
		Version version `cbor:"1,keyasint"`
		recordstore.Subject
	}
	tokenRecord struct {
		Version version `cbor:"1,keyasint"`
		recordstore.Token
	}
	revocationRecord struct {
		Version version `cbor:"1,keyasint"`
		recordstore.Revocation
	}
	listRecord struct {
		Version version `cbor:"1,keyasint"`
		recordstore.List
	}
	// subjectUserRecord maps a subject of an issuer to its user.
	subjectUserRecord struct {
		Version version     `cbor:"1,keyasint"`
		User    wire.UserID `cbor:"2,keyasint"`
	}
	// timeRecord marks a KeyPackage that was taken, until it ends.
	timeRecord struct {
		Version version   `cbor:"1,keyasint"`
		Time    wire.Time `cbor:"2,keyasint"`
	}
	// bucketRecord is a GCRA token bucket.
	bucketRecord struct {
		Version version   `cbor:"1,keyasint"`
		FullAt  wire.Time `cbor:"2,keyasint"`
	}
)

func (r *userRecord) Check() error        { return r.Version.check("user") }
func (r *accountRecord) Check() error     { return r.Version.check("account") }
func (r *personRecord) Check() error      { return r.Version.check("person") }
func (r *deviceRecord) Check() error      { return r.Version.check("device") }
func (r *addressRecord) Check() error     { return r.Version.check("address") }
func (r *invitationRecord) Check() error  { return r.Version.check("invitation") }
func (r *keyPackageRecord) Check() error  { return r.Version.check("KeyPackage") }
func (r *claimRecord) Check() error       { return r.Version.check("claim") }
func (r *boundRecord) Check() error       { return r.Version.check("use of an address") }
func (r *sharedRecord) Check() error      { return r.Version.check("address of a last resort") }
func (r *subjectRecord) Check() error     { return r.Version.check("subject") }
func (r *tokenRecord) Check() error       { return r.Version.check("token") }
func (r *revocationRecord) Check() error  { return r.Version.check("revocation") }
func (r *listRecord) Check() error        { return r.Version.check("revocation list") }
func (r *subjectUserRecord) Check() error { return r.Version.check("user of a subject") }
func (r *timeRecord) Check() error        { return r.Version.check("mark") }
func (r *bucketRecord) Check() error      { return r.Version.check("bucket") }

// The kinds of keys. Names cannot hold the '/' that ends them.
const (
	kindAccount     = 'e' // user                    accountRecord
	kindPerson      = 'U' // user                    personRecord
	kindAddress     = 'a' // token                   addressRecord
	kindClaim       = 'c' // claimant's hash, id     claimRecord
	kindDevice      = 'd' // user/device             deviceRecord
	kindInvitation  = 'i' // half a hash             invitationRecord
	kindKeyPackage  = 'k' // user/device/ suite expiry ref     keyPackageRecord
	kindLastResort  = 'l' // user/device/ suite      keyPackageRecord
	kindList        = 'n' //                         listRecord
	kindRevoked     = 'r' // serial                  revocationRecord
	kindUser        = 'u' // user                    userRecord
	kindPairBucket  = 'b' // user/ claimant's hash   bucketRecord
	kindUserBucket  = 'B' // user                    bucketRecord
	kindBound       = 'A' // token, conversation's hash  boundRecord
	kindShared      = 'L' // token                   sharedRecord
	kindSubject     = 's' // user                    subjectRecord
	kindSubjectUser = 'S' // subject's hash          subjectUserRecord
	kindToken       = 't' // user/ token's hash      tokenRecord
	kindUsed        = 'x' // ref                     timeRecord: a KeyPackage that was taken
)

// keys makes the keys of records.
type keys struct{ prefix []byte }

func (k keys) key(kind byte, parts ...[]byte) []byte {
	b := append(append(make([]byte, 0, len(k.prefix)+64), k.prefix...), kind)
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

func (k keys) ofUser(kind byte, u wire.UserID) []byte { return k.key(kind, []byte(u.Name())) }

// belowUser begins the keys of several records of a user.
func (k keys) belowUser(kind byte, u wire.UserID, rest ...byte) []byte {
	return k.key(kind, []byte(u.Name()+"/"), rest)
}

func (k keys) device(v wire.DeviceID) []byte {
	return k.key(kindDevice, []byte(v.User().Name()+"/"+v.Name()))
}

// belowDevice begins the keys of a device's KeyPackages or last resorts.
func (k keys) belowDevice(kind byte, v wire.DeviceID) []byte {
	return k.key(kind, []byte(v.User().Name()+"/"+v.Name()+"/"))
}

// pool begins the keys of a device's KeyPackages of a suite.
func (k keys) pool(v wire.DeviceID, suite uint16) []byte {
	return binary.BigEndian.AppendUint16(k.belowDevice(kindKeyPackage, v), suite)
}

func (k keys) keyPackage(p *recordstore.KeyPackage) []byte {
	return append(binary.BigEndian.AppendUint64(k.pool(p.Device, p.Suite), uint64(max(p.Expires, 0))), p.Ref...)
}

func (k keys) lastResort(v wire.DeviceID, suite uint16) []byte {
	return binary.BigEndian.AppendUint16(k.belowDevice(kindLastResort, v), suite)
}

// expiryIn reads the expiry out of a key in a pool: eight bytes before the 32 of the reference or more.
func expiryIn(key, pool []byte) wire.Time { return wire.Time(binary.BigEndian.Uint64(key[len(pool):])) }
