package node

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/consensus"
	"github.com/mlsfed/mlsfed/directory"
	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/federation/outbox"
	"github.com/mlsfed/mlsfed/gateway"
	"github.com/mlsfed/mlsfed/internal/audit"
	"github.com/mlsfed/mlsfed/internal/clock"
	"github.com/mlsfed/mlsfed/internal/tokenbucket"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// gatewayLimits returns the limits of a configuration's gateway.
func gatewayLimits(c *config.Gateway) gateway.Config {
	return gateway.Config{
		MaxFrame: int(c.MaxFrame), Window: c.Window, Requests: c.Requests, MaxHeld: int(c.HeldPerSession), MaxHeldOfUser: int(c.HeldPerUser), MaxOverloads: c.Overloads, MaxOfDevice: c.SessionsDevice,
		LoginWait: c.LoginTimeout.Std(), PingEvery: c.Ping.Std(),
		IdleWait: 5 * c.Ping.Std() / 2, MaxSessions: c.Sessions, MaxOfAddress: c.SessionsAddress,
		ConnectRate: gateway.Rate{Burst: int(10 * c.ConnectPerSec), Every: every(c.ConnectPerSec)},
		Fragments:   c.Fragments, LoginFrames: c.LoginFrames,
		HTTPRate:  gateway.Rate{Burst: int(10 * c.RequestsPerSec), Every: every(c.RequestsPerSec)},
		EnrolRate: gateway.Rate{Burst: int(c.EnrolPerMinute), Every: every(c.EnrolPerMinute / 60)},
		FrameRate: gateway.Rate{Burst: int(4 * c.FramesPerSecond), Every: every(c.FramesPerSecond)},
		ByteRate:  gateway.Rate{Burst: int(4 * c.BytesPerSecond / 1024), Every: every(float64(c.BytesPerSecond) / 1024)},
		Admission: strangers(&c.Strangers),
	}
}

// federationLimits returns the limits of a configuration's links.
func federationLimits(c *config.Federation) (federation.Limits, federation.Timers) {
	return federation.Limits{
		Calls: c.CallsPerSecond, CallBurst: int(4 * c.CallsPerSecond), Bytes: float64(c.BytesPerSecond), ByteBurst: int(4 * c.BytesPerSecond),
		Frames: 4 * c.CallsPerSecond, FrameBurst: int(16 * c.CallsPerSecond),
		Admission: strangers(&c.Strangers),
	}, federation.Timers{Call: c.CallTimeout.Std()}
}

// outboxLimits returns the limits of the outbox for other organizations.
func outboxLimits(c *config.Federation) outbox.Config {
	return outbox.Config{
		Expire: c.OutboxExpire.Std(), MaxItems: int(c.OutboxItems), MaxBytes: int64(c.OutboxBytes),
		Shares: c.OutboxShares, ShareFor: c.OutboxShareFor.Std(),
	}
}

// directoryLimits returns the limits of a configuration's users.
func directoryLimits(c *config.Directory) directory.Config {
	renewAfter := c.RenewAfter.Std()
	if renewAfter == 0 { // never, where package directory has a default
		renewAfter = -1
	}
	return directory.Config{
		MaxDevices: c.Devices, CertificateLife: c.CertificateLife.Std(), RenewBefore: c.RenewBefore.Std(), RenewAfter: renewAfter, InvitationLife: c.InvitationLife.Std(),
		MaxKeyPackages: c.KeyPackages, LowWater: c.LowWater, ClaimBurst: c.ClaimBurst, ClaimEvery: c.ClaimEvery.Std(),
		PairBurst: c.PairBurst, PairEvery: c.PairEvery.Std(), UserBurst: c.UserBurst, UserEvery: c.UserEvery.Std(),
		AddressBurst: c.AddressBurst, AddressEvery: c.AddressEvery.Std(),
		LastResortBurst: c.LastResortBurst, LastResortEvery: c.LastResortEvery.Std(),
	}
}

