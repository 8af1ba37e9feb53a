package directory

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"io"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// CA is the organization's certificate authority. Its certificate must allow signing certificates and
// revocation lists, and its key be Ed25519 or ECDSA.
type CA interface {
	Certificate() *x509.Certificate
	Signer() crypto.Signer
}

// Clock is where a directory has the time from.
type Clock interface {
	Now() time.Time
	After(time.Duration) <-chan time.Time
}

type systemClock struct{}

func (systemClock) Now() time.Time                         { return time.Now() }
func (systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Config is what a directory works with. Domain and CA must be set; other zero fields take defaults.
type Config struct {
	Domain wire.Domain
	CA     CA
	Clock  Clock // nil is the machine's
	// Count is what invitations and claims age by: a clock that does not jump. nil: Clock.Now.
	Count func() time.Time
	Rand  io.Reader // nil is crypto/rand
	// Low is told after a claim that a device has few KeyPackages left. It must not block. May be nil.
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

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

func (c Config) withDefaults() (Config, error) {
	if err := c.Domain.Check(); err != nil {
		return c, fmt.Errorf("directory: %w", err)
	}
	if c.CA == nil || c.CA.Certificate() == nil || c.CA.Signer() == nil {
		return c, fmt.Errorf("directory of %s: no certificate authority is given", c.Domain)
	}
	if c.Clock == nil {
		c.Clock = systemClock{}
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
	c.MaxDevices = or(c.MaxDevices, 32)
	c.InvitationLife = or(c.InvitationLife, 7*day)
	c.CertificateLife = or(c.CertificateLife, 90*day)
	c.RenewBefore = or(c.RenewBefore, 30*day)
	c.RenewAfter = or(c.RenewAfter, 90*day)
	c.ListLife = or(c.ListLife, 7*day)
	c.MaxTokens = or(c.MaxTokens, 64)
	c.MaxKeyPackage = or(c.MaxKeyPackage, 32<<10)
	c.MaxKeyPackages = or(c.MaxKeyPackages, 200)
	c.MaxKeyPackageBytes = or(c.MaxKeyPackageBytes, 4<<20)
	c.MaxLifetime = or(c.MaxLifetime, 100*day)
	c.LowWater = or(c.LowWater, 20)
	c.ClaimMemory = or(c.ClaimMemory, day)
	c.ClaimBurst = or(c.ClaimBurst, 60)
	c.ClaimEvery = or(c.ClaimEvery, time.Second)
	c.MaxClaimants = or(c.MaxClaimants, 65536)
	c.PairBurst = or(c.PairBurst, 10)
	c.PairEvery = or(c.PairEvery, 10*time.Minute)
	c.UserBurst = or(c.UserBurst, 30)
	c.UserEvery = or(c.UserEvery, 2*time.Minute)
	c.LastResortBurst = or(c.LastResortBurst, 32)
	c.LastResortEvery = or(c.LastResortEvery, 10*time.Minute)
	c.SweepInterval = or(c.SweepInterval, 10*time.Minute)
	return c
}
