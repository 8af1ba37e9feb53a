package gateway

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mlsfed/mlsfed/internal/admission"
	"github.com/mlsfed/mlsfed/internal/clock"
	"github.com/mlsfed/mlsfed/internal/tokenbucket"
	"github.com/mlsfed/mlsfed/wire"
)

// Rate is a token bucket: Burst at once, and one more after each Every.
type Rate = tokenbucket.Rate

// Config is what a gateway works with. Node, Organization, Devices, Service and Feeds must be set; other
// zero fields take the defaults that stand behind them.
type Config struct {
	Node         wire.NodeID
	Organization wire.Organization // whose domain is in challenges; with its root certificate, DER
	Devices      Devices
	Service      Service
	Feeds        Feeds

	// Features are what the node announces to a device that asks.
	Features wire.Features
	// Alarms returns the alarms that stand about the conversations that a device reads. May be nil.
	Alarms func(context.Context, wire.DeviceID) []wire.Alarm

	Issuer Issuer // may be nil
	// Provision serves /scim/v2/: what an identity provider says of users. A refusal is status 401. May be nil.
	Provision http.Handler
	// WellKnown is what /.well-known/mlsfed answers, as JSON: where clients find this node. May be nil.
	WellKnown func() any

	Clock clock.Source     // nil is the machine's. It should not jump: rates and silence are measured by it
	Day   func() time.Time // the time of day that devices receive; nil: Clock.Now
	Rand  io.Reader        // nil is crypto/rand; used by several goroutines
	Log   *slog.Logger     // nil logs nothing

	Registerer prometheus.Registerer // nil: nothing is measured
	Gatherer   prometheus.Gatherer   // of /metrics on the admin handler; nil: there is none
	// Ready returns why the node cannot serve, for /readyz, or nil if it can. May be nil.
	Ready func() error
	// Notes are lines that /readyz of the admin handler adds while the node can serve: what needs the operator. May be
	// nil.
	Notes func() []string
	// Version is what /version answers, as JSON. nil: an empty object.
	Version any
	// Web serves what no other path takes, such as the web app. May be nil.
	Web http.Handler

	// Origins are those of web pages that may connect from elsewhere, "https://app.example", or "*" for
	// all. A page of the same host always may, and so may what is no browser.
	Origins []string
	// TrustedProxies are the addresses whose X-Forwarded-For is believed. Limits count the clients behind them.
	TrustedProxies []netip.Prefix

	// Of a session.
	MaxFrame      int           // bytes of a frame in either direction; wire.MaxSessionFrame
	MaxLogin      int           // bytes of a frame before the login; 8 KiB
	LoginFrames   int           // WebSocket frames until the login has come whole, pings and fragments too; 16
	Fragments     int           // WebSocket frames that one message may come in; 1,024
	Window        int           // pushes that may be unacknowledged at once; 256
	Requests      int           // requests that may be under way at once; 32
	MaxHeld       int           // bytes of requests under way and of answers not yet sent, after which more are refused; 16 MiB
	MaxHeldOfUser int           // bytes of requests under way and of unsent answers and pushes, of all sessions of a user; 128 MiB. See type backlog
	PageItems     int           // pushes that are read from a stream at once; 64
	PageBytes     int           // bytes of them; 256 KiB
	LoginWait     time.Duration // from the challenge to the login; 10 seconds
	RequestWait   time.Duration // for a request to be served; 1 minute
	WriteWait     time.Duration // for a frame to be taken by the socket; 1 minute
	FrameWait     time.Duration // for the rest of a frame that has begun; 1 minute
	PingEvery     time.Duration // between pings; 45 seconds
	IdleWait      time.Duration // without a sign of the device, after which it is taken for gone; two and a half times PingEvery
	DrainWait     time.Duration // for requests under way when the gateway stops; 5 seconds
	CloseWait     time.Duration // for the other side to close; 1 second
	FrameRate     Rate          // of frames of a session; 800 at once, 200 a second. Over it, the session ends
	ByteRate      Rate          // of KiB of a session; 64 MiB at once, 16 MiB a second. Over it, reading waits
	MaxOverloads  int           // requests over Requests in a row, after which the session ends; 64
	MaxOfDevice   int           // sessions of one device; 8
	MaxSessions   int           // sessions in all; 50,000
	MaxOfAddress  int           // sessions of one client address; 20,000
	MaxSockets    int           // connections in all, of sessions and HTTP; MaxSessions and a quarter
	ConnectRate   Rate          // of connections of one client address; 500 at once, 50 a second
	LoginRate     Rate          // of failed logins of one client address, and of one device; 20 at once, one in 10 seconds
	LoginDelay    time.Duration // before a failed login is answered; 500 milliseconds
	HTTPRate      Rate          // of HTTP requests of one client address after the first of each connection; 500 at once, 50 a second
	EnrolRate     Rate          // of enrolments of one client address; 60 at once, one a second
	MaxEnrol      int           // bytes of a request to enrol; 64 KiB
	MaxAddresses  int           // whose rates are remembered at once; 65,536
	HeaderWait    time.Duration // for the headers of an HTTP request, and a TLS handshake; 10 seconds
	MaxHeader     int           // bytes of them; 8 KiB
	KeepAliveWait time.Duration // for the next HTTP request of a connection; 1 minute
	// Admission bounds what those cost who have not proved who they are: 4,096 at once; of one address 200 failures
	// at once and one a second, or, where a device has logged in within a day, 40 connections at once and 20 a
	// second beyond them; the rest as admission.Limits has it. A failure is what ends before it is an HTTP request,
	// a session without a login, or an enrolment that is refused.
	Admission admission.Limits
}

