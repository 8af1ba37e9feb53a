package directory

import (
	"encoding/binary"
	"fmt"

	"github.com/mlsfed/mlsfed/mlscore"
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

type userRecord struct {
	Version version   `cbor:"1,keyasint"`
	Created wire.Time `cbor:"2,keyasint"`
}

func (r *userRecord) Check() error { return r.Version.check("user") }

// issued is a certificate that may not have ended.
type issued struct {
	Serial   []byte    `cbor:"1,keyasint"`
	NotAfter wire.Time `cbor:"2,keyasint"`
}

type deviceRecord struct {
	Version     version   `cbor:"1,keyasint"`
	Enrolled    wire.Time `cbor:"2,keyasint"`
	Key         []byte    `cbor:"3,keyasint"` // as MLS encodes it
	Certificate []byte    `cbor:"4,keyasint"` // DER, the one issued last
	NotAfter    wire.Time `cbor:"5,keyasint"` // its end
	Issued      []issued  `cbor:"6,keyasint"` // all of this device, the last one included
}

func (r *deviceRecord) Check() error { return r.Version.check("device") }

// invitationRecord is found by the first half of the code's hash and recognized by the whole.
type invitationRecord struct {
	Version version       `cbor:"1,keyasint"`
	Hash    wire.Hash     `cbor:"2,keyasint"`
	User    wire.UserID   `cbor:"3,keyasint"`
	Expires wire.Time     `cbor:"4,keyasint"`
	Used    wire.DeviceID `cbor:"5,keyasint,omitempty"` // by whom; the record stays for a retry, until Expires
}

func (r *invitationRecord) Check() error { return r.Version.check("invitation") }

type keyPackageRecord struct {
	Version version    `cbor:"1,keyasint"`
	Message []byte     `cbor:"2,keyasint"` // an MLSMessage
	Address wire.Token `cbor:"3,keyasint"` // where the device receives what is sent to this KeyPackage
	Expires wire.Time  `cbor:"4,keyasint"`
}

func (r *keyPackageRecord) Check() error { return r.Version.check("KeyPackage") }

type claimRecord struct {
	Version version             `cbor:"1,keyasint"`
	Time    wire.Time           `cbor:"2,keyasint"`
	User    wire.UserID         `cbor:"3,keyasint"`
	Suite   mlscore.CipherSuite `cbor:"4,keyasint"`
	Results []Claimed           `cbor:"5,keyasint"`
}

func (r *claimRecord) Check() error { return r.Version.check("claim") }

type timeRecord struct {
	Version version   `cbor:"1,keyasint"`
	Time    wire.Time `cbor:"2,keyasint"`
}

func (r *timeRecord) Check() error { return r.Version.check("mark") }

type revocationRecord struct {
	Version  version       `cbor:"1,keyasint"`
	Device   wire.DeviceID `cbor:"2,keyasint"`
	Time     wire.Time     `cbor:"3,keyasint"`
	NotAfter wire.Time     `cbor:"4,keyasint"` // when the certificate ends by itself
}

func (r *revocationRecord) Check() error { return r.Version.check("revocation") }

type listRecord struct {
	Version version   `cbor:"1,keyasint"`
	Number  uint64    `cbor:"2,keyasint"`
	Next    wire.Time `cbor:"3,keyasint"`
	List    []byte    `cbor:"4,keyasint"` // DER
}

func (r *listRecord) Check() error { return r.Version.check("revocation list") }

// addressRecord says whose an address is. Enrolled tells a device from a later one of the same name.
type addressRecord struct {
	Version  version       `cbor:"1,keyasint"`
	Device   wire.DeviceID `cbor:"2,keyasint"`
	Enrolled wire.Time     `cbor:"3,keyasint"`
}

func (r *addressRecord) Check() error { return r.Version.check("address") }

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
	kindSubjectUser = 'S' // subject's hash         subjectUserRecord
	kindToken       = 't' // user/ token's hash      tokenRecord
	kindUsed        = 'x' // ref                     timeRecord: a KeyPackage that was claimed
)

func (d *Directory) key(kind byte, parts ...any) []byte {
	b := append(append([]byte{}, d.prefix...), kind)
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			b = append(b, p...)
		case []byte:
			b = append(b, p...)
		case mlscore.CipherSuite:
			b = binary.BigEndian.AppendUint16(b, uint16(p))
		case wire.Time:
			b = binary.BigEndian.AppendUint64(b, uint64(max(p, 0)))
		default:
			panic(fmt.Sprintf("directory: a key of %T", p)) // all callers are in this package
		}
	}
	return b
}

func (d *Directory) userKey(u wire.UserID) []byte { return d.key(kindUser, u.Name()) }

func (d *Directory) deviceKey(v wire.DeviceID) []byte {
	return d.key(kindDevice, v.User().Name()+"/"+v.Name())
}

// pool begins the keys of a device's KeyPackages of a suite.
func (d *Directory) pool(v wire.DeviceID, suite mlscore.CipherSuite) []byte {
	return d.key(kindKeyPackage, v.User().Name()+"/"+v.Name()+"/", suite)
}

func (d *Directory) lastResortKey(v wire.DeviceID, suite mlscore.CipherSuite) []byte {
	return d.key(kindLastResort, v.User().Name()+"/"+v.Name()+"/", suite)
}

// expiryIn reads the expiry out of a key in a pool: eight bytes before the 32 of the reference or more.
func expiryIn(key, pool []byte) wire.Time { return wire.Time(binary.BigEndian.Uint64(key[len(pool):])) }
