package gateway

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mlsfed/mlsfed/door"
	"github.com/mlsfed/mlsfed/wire"
)

// Clock is where a gateway has the time from.
type Clock interface {
	Now() time.Time
	After(time.Duration) <-chan time.Time
}

type systemClock struct{}

func (systemClock) Now() time.Time                         { return time.Now() }
func (systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Rate is a token bucket: Burst at once, and one more after each Every.
type Rate = door.Rate

// Config is what a gateway works with. Node, Organization, Devices, Service and Mail must be set; other
// zero fields take the defaults that stand behind them.
type Config struct {
	Node         wire.NodeID
	Organization wire.Organization // whose domain is in challenges; with its root certificate, DER
	Devices      Devices
	Service      Service
	Mail         Mail

	// Features are what the node announces to a device that asks.
	Features wire.Features
	// Alarms returns the alarms that stand about the conversations that a device reads. May be nil.
	Alarms func(context.Context, wire.DeviceID) []wire.Alarm

	Issuer Issuer // may be nil
	// Provision serves /scim/v2/: what an identity provider says of users. A refusal is status 401. May be nil.
	Provision http.Handler
	// WellKnown is what /.well-known/mlsfed answers, as JSON: where clients find this node. May be nil.
	WellKnown func() any

	Clock Clock            // nil is the machine's. It should not jump: rates and silence are measured by it
	Day   func() time.Time // the time of day that devices are told; nil: Clock.Now
	Rand  io.Reader        // nil is crypto/rand; used by several goroutines
	Log   *slog.Logger     // nil logs nothing

	Registerer prometheus.Registerer // nil: nothing is measured
	Gatherer   prometheus.Gatherer   // of /metrics on the admin handler; nil: there is none
	// Ready tells /readyz why the node cannot serve, nil if it can. May be nil.
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
	PageItems     int           // pushes that are read from a stream at once; 64
	PageBytes     int           // bytes of them; 256 KiB
	LoginWait     time.Duration // from the challenge to the login; 10 seconds
	RequestWait   time.Duration // for a request to be served; 1 minute
	WriteWait     time.Duration // for a frame to be taken by the socket; 1 minute
	FrameWait     time.Duration // for the rest of a frame that has begun; 1 minute
	PingEvery     time.Duration // between pings; 45 seconds
	SilenceWait   time.Duration // without a sign of the device, after which it is taken for gone; two and a half times PingEvery
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
	// Door bounds what those cost who have not proved who they are: 4,096 at once; of one address 200 failures
	// at once and one a second, or, where a device has logged in within a day, 40 connections at once and 20 a
	// second beyond them; the rest as door.Limits has it. A failure is what ends before it is an HTTP request,
	// a session without a login, or an enrolment that is refused.
	Door door.Limits
}

// Defaults are the limits of a Config that sets none. They are those of the configuration that 'mlsfed init' writes, and
// those that docs/protocol.md lists: tests compare all three.
func Defaults() Config { return Config{}.withDefaults() }

// sessionLimits is what a device is told.
func (c *Config) sessionLimits() *wire.LimitsAnswer {
	second := func(r Rate, each uint64) uint64 { return uint64(time.Second/max(r.Every, 1)) * each }
	return &wire.LimitsAnswer{
		FrameBurst: uint64(c.FrameRate.Burst), FrameMicros: uint64((c.FrameRate.Every + time.Microsecond - 1) / time.Microsecond),
		ByteBurst: uint64(c.ByteRate.Burst) << 10, ByteRate: second(c.ByteRate, 1<<10),
		Fragments: uint64(c.Fragments), Held: uint64(c.MaxHeld), Overloads: uint64(c.MaxOverloads), Sessions: uint64(c.MaxOfDevice),
		Request: uint64(c.RequestWait.Milliseconds()), Ping: uint64(c.PingEvery.Milliseconds()), Silence: uint64(c.SilenceWait.Milliseconds()),
		Content: wire.MaxMessage,
	}
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// check refuses a configuration with which nothing could be served.
func (c *Config) check() error {
	if err := c.Node.Check(); err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	if err := c.Organization.Domain.Check(); err != nil {
		return fmt.Errorf("gateway of %s: %w", c.Node, err)
	}
	if c.Devices == nil || c.Service == nil || c.Mail == nil {
		return fmt.Errorf("gateway of %s: Devices, Service and Mail must be given", c.Node)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Clock == nil {
		c.Clock = systemClock{}
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
	c.MaxFrame = or(c.MaxFrame, wire.MaxSessionFrame)
	c.MaxLogin = or(c.MaxLogin, 8<<10)
	c.LoginFrames = or(c.LoginFrames, 16)
	c.Fragments = or(c.Fragments, 1024)
	c.Window = or(c.Window, 256)
	c.Requests = or(c.Requests, 32)
	c.MaxHeld = or(c.MaxHeld, 16<<20)
	c.PageItems = or(c.PageItems, 64)
	c.PageBytes = or(c.PageBytes, 256<<10)
	c.LoginWait = or(c.LoginWait, 10*time.Second)
	c.RequestWait = or(c.RequestWait, time.Minute)
	c.WriteWait = or(c.WriteWait, time.Minute)
	c.FrameWait = or(c.FrameWait, time.Minute)
	c.PingEvery = or(c.PingEvery, 45*time.Second)
	c.SilenceWait = or(c.SilenceWait, 5*c.PingEvery/2)
	c.DrainWait = or(c.DrainWait, 5*time.Second)
	c.CloseWait = or(c.CloseWait, time.Second)
	c.FrameRate = c.FrameRate.Or(800, time.Second/200)
	c.ByteRate = c.ByteRate.Or(64<<10, time.Second/(16<<10))
	c.MaxOverloads = or(c.MaxOverloads, 64)
	c.MaxOfDevice = or(c.MaxOfDevice, 8)
	c.MaxSessions = or(c.MaxSessions, 50_000)
	c.MaxOfAddress = or(c.MaxOfAddress, 20_000)
	c.MaxSockets = or(c.MaxSockets, c.MaxSessions+c.MaxSessions/4+1)
	c.ConnectRate = c.ConnectRate.Or(500, time.Second/50)
	c.LoginRate = c.LoginRate.Or(20, 10*time.Second)
	c.LoginDelay = or(c.LoginDelay, 500*time.Millisecond)
	c.HTTPRate = c.HTTPRate.Or(500, time.Second/50)
	c.EnrolRate = c.EnrolRate.Or(60, time.Second)
	c.MaxEnrol = or(c.MaxEnrol, 64<<10)
	c.MaxAddresses = or(c.MaxAddresses, 65_536)
	c.HeaderWait = or(c.HeaderWait, 10*time.Second)
	c.MaxHeader = or(c.MaxHeader, 8<<10)
	c.KeepAliveWait = or(c.KeepAliveWait, time.Minute)
	c.Door.Unproved = or(c.Door.Unproved, 4096)
	c.Door.Failures = c.Door.Failures.Or(200, time.Second)
	c.Door.Slowed = c.Door.Slowed.Or(40, time.Second/20)
	c.Door.Known = or(c.Door.Known, 24*time.Hour)
	c.Door.Addresses = or(c.Door.Addresses, c.MaxAddresses)
	c.Door = c.Door.WithDefaults()
	return c
}
