package gateway

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// login challenges the device and checks what it answers. The error says how the session ends.
func (s *session) login() error {
	c, err := s.challenge()
	if err != nil {
		return err
	}
	until := time.Now().Add(s.g.cfg.LoginWait)
	l, err := s.readLogin(until)
	if err != nil {
		if late := time.Now(); !late.Before(until) && s.ctx.Err() == nil {
			return closing(wire.CloseLoginSlow, wire.Errorf(wire.Denied, "login", "no login came within %v", s.g.cfg.LoginWait))
		}
		return err
	}
	s.device, s.receive = l.Device, l.Receive
	if err := s.mayLogin(); err != nil {
		return err
	}
	// From here on Disconnect finds the session: a device that is revoked while it logs in does not stay.
	s.g.registry.name(s)
	if err := s.verify(c, l); err != nil {
		return err
	}
	return s.admit()
}

func (s *session) challenge() (*wire.Challenge, error) {
	c := &wire.Challenge{Version: wire.SessionVersion, Domain: s.g.cfg.Organization.Domain, Time: wire.TimeOf(s.g.cfg.Day())}
	if _, err := io.ReadFull(s.g.cfg.Rand, c.Nonce[:]); err != nil {
		return nil, s.fault("challenge", err)
	}
	frame, err := frameOf(wire.FrameChallenge, 0, c)
	if err != nil {
		return nil, s.fault("challenge", err)
	}
	return c, s.send(frame)
}

func (s *session) readLogin(until time.Time) (*wire.Login, error) {
	f, err := s.readFrame(s.g.cfg.MaxLogin, until)
	if err != nil {
		return nil, err
	}
	if f.Type != wire.FrameLogin {
		return nil, malformed(wire.Errorf(wire.Malformed, "login", "a frame of type %d, wanted a login first", f.Type))
	}
	l := new(wire.Login)
	if err := wire.Decode(f.Body, s.g.cfg.MaxLogin, l); err != nil {
		return nil, malformed(err)
	}
	return l, nil
}

// mayLogin refuses who guesses: a client address with too many failures, and one that has failed of late
// for a device with too many. A device whose name others use to fail can so still log in from elsewhere.
func (s *session) mayLogin() error {
	now := s.g.cfg.Clock.Now()
	has, clean := s.g.failedAddresses.State(s.address, now)
	limit := ""
	if !has {
		limit = overLoginsAddress
	} else if has, _ := s.g.failedDevices.State(s.device, now); !has && !clean {
		limit = overLoginsDevice
	}
	if limit == "" {
		return nil
	}
	s.g.metrics.over(limit)
	return closing(wire.CloseFlood, wire.Errorf(wire.Busy, "login", "too many logins have failed: come back later"))
}

// verify checks a login. Every failure is answered after the same time and with the same text, so that an answer does
// not show which devices exist.
func (s *session) verify(c *wire.Challenge, l *wire.Login) error {
	cfg := &s.g.cfg
	slow := cfg.Clock.After(cfg.LoginDelay)
	input, err := c.LoginInput(l.Device)
	if err != nil {
		return s.fault("login", err)
	}
	ctx, cancel := context.WithTimeout(s.ctx, cfg.RequestWait)
	defer cancel()
	s.ends, err = cfg.Devices.Login(ctx, l.Device, input, l.Signature)
	if err == nil {
		return nil
	}
	if !refusal(err) {
		return s.fault("login", err)
	}
	now := cfg.Clock.Now()
	s.g.failedAddresses.Take(s.address, now)
	s.g.failedDevices.Take(s.device, now)
	s.g.metrics.logins.WithLabelValues("refused").Inc()
	select {
	case <-slow:
	case <-s.ctx.Done():
	}
	return closing(wire.CloseLogin, wire.Errorf(wire.Denied, "login",
		"the device is not known here, was revoked, its certificate has ended, or the signature is not by its key"))
}

// blames reports whether the client caused the failure of its login.
func (s *session) blames(err error) bool {
	var e *ended
	if s.ctx.Err() != nil {
		return false // the node ended the session
	}
	return !errors.As(err, &e) || e.code != wire.CloseInternal && e.code != wire.CloseTooMany
}

// refusal reports whether an error is an answer about the client, and not a fault of the node.
func refusal(err error) bool {
	var e *wire.Error
	return errors.As(err, &e) && e.Code != wire.Internal && e.Code != wire.Unavailable
}

// admit registers the session for its device, and ends the session that received before it.
func (s *session) admit() error {
	before, ok := s.g.registry.admit(s, s.g.cfg.MaxOfDevice)
	if !ok {
		s.g.metrics.over(overOfDevice)
		return closing(wire.CloseTooMany, wire.Errorf(wire.Busy, "login", "the device has %d sessions: close one", s.g.cfg.MaxOfDevice))
	}
	if before != nil {
		before.end(wire.CloseReplaced, nil)
	}
	s.user = s.g.backlogs.join(s, s.g.cfg.MaxHeldOfUser)
	s.visit.Proved()
	s.g.metrics.logins.WithLabelValues("accepted").Inc()
	return nil
}