// Defaults are the limits of a Config that sets none. They are those of the configuration that 'mlsfed init' writes,
// and those that docs/spec/protocol.md lists: tests compare all three.
func Defaults() Config { return Config{}.withDefaults() }

// sessionLimits returns the limits that a device receives at its request.
func (c *Config) sessionLimits() *wire.LimitsAnswer {
	second := func(r Rate, each uint64) uint64 { return uint64(time.Second/max(r.Every, 1)) * each }
	return &wire.LimitsAnswer{
		FrameBurst: uint64(c.FrameRate.Burst), FrameMicros: uint64((c.FrameRate.Every + time.Microsecond - 1) / time.Microsecond),
		ByteBurst: uint64(c.ByteRate.Burst) << 10, ByteRate: second(c.ByteRate, 1<<10),
		Fragments: uint64(c.Fragments), Held: uint64(c.MaxHeld), Overloads: uint64(c.MaxOverloads), Sessions: uint64(c.MaxOfDevice),
		Request: uint64(c.RequestWait.Milliseconds()), Ping: uint64(c.PingEvery.Milliseconds()), Idle: uint64(c.IdleWait.Milliseconds()),
		Content: wire.MaxMessage,
	}
}

// check refuses a configuration with which nothing could be served.
func (c *Config) check() error {
	if err := c.Node.Check(); err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	if err := c.Organization.Domain.Check(); err != nil {
		return fmt.Errorf("gateway of %s: %w", c.Node, err)
	}
	if c.Devices == nil || c.Service == nil || c.Feeds == nil {
		return fmt.Errorf("gateway of %s: Devices, Service and Feeds must be given", c.Node)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Clock == nil {
		c.Clock = clock.System{}
	}
	if c.Day == nil {
		c.Day = c.Clock.Now
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Ready == nil {
		c.Ready = func() error { return nil }
	}
	if c.Version == nil {
		c.Version = struct{}{}
	}
	c.MaxFrame = cmp.Or(c.MaxFrame, wire.MaxSessionFrame)
	c.MaxLogin = cmp.Or(c.MaxLogin, 8<<10)
	c.LoginFrames = cmp.Or(c.LoginFrames, 16)
	c.Fragments = cmp.Or(c.Fragments, 1024)
	c.Window = cmp.Or(c.Window, 256)
	c.Requests = cmp.Or(c.Requests, 32)
	c.MaxHeld = cmp.Or(c.MaxHeld, 16<<20)
	c.MaxHeldOfUser = cmp.Or(c.MaxHeldOfUser, 128<<20)
	c.PageItems = cmp.Or(c.PageItems, 64)
	c.PageBytes = cmp.Or(c.PageBytes, 256<<10)
	c.LoginWait = cmp.Or(c.LoginWait, 10*time.Second)
	c.RequestWait = cmp.Or(c.RequestWait, time.Minute)
	c.WriteWait = cmp.Or(c.WriteWait, time.Minute)
	c.FrameWait = cmp.Or(c.FrameWait, time.Minute)
	c.PingEvery = cmp.Or(c.PingEvery, 45*time.Second)
	c.IdleWait = cmp.Or(c.IdleWait, 5*c.PingEvery/2)
	c.DrainWait = cmp.Or(c.DrainWait, 5*time.Second)
	c.CloseWait = cmp.Or(c.CloseWait, time.Second)
	c.FrameRate = c.FrameRate.Or(800, time.Second/200)
	c.ByteRate = c.ByteRate.Or(64<<10, time.Second/(16<<10))
	c.MaxOverloads = cmp.Or(c.MaxOverloads, 64)
	c.MaxOfDevice = cmp.Or(c.MaxOfDevice, 8)
	c.MaxSessions = cmp.Or(c.MaxSessions, 50_000)
	c.MaxOfAddress = cmp.Or(c.MaxOfAddress, 20_000)
	c.MaxSockets = cmp.Or(c.MaxSockets, c.MaxSessions+c.MaxSessions/4+1)
	c.ConnectRate = c.ConnectRate.Or(500, time.Second/50)
	c.LoginRate = c.LoginRate.Or(20, 10*time.Second)
	c.LoginDelay = cmp.Or(c.LoginDelay, 500*time.Millisecond)
	c.HTTPRate = c.HTTPRate.Or(500, time.Second/50)
	c.EnrolRate = c.EnrolRate.Or(60, time.Second)
	c.MaxEnrol = cmp.Or(c.MaxEnrol, 64<<10)
	c.MaxAddresses = cmp.Or(c.MaxAddresses, 65_536)
	c.HeaderWait = cmp.Or(c.HeaderWait, 10*time.Second)
	c.MaxHeader = cmp.Or(c.MaxHeader, 8<<10)
	c.KeepAliveWait = cmp.Or(c.KeepAliveWait, time.Minute)
	c.Admission.Unproved = cmp.Or(c.Admission.Unproved, 4096)
	c.Admission.Failures = c.Admission.Failures.Or(200, time.Second)
	c.Admission.Slowed = c.Admission.Slowed.Or(40, time.Second/20)
	c.Admission.Known = cmp.Or(c.Admission.Known, 24*time.Hour)
	c.Admission.Addresses = cmp.Or(c.Admission.Addresses, c.MaxAddresses)
	c.Admission = c.Admission.WithDefaults()
	return c
}
