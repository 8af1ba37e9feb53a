package federation

import (
	"context"
	"time"

	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/wire"
)

// warnEvery is the pause between two warnings that the certificate expires soon.
const warnEvery = time.Hour

// watch checks the allow-list and the certificates, and saves records, until ctx ends.
func (f *Federation) watch(ctx context.Context) error {
	tick := time.NewTicker(f.cfg.Timers.Poll)
	defer tick.Stop()
	seen := f.cfg.Peers.Version()
	saved := time.Now()
	for {
		if _, err := f.cfg.Peers.Refresh(); err != nil {
			f.cfg.Logger.Error("allow-list", "error", err)
		}
		now := f.cfg.Peers.Version()
		if now != seen {
			f.peersChanged(seen)
		}
		if expiring := f.conns.expiring(f.cfg.Clock.Now()); expiring || now != seen {
			f.report(f.conns.cut(f.reasonToClose))
		}
		seen = now
		f.tendCertificate()
		f.contradict()
		if time.Since(saved) >= f.cfg.Timers.Save {
			saved = time.Now()
			if err := f.records.save(f.cfg.Dir); err != nil {
				f.cfg.Logger.Error("node records", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// peersChanged drops the state of organizations that are no longer in the allow-list. It ends the pauses of
// organizations whose entry has changed since the version seen. All other pauses continue: one new organization must
// not cause attempts to reach all dead ones.
func (f *Federation) peersChanged(seen uint64) {
	listed := func(d wire.Domain) bool {
		_, ok := f.cfg.Peers.Get(d)
		return ok || d == f.cfg.Identity.Domain
	}
	f.admission.Forgive()
	f.cfg.Logger.Info("allow-list changed", "admitted", len(f.admitted())-1)
	f.records.forget()
	f.faults.keep(listed)
	f.budgets.keep(listed)
	changed := func(d wire.Domain) bool {
		p, ok := f.cfg.Peers.Get(d)
		return d != f.cfg.Identity.Domain && (!ok || p.Changed > seen)
	}
	f.breakers.forgive(changed)
	f.mu.Lock()
	for d := range f.answered {
		if !listed(d) {
			delete(f.answered, d)
		}
	}
	f.mu.Unlock()
	f.wake(f.linkNow)
	f.askSome()
}

// report counts and logs connections that were closed.
func (f *Federation) report(cut map[cutting]int) {
	for c, n := range cut {
		if c.reason == organization.ReasonNotAdmitted {
			c.reason = cutRemoved
		}
		f.cfg.Logger.Warn("connections cut", "node", c.node, "reason", c.reason, "connections", n)
		f.metrics.cut.WithLabelValues(c.reason).Add(float64(n))
	}
}

// tendCertificate loads a certificate that was renewed on disk, renews the certificate when a third of its life is
// left, or warns if the root key is elsewhere.
func (f *Federation) tendCertificate() {
	id := f.cfg.Identity
	changed, err := id.Reload()
	if err != nil {
		f.warnSometimes("the node's certificate cannot be read again", err)
		return
	}
	now, c := f.cfg.Clock.Now(), id.Certificate()
	if left := c.NotAfter.Sub(now); left < c.NotAfter.Sub(c.NotBefore)/3 && !changed {
		changed = f.renew(now, left)
	}
	if !changed {
		return
	}
	f.cfg.Logger.Info("the node's certificate was renewed", "ends", id.Certificate().NotAfter)
	f.metrics.renewed.WithLabelValues("renewed").Inc()
	if err := f.announce(); err != nil {
		f.cfg.Logger.Error("node record not made", "error", err)
	}
}

func (f *Federation) renew(now time.Time, left time.Duration) bool {
	id := f.cfg.Identity
	if id.Authority == nil {
		f.warnSometimes("the node's certificate ends soon, and the root key is not here: renew it where the key is, and copy it", nil)
		return false
	}
	if before := id.Certificate().NotAfter; !id.Root.NotAfter.After(before) {
		f.warnSometimes("the node's certificate ends with the organization's root: make a new root", nil)
		return false
	}
	if err := id.Renew(now); err != nil {
		f.warnSometimes("the node's certificate was not renewed", err)
		return false
	}
	return true
}

// warnSometimes warns about the certificate, at most once in warnEvery, and counts the warnings.
func (f *Federation) warnSometimes(text string, err error) {
	now := f.cfg.Clock.Now()
	f.mu.Lock()
	due := f.warned.IsZero() || now.Sub(f.warned) >= warnEvery
	if due {
		f.warned = now
	}
	f.mu.Unlock()
	if !due {
		return
	}
	f.cfg.Logger.Warn(text, "node", f.cfg.Identity.Node, "ends", f.cfg.Identity.Certificate().NotAfter, "error", err)
	f.metrics.renewed.WithLabelValues("due").Inc()
}