// mailboxLimits returns the limits of the mailbox for devices.
func mailboxLimits(c *config.Mailbox) mailbox.Config {
	sender := uint64(c.Organization)
	if sender == 0 { // no limit, where package mailbox has a default
		sender = math.MaxUint64
	}
	return mailbox.Config{
		MaxItems: c.Items, MaxBytes: uint64(c.Bytes), MaxAge: c.Age.Std(), DropOldest: c.DropOldest, MaxSender: sender,
		ExpireEvery: min(time.Hour, max(c.Age.Std()/10, time.Second)),
	}
}

// auditLimits returns the limits of the audit log.
func auditLimits(c *config.Audit) audit.Config {
	return audit.Config{Size: int64(c.Size), Files: c.Files}
}

// orderLimits returns the limits of the ordering of conversations.
func orderLimits(cfg *config.Config) (consensus.Timers, consensus.Limits) {
	c, awake := &cfg.Consensus, int(cfg.Quota.Memory)
	if awake == 0 { // no limit, where package consensus has a default
		awake = math.MaxInt
	}
	perOrganization := c.PerOrganization
	if perOrganization == 0 { // no limit, where package consensus has a default
		perOrganization = math.MaxInt
	}
	return consensus.Timers{
			Sleep: c.Sleep.Std(), Heartbeat: c.Heartbeat.Std(), Election: c.Election.Std(), LeaderTimeout: c.Silence.Std(), Stall: c.Stall.Std(),
			Farewell: c.Farewell.Std(), Ahead: c.Ahead.Std(), Unowned: c.Unowned.Std(), Claim: c.Claim.Std(), Wake: c.Wake.Std(),
			Invite: c.Invite.Std(), Compare: c.Compare.Std(), Lost: c.Lost.Std(), Idle: c.Idle.Std(),
			Upset: c.Upset.Std(), Term: c.Term.Std(),
		}, consensus.Limits{
			Conversations: c.Conversations, PerOrganization: perOrganization, Inflight: c.Inflight,
			RecentBytes: int(c.RecentBytes), RecentEntries: c.RecentEntries, Organizations: c.Organizations, Sleepers: int(c.Memory), SleepingHeads: int(c.Memory),
			Commit: int(c.Commit), Wakes: c.Wakes, Invites: c.Invites, TermJump: c.TermJump, Upsets: c.Upsets, Terms: c.Terms, Awake: awake,
		}
}

// clockLimits returns the limits of the machine's clock.
func clockLimits(c *config.Clock) clock.Limits {
	return clock.Limits{Tolerance: c.Tolerance.Std(), Confirm: c.Confirm.Std(), Downtime: c.Downtime.Std()}
}

// limits holds how often devices and other organizations may request ordering from this node. Devices are limited on
// their own node. An organization is limited on every node that it asks, since a hostile organization does not limit
// its devices.
type limits struct {
	now       func() time.Time
	creates   limit[wire.UserID]   // new conversations of a user
	codes     limit[wire.UserID]   // enrolment codes that a user's devices ask for
	calls     limit[wire.UserID]   // calls to other organizations that a user's devices cause
	devices   limit[wire.DeviceID] // proposals and commits of a device
	here      limit[wire.ConversationID]
	forwarded limit[wire.Domain] // proposals and commits that an organization brings
	there     limit[inConversation]
	replicas  limit[wire.Domain] // replicas that an organization invites this node to
}

// inConversation is an organization in one conversation.
type inConversation struct {
	org wire.Domain
	id  wire.ConversationID
}

// maxLimited is how many keys a limit remembers. Idle keys are dropped first.
const maxLimited = 1 << 16

// limit is a rate for each of many keys, and how often it refused.
type limit[K comparable] struct {
	tokenbucket.Rates[K]
	refused atomic.Uint64
}

func (l *limit[K]) set(r config.Rate) {
	l.Rate = tokenbucket.Rate{Burst: r.Burst, Every: every(r.PerMinute / 60)}
	l.Most = maxLimited
}

// take reports whether the rate allows one more. A rate without a burst is no limit.
func (l *limit[K]) take(key K, now time.Time) bool {
	if l.Rate.Burst <= 0 || l.Take(key, now) {
		return true
	}
	l.refused.Add(1)
	return false
}

