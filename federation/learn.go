package federation

import (
	"errors"
	"log/slog"
	"time"

	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/wire"
)

// learn handles a record that node from sent, "" for one that came by memberlist. It drops and counts a record that is
// not accepted, and passes on one that is new. It returns the known record of the node if that is newer.
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
	var r *organization.Refusal
	switch {
	case errors.As(err, &r) && r.Reason == recordReplayed && old != nil:
		newer = old
		fallthrough
	case err != nil:
		f.dropRecord(peekNode(b), err)
		return newer
	case k == nil:
		return nil
	}
	if k.Node == f.cfg.Identity.Node {
		f.cfg.Logger.Warn("others hold a newer record of this node: its data was lost, its clock was ahead once, or another node has its name",
			"number", k.Number, "address", k.Address)
		return nil // contradict makes a newer one
	}
	f.cfg.Logger.Info("node record", "node", k.Node, "address", k.Address, "before", before)
	f.spread(k, from)
	if before != k.Address {
		f.breakers.moved(k.Node, f.cfg)
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

// peekNode returns the node that an unverified record names, "" if the record cannot be decoded.
func peekNode(b []byte) wire.NodeID {
	r := new(organization.Record)
	if len(b) > 64<<10 || wire.Decode(b, len(b), r) != nil {
		return ""
	}
	return r.Node
}

// contradictEvery bounds how often a node makes a record because others hold one that is newer than its own. Two nodes
// with the same name make records in turns.
const contradictEvery = time.Second

// contradict makes a record that is newer than the one that others hold, if theirs is not this node's last one.
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

// announce makes a new record of this node and sends it to all linked nodes.
func (f *Federation) announce() error {
	id := f.cfg.Identity
	raw, err := id.SignRecord(f.Address(), f.records.number(id.Node, f.cfg.Clock.Now()), f.cfg.OrdersOnly)
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

// ownRecord returns this node's last record, encoded.
func (f *Federation) ownRecord() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.own
}

// dropRecord counts and logs a record that is not accepted. The node that passed on a record of an organization that is
// not admitted here is not at fault.
func (f *Federation) dropRecord(n wire.NodeID, err error) {
	reason := organization.ReasonMalformed
	var r *organization.Refusal
	if errors.As(err, &r) {
		reason = r.Reason
	}
	switch reason {
	case organization.ReasonNotAdmitted, organization.ReasonSuspended:
		f.cfg.Logger.Debug("node record dropped", "node", n, "reason", reason, "error", err)
	case recordReplayed: // usually from a node that does not know the newer record yet
		f.lines.write(slog.LevelInfo, "node record dropped", "node", n, "reason", reason, "error", err)
	default:
		f.lines.warn("node record dropped", "node", n, "reason", reason, "error", err)
	}
	f.metrics.records.WithLabelValues(reason).Inc()
}
