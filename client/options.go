package client

import (
	"crypto/rand"
	"io"
	"log/slog"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// Clock is the source of time for a device.
type Clock interface {
	Now() time.Time
	After(time.Duration) <-chan time.Time
}

type systemClock struct{}

func (systemClock) Now() time.Time                         { return time.Now() }
func (systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Options configures a device. Store and Transport must be set; zero fields take defaults.
type Options struct {
	Store     Store
	Transport Transport
	Clock     Clock        // nil: the clock of the machine
	Rand      io.Reader    // nil: crypto/rand
	Log       *slog.Logger // nil: no log. The log never contains content, keys or codes
	// Suite is the cipher suite of a device that is to be enrolled, any of mlscore's. The default is
	// mlscore.MLS128X25519AES128Ed25519.
	Suite CipherSuite
	// Suites lists additional cipher suites whose conversations this device can join: it keeps KeyPackages for them.
	// Suites with another signature scheme than the device's key are ignored. nil means
	// mlscore.MLS128MLKEM768X25519AES128Ed25519 under the number that all releases know, so that conversations can be
	// migrated to it.
	Suites []CipherSuite
	// Admit decides about a conversation to which another user has added this device, unless a known device of the
	// same user is in it. nil joins all valid conversations. Admit runs on a goroutine of the device, and may take
	// long; after a crash it may be called again.
	Admit  func(JoinRequest) Decision
	Limits Limits
	Timing Timing

	// extensions are listed in the capabilities of leaves: tests simulate an earlier release with fewer extensions.
	extensions []mlscore.ExtensionType
}

// Limits bounds the resources of a device. A zero field selects its default.
type Limits struct {
	Held       int // messages of one conversation that wait for a commit: 1,024
	HeldBytes  int // their bytes: 16 MiB
	Outgoing   int // messages of one conversation that wait to be sent: 4,096
	Operations int // waiting changes of one group: 256
	Attempts   int // commits that one change of a group may lose before it is given up: 64
	Orders     int // order hashes that are kept for one conversation: 1,024
	Groups     int // groups in memory, the most recently used: 1,024
	// GroupMembers bounds the devices of all groups in memory together: 65,536. One group may be open whatever its
	// size.
	GroupMembers int
	Inline       int // bytes of a commit, a Welcome or a tree inside the entry itself: 256 KiB
	Commit       int // bytes of a commit: 64 MiB; a larger one counts as one that cannot be processed
	// AddBytes bounds the bytes of KeyPackages in one commit; further users are added by another commit: 512 KiB,
	// since an entry has 1 MiB; 8 times that where commits travel as blobs.
	AddBytes    int
	KeyPackages int // KeyPackages of the device's own suite that the directory should have: 50
	Reserve     int // KeyPackages of each other suite: 5; -1 for only the last resort
	Receipts    int // members of a conversation up to which receipts are sent: 16; -1 for none
	// KeyCommits bounds the key changes of all members of a conversation together within Timing.KeyAge: 256. In larger
	// groups each member changes keys less often.
	KeyCommits int
	Strangers  int // requests to join that wait for the user's decision: 64
	Requests   int // concurrent requests: 16, or fewer if the node wants
	// PastEpochs is the number of ended epochs for which a conversation can still read late messages: 64; -1 for
	// none. Messages do not go through the log, and commits overtake them while an organization cannot be reached. A
	// smaller number better protects unread messages when a device is stolen. PastMost bounds the number while
	// Timing.PastTime keeps more epochs: 1,024.
	PastEpochs int
	PastMost   int
}

// Timing holds the durations that a device uses. A zero field selects its default.
type Timing struct {
	Call       time.Duration // how long a request is tried: 30 s
	Dial       time.Duration // an attempt to connect is given up after: 15 s
	RetryFirst time.Duration // the first wait after a failure: 250 ms
	RetryLast  time.Duration // the longest wait after a failure: 15 s
	Race       time.Duration // a lost commit is repeated within this, with growing delays up to 20 times it: 50 ms
	Grace      time.Duration // wait for an accepted entry before fetching it: 500 ms
	// Proposals is the time within which some member commits waiting proposals, in groups of up to 4 members: 3 s. It
	// is longer in proportion in larger groups.
	Proposals time.Duration
	// Contest is the time within which a commit that cannot be processed is contested: 2 s; up to a minute in large
	// groups.
	Contest  time.Duration
	Receipts time.Duration // a receipt covers the messages that came within this: 500 ms
	Upkeep   time.Duration // interval of checks of certificates, KeyPackages, devices and roots: 10 min
	// KeyAge is the average time after which the own keys of a conversation are renewed, in groups of up to
	// Limits.KeyCommits members: 7 days.
	KeyAge      time.Duration
	KeyMessages int           // or after this number of messages: 1,000
	KeyPackage  time.Duration // lifetime of a KeyPackage: 30 days
	Claim       time.Duration // how long to retry a claim for a user without KeyPackages, who may be newly enrolled: 10 s
	// PastTime is the minimum time for which an ended epoch can read late messages, even after many later epochs: 10
	// min; -1 for no longer than Limits.PastEpochs.
	PastTime time.Duration
	Rest     time.Duration // a commit whose content no replica has counts as one that cannot be processed: 10 min
	Unknown  time.Duration // a conversation that the node does not know counts as broken: 24 h
	Founding time.Duration // another member submits the founding of a successor between this and twice this: 10 s
	Closing  time.Duration // a migrated conversation is closed between this and twice this: 10 min
}

func (o Options) orDefault() (Options, error) {
	if o.Store == nil || o.Transport == nil {
		return o, wire.Errorf(wire.Malformed, "open", "Options without a Store or a Transport")
	}
	if o.Clock == nil {
		o.Clock = systemClock{}
	}
	o.Clock = &nodeClock{Clock: o.Clock}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Suite == 0 {
		o.Suite = mlscore.MLS128X25519AES128Ed25519
	}
	if o.extensions == nil {
		o.extensions = []mlscore.ExtensionType{
			extensionRules, extensionAddress, extensionSuccession, extensionAccount, extensionReaders, extensionRest, extensionContent,
		}
	}
	if o.Suites == nil {
		o.Suites = []CipherSuite{mlscore.MLS128MLKEM768X25519AES128Ed25519.Earlier()}
	}
	l, t := &o.Limits, &o.Timing
	for p, v := range map[*int]int{
		&l.Held: 1024, &l.HeldBytes: 16 << 20, &l.Outgoing: 4096, &l.Operations: 256, &l.Attempts: 64, &l.Orders: 1024,
		&l.Groups: 1024, &l.GroupMembers: 1 << 16, &l.Inline: 256 << 10, &l.Commit: 64 << 20, &l.AddBytes: 512 << 10, &l.KeyPackages: 50, &l.Reserve: 5, &l.Receipts: 16, &l.Strangers: 64, &l.KeyCommits: 256, &l.Requests: 16, &l.PastEpochs: 64, &l.PastMost: 1024, &t.KeyMessages: 1000,
	} {
		if *p == 0 {
			*p = v
		}
	}
	const day = 24 * time.Hour
	for p, v := range map[*time.Duration]time.Duration{
		&t.Call: 30 * time.Second, &t.Dial: 15 * time.Second, &t.RetryFirst: 250 * time.Millisecond, &t.RetryLast: 15 * time.Second,
		&t.Race: 50 * time.Millisecond, &t.Grace: 500 * time.Millisecond, &t.Proposals: 3 * time.Second,
		&t.Contest: 2 * time.Second, &t.Receipts: 500 * time.Millisecond, &t.Upkeep: 10 * time.Minute,
		&t.KeyAge: 7 * day, &t.KeyPackage: 30 * day, &t.Claim: 10 * time.Second, &t.Unknown: day, &t.Rest: 10 * time.Minute, &t.PastTime: 10 * time.Minute,
		&t.Founding: 10 * time.Second, &t.Closing: 10 * time.Minute,
	} {
		if *p == 0 {
			*p = v
		}
	}
	return o, nil
}
