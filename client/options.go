package client

import (
	"crypto/rand"
	"io"
	"log/slog"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// Clock is where a device has the time from.
type Clock interface {
	Now() time.Time
	After(time.Duration) <-chan time.Time
}

type systemClock struct{}

func (systemClock) Now() time.Time                         { return time.Now() }
func (systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Options are what a device works with. Store and Transport must be set; zero fields take defaults.
type Options struct {
	Store     Store
	Transport Transport
	Clock     Clock        // nil is the machine's
	Rand      io.Reader    // nil is crypto/rand
	Log       *slog.Logger // nil logs nothing; never content, keys or codes
	// Suite is the cipher suite of a device that is to be enrolled, any of mlscore's. By default
	// mlscore.MLS128X25519AES128Ed25519.
	Suite mlscore.CipherSuite
	// Suites are others in whose conversations the device can be beside those of its own suite: it keeps
	// KeyPackages of them. Those with another signature scheme than the device's key are left out. nil stands
	// for mlscore.MLS128MLKEM768X25519AES128Ed25519 under the number that all releases know, so that
	// conversations can be migrated to it.
	Suites []mlscore.CipherSuite
	// Admit decides on a conversation that somebody adds this device to, unless another device of the user
	// that this one knows is in it. nil joins all that are valid. It is called on a goroutine of the device,
	// and may take its time; it may be called again after a crash.
	Admit  func(JoinRequest) Decision
	Limits Limits
	Timing Timing

	// extensions are what the capabilities of leaves list: fewer, in tests, stand for an earlier release.
	extensions []mlscore.ExtensionType
}

// Limits bound what a device takes on. A zero field stands for its default.
type Limits struct {
	Held       int // messages of one conversation that wait for a commit: 1,024
	HeldBytes  int // and their bytes: 16 MiB
	Outgoing   int // messages of one conversation that wait to be sent: 4,096
	Operations int // changes of one group that wait: 256
	Attempts   int // commits that one change of a group may lose before it is given up: 64
	Orders     int // order hashes that are kept of one conversation: 1,024
	Groups     int // groups that are open in memory, the most recently used: 1,024
	// GroupMembers is how many devices the groups in memory have together: 65,536. One group is open however large.
	GroupMembers int
	Inline       int // bytes of a Welcome or tree that stand in the entry itself: 256 KiB
	AddBytes     int // of KeyPackages in one commit, from which on further users are added by another one: 512 KiB; an entry has 1 MiB
	KeyPackages  int // of the device's own suite that the directory should have: 50
	Reserve      int // of each other suite: 5; -1 for none but the last resort
	Receipts     int // members of a conversation up to which receipts are sent: 16; -1 for none
	KeyCommits   int // key changes of all members of a conversation together within Timing.KeyAge: 256; larger groups change keys less often
	Strangers    int // requests to join that wait for the user's decision: 64
	Requests     int // requests under way at once: 16, or fewer if the node wants
	// PastEpochs is how many ended epochs of a conversation can still read late messages: 64; -1 for
	// none. Messages go beside the log, and are overtaken by commits while an organization cannot be
	// reached. Fewer protect what has not been read yet better when a device is taken. PastMost is how
	// many there may be while Timing.PastTime keeps more: 1,024.
	PastEpochs int
	PastMost   int
}

// Timing is how long things take. A zero field stands for its default.
type Timing struct {
	Call        time.Duration // a request is tried again: 30 s
	Dial        time.Duration // a connection is given up: 15 s
	RetryFirst  time.Duration // the first wait after a failure: 250 ms
	RetryLast   time.Duration // the longest: 15 s
	Race        time.Duration // a lost commit is made again within this, longer each time, up to 20 times it: 50 ms
	Grace       time.Duration // an entry that was accepted is waited for before it is fetched: 500 ms
	Proposals   time.Duration // waiting proposals are committed by somebody within this, in groups of up to 4 members: 3 s; longer in proportion in larger ones
	Contest     time.Duration // a commit that cannot be processed is contested within this: 2 s; up to a minute in large groups
	Receipts    time.Duration // a receipt covers what came within this: 500 ms
	Upkeep      time.Duration // certificates, KeyPackages, devices and roots are looked at: 10 min
	KeyAge      time.Duration // own keys of a conversation are renewed, on average, in groups of up to Limits.KeyCommits members: 7 days
	KeyMessages int           // or after so many messages: 1,000
	KeyPackage  time.Duration // the life of a KeyPackage: 30 days
	Claim       time.Duration // a user without KeyPackages, who may have just enrolled, is asked again: 10 s
	PastTime    time.Duration // an ended epoch reads late messages for this long at least, however many came after: 10 min; -1 for no longer than Limits.PastEpochs
	Unknown     time.Duration // a conversation that the node does not know is taken for broken: 24 h
	Founding    time.Duration // another member hands in the founding of a successor between this and twice it: 10 s
	Closing     time.Duration // a conversation that was migrated is closed between this and twice it: 10 min
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
		o.extensions = []mlscore.ExtensionType{extensionRules, extensionAddress, extensionSuccession, extensionAccount}
	}
	if o.Suites == nil {
		o.Suites = []mlscore.CipherSuite{mlscore.MLS128MLKEM768X25519AES128Ed25519.Earlier()}
	}
	l, t := &o.Limits, &o.Timing
	for p, v := range map[*int]int{
		&l.Held: 1024, &l.HeldBytes: 16 << 20, &l.Outgoing: 4096, &l.Operations: 256, &l.Attempts: 64, &l.Orders: 1024,
		&l.Groups: 1024, &l.GroupMembers: 1 << 16, &l.Inline: 256 << 10, &l.AddBytes: 512 << 10, &l.KeyPackages: 50, &l.Reserve: 5, &l.Receipts: 16, &l.Strangers: 64, &l.KeyCommits: 256, &l.Requests: 16, &l.PastEpochs: 64, &l.PastMost: 1024, &t.KeyMessages: 1000,
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
		&t.KeyAge: 7 * day, &t.KeyPackage: 30 * day, &t.Claim: 10 * time.Second, &t.Unknown: day, &t.PastTime: 10 * time.Minute,
		&t.Founding: 10 * time.Second, &t.Closing: 10 * time.Minute,
	} {
		if *p == 0 {
			*p = v
		}
	}
	return o, nil
}
