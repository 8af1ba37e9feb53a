package federation

import (
	"errors"
	"log/slog"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// learn takes in a record that node from sent, "" for one that came by memberlist. It drops and counts
// what is not believed, and passes on what is news. It returns the node's newer record if there is one.
func (f *Federation) learn(b []byte, from wire.NodeID) (newer *known) {
	if f.records.has(b) {
		return nil
	}
	before := ""
	old := f.records.get(peekNode(b))
	if old != nil {
		before = old.Address
	}
	k, err := f.records.add(b)
	var r *refusal
	switch {
	case errors.As(err, &r) && r.reason == recordReplayed && old != nil:
		newer = old
		fallthrough
	case err != nil:
		f.dropRecord(peekNode(b), err)
		return newer
	case k == nil:
		return nil
	}
	if k.Node == f.cfg.Identity.Node {
		f.cfg.Logger.Warn("others hold a newer record of this node: it lost what it knew, its clock stood ahead once, or another node bears its name",
			"number", k.Number, "address", k.Address)
		return nil // watch contradicts it
	}
	f.cfg.Logger.Info("node record", "node", k.Node, "address", k.Address, "before", before)
	f.spread(k, from)
	if before != k.Address {
		f.gates.moved(k.Node, f.cfg)
		f.report(f.conns.cut(func(c *conn) string {
			if before != "" && c.node == k.Node && c.via == before {
				return cutMoved
			}
			return ""
		}))
	}
	if k.Node == from {
		f.heard(k.Node)
	} else {
		f.linking.heard(k.Node, time.Now())
	}
	f.wake(f.linkNow)
	return nil
}

// peekNode is the node that a record claims to be of, "" if it cannot be read.
func peekNode(b []byte) wire.NodeID {
	r := new(Record)
	if len(b) > 64<<10 || wire.Decode(b, len(b), r) != nil {
		return ""
	}
	return r.Node
}

// contradictEvery is how often a node makes a newer record because others hold one that is newer than its
// own. If two nodes bear one name, they do so in turns.
const contradictEvery = time.Second

// contradict makes a record that is newer than the one that others hold, if it is not the own one.
func (f *Federation) contradict() {
	k := f.records.get(f.cfg.Identity.Node)
	f.mu.Lock()
	due := k != nil && string(k.raw) != string(f.own) && time.Since(f.announced) >= contradictEvery
	f.mu.Unlock()
	if !due {
		return
	}
	if err := f.announce(); err != nil {
		f.cfg.Logger.Error("node record not made", "error", err)
	}
}

// announce makes this node's record anew, and tells all that have a link.
func (f *Federation) announce() error {
	id := f.cfg.Identity
	_, raw, err := id.sign(f.Address(), f.records.number(id.Node, f.cfg.Clock.Now()), f.cfg.OrdersOnly)
	if err != nil {
		return err
	}
	if n := len(raw); n > f.cfg.Limits.Record {
		return wire.Errorf(wire.TooLarge, "announce", "this node's record has %d bytes, at most %d: raise the limit here and at all peers", n, f.cfg.Limits.Record)
	}
	k, err := f.records.add(raw)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.own, f.announced = raw, time.Now()
	f.mu.Unlock()
	if k == nil {
		return nil
	}
	f.spread(k, id.Node)
	for _, l := range f.links.all() {
		l.send(frameRecord, raw)
	}
	return nil
}

// ownRecord is the record that this node made last, encoded.
func (f *Federation) ownRecord() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.own
}

// dropRecord counts and logs a record that is not believed. One of an organization that is not admitted
// here is no fault of who passed it on.
func (f *Federation) dropRecord(n wire.NodeID, err error) {
	reason := recordMalformed
	var r *refusal
	if errors.As(err, &r) {
		reason = r.reason
	}
	switch reason {
	case notAdmitted, isSuspended:
		f.cfg.Logger.Debug("node record dropped", "node", n, "reason", reason, "error", err)
	case recordReplayed: // as a rule from a node that has not heard of the newer one yet
		f.lines.write(slog.LevelInfo, "node record dropped", "node", n, "reason", reason, "error", err)
	default:
		f.lines.warn("node record dropped", "node", n, "reason", reason, "error", err)
	}
	f.metrics.records.WithLabelValues(reason).Inc()
}
