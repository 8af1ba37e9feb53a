package directory

import (
	"cmp"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"io"
	"time"

	"github.com/mlsfed/mlsfed/internal/clock"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// CA is the organization's certificate authority. Its certificate must allow signing certificates and
// revocation lists, and its key be Ed25519 or ECDSA.
type CA interface {
	Certificate() *x509.Certificate
	Signer() crypto.Signer
}

// Config is what a directory works with. Domain and CA must be set; other zero fields take defaults.
type Config struct {
	Domain wire.Domain
	CA     CA
	Clock  clock.Source // nil is the machine's
	// Count is what invitations and claims age by: a clock that does not jump. nil: Clock.Now.
	Count func() time.Time
	Rand  io.Reader // nil is crypto/rand
	// Low is called after a claim that leaves a device with few KeyPackages. It must not block. May be nil.
	Low func(Low)
	// Report is given what Run could not do; it goes on. May be nil.
	Report func(error)

	MaxDevices      int           // of a user; 32
	InvitationLife  time.Duration // the longest; 7 days
	CertificateLife time.Duration // 90 days
	RenewBefore     time.Duration // how long before its end a certificate is replaced; 30 days
	RenewAfter      time.Duration // how long after its end a device that was away gets another one by its key; 90 days, negative for never
	ListLife        time.Duration // of a revocation list; 7 days

	// MaxTokens is how many ID tokens that have not expired one user can have used; 64.
	MaxTokens int

	MaxKeyPackage      int           // bytes of one; 32 KiB
	MaxKeyPackages     int           // of one device and suite, besides the last resort; 200
	MaxKeyPackageBytes int           // of one device and suite; 4 MiB
	MaxLifetime        time.Duration // of a KeyPackage; 100 days by default
	LowWater           int           // fewer than this are few; 20
	ClaimMemory        time.Duration // how long a claim is known by its id; 24 hours

	ClaimBurst   int           // claims that a user of this organization can make at once; 60
	ClaimEvery   time.Duration // after which he can make one more; 1 second
	MaxClaimants int           // whose rates are remembered at once; 65,536
	// Records that a device makes of addresses: new addresses, and refusals of conversations that nobody has sent. They
	// stay as long as the device is enrolled.
	AddressBurst int           // at once; 20,000
	AddressEvery time.Duration // after which there can be one more; 5 seconds
	// Claims of KeyPackages that are used once. Beyond these a claim is answered with last resorts.
	PairBurst int           // by one other organization, or one user here, from one user, at once; 10
	PairEvery time.Duration // after which there can be one more; 10 minutes
	UserBurst int           // by all claimants together from one user, at once; 30
	UserEvery time.Duration // after which there can be one more; 2 minutes
	// Conversations that one last-resort KeyPackage takes its device into.
	LastResortBurst int           // at once; 32
	LastResortEvery time.Duration // after which there can be one more; 10 minutes

	SweepInterval time.Duration // of Run; 10 minutes
}

// Low says that a device should upload KeyPackages.
type Low struct {
	Device wire.DeviceID
	Suite  mlscore.CipherSuite
	Left   int // not counting the last resort
}

const day = 24 * time.Hour

func (c Config) withDefaults() (Config, error) {
	if err := c.Domain.Check(); err != nil {
		return c, fmt.Errorf("directory: %w", err)
	}
	if c.CA == nil || c.CA.Certificate() == nil || c.CA.Signer() == nil {
		return c, fmt.Errorf("directory of %s: no certificate authority is given", c.Domain)
	}
	if c.Clock == nil {
		c.Clock = clock.System{}
	}
	if c.Count == nil {
		c.Count = c.Clock.Now
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Low == nil {
		c.Low = func(Low) {}
	}
	if c.Report == nil {
		c.Report = func(error) {}
	}
	return c.withLimits(), nil
}

// Defaults are the limits that zero fields stand for. They are those of the configuration that 'mlsfed init' writes: a
// test compares them.
func Defaults() Config { return Config{}.withLimits() }

func (c Config) withLimits() Config {
	c.MaxDevices = cmp.Or(c.MaxDevices, 32)
	c.InvitationLife = cmp.Or(c.InvitationLife, 7*day)
	c.CertificateLife = cmp.Or(c.CertificateLife, 90*day)
	c.RenewBefore = cmp.Or(c.RenewBefore, 30*day)
	c.RenewAfter = cmp.Or(c.RenewAfter, 90*day)
	c.ListLife = cmp.Or(c.ListLife, 7*day)
	c.MaxTokens = cmp.Or(c.MaxTokens, 64)
	c.MaxKeyPackage = cmp.Or(c.MaxKeyPackage, 32<<10)
	c.MaxKeyPackages = cmp.Or(c.MaxKeyPackages, 200)
	c.MaxKeyPackageBytes = cmp.Or(c.MaxKeyPackageBytes, 4<<20)
	c.MaxLifetime = cmp.Or(c.MaxLifetime, 100*day)
	c.LowWater = cmp.Or(c.LowWater, 20)
	c.ClaimMemory = cmp.Or(c.ClaimMemory, day)
	c.ClaimBurst = cmp.Or(c.ClaimBurst, 60)
	c.ClaimEvery = cmp.Or(c.ClaimEvery, time.Second)
	c.MaxClaimants = cmp.Or(c.MaxClaimants, 65536)
	c.AddressBurst = cmp.Or(c.AddressBurst, 20_000)
	c.AddressEvery = cmp.Or(c.AddressEvery, 5*time.Second)
	c.PairBurst = cmp.Or(c.PairBurst, 10)
	c.PairEvery = cmp.Or(c.PairEvery, 10*time.Minute)
	c.UserBurst = cmp.Or(c.UserBurst, 30)
	c.UserEvery = cmp.Or(c.UserEvery, 2*time.Minute)
	c.LastResortBurst = cmp.Or(c.LastResortBurst, 32)
	c.LastResortEvery = cmp.Or(c.LastResortEvery, 10*time.Minute)
	c.SweepInterval = cmp.Or(c.SweepInterval, 10*time.Minute)
	return c
}