// has reports whether the rate allows one more, and takes nothing.
func (l *limit[K]) has(key K, now time.Time) bool {
	if l.Rate.Burst <= 0 {
		return true
	}
	has, _ := l.State(key, now)
	if !has {
		l.refused.Add(1)
	}
	return has
}

func newLimits(c *config.Rates, now func() time.Time) *limits {
	l := &limits{now: now}
	l.creates.set(c.Conversations)
	l.codes.set(c.Codes)
	l.devices.set(c.Handshakes)
	l.here.set(c.ConversationHandshakes)
	l.there.set(c.ConversationHandshakes)
	l.forwarded.set(c.OrganizationHandshakes)
	l.replicas.set(c.Invitations)
	l.calls.set(c.Calls)
	return l
}

// refusals returns the counts of refusals, by reason.
func (l *limits) refusals() map[string]*atomic.Uint64 {
	return map[string]*atomic.Uint64{
		"conversations": &l.creates.refused, "codes": &l.codes.refused, "calls": &l.calls.refused, "device": &l.devices.refused, "conversation": &l.here.refused,
		"organization": &l.forwarded.refused, "organization_in_conversation": &l.there.refused, "invitations": &l.replicas.refused,
	}
}

// update refuses a handshake of a device that exceeds its rates.
func (l *limits) update(d wire.DeviceID, e *wire.Envelope) error {
	now := l.now()
	if !l.devices.take(d, now) {
		return wire.Errorf(wire.Busy, "update", "%s sends proposals and commits too fast: wait and send it again with the same id", d)
	}
	if e.Kind == wire.KindCreate {
		if !l.creates.take(d.User(), now) {
			return wire.Errorf(wire.Busy, "create", "%s creates conversations too fast: wait a minute, and send it again with the same id", d.User())
		}
		return nil
	}
	if !l.here.has(e.Conversation, now) {
		return wire.Errorf(wire.Busy, "update", "too many proposals and commits for conversation %v at once: wait and send it again with the same id", e.Conversation)
	}
	return nil
}

// ordered counts a handshake that was ordered. Those that were refused count for their device alone: a device that
// takes no part in a conversation must not use up its rate.
func (l *limits) ordered(e *wire.Envelope) {
	if e.Kind != wire.KindCreate && l.here.Rate.Burst > 0 {
		l.here.Take(e.Conversation, l.now())
	}
}

// call refuses a call to another organization that exceeds a user's rate: that organization counts the calls of all users
// together. Claims of KeyPackages have a rate in the directory.
func (l *limits) call(op string, u wire.UserID) error {
	if l.calls.take(u, l.now()) {
		return nil
	}
	return wire.Errorf(wire.Busy, op, "%s asks other organizations too fast: wait a second", u)
}

// code refuses an enrolment code that exceeds a user's rate.
func (l *limits) code(u wire.UserID) error {
	if l.codes.take(u, l.now()) {
		return nil
	}
	return wire.Errorf(wire.Busy, "invite", "%s asks for codes too fast: wait a minute", u)
}

var _ consensus.Admission = (*limits)(nil)

// Handshake implements consensus.Admission.
func (l *limits) Handshake(org wire.Domain, id wire.ConversationID) error {
	now := l.now()
	if !l.there.take(inConversation{org, id}, now) {
		return wire.Errorf(wire.Busy, "submit", "%s brings too many proposals and commits for conversation %v: wait and send it again with the same id", org, id)
	}
	if !l.forwarded.take(org, now) {
		return wire.Errorf(wire.Busy, "submit", "%s brings too many proposals and commits: wait and send it again with the same id", org)
	}
	return nil
}

// Replica implements consensus.Admission.
func (l *limits) Replica(org wire.Domain) error {
	if l.replicas.take(org, l.now()) {
		return nil
	}
	return wire.Errorf(wire.Busy, "invite", "%s invites this node to conversations too fast: invite it again later", org)
}
