package federation

import (
	"time"

	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/federation/outbox"
	"github.com/mlsfed/mlsfed/wire"
)

// Status describes the federation of a node for an operator.
type Status struct {
	Node            wire.NodeID  `json:"node"`
	Address         string       `json:"address"` // in this node's record
	CertificateEnds time.Time    `json:"certificate_ends,omitzero"`
	RootEnds        time.Time    `json:"root_ends"`
	Peers           []PeerStatus `json:"peers"` // the own organization first, then by domain
}

// PeerStatus describes one organization.
type PeerStatus struct {
	Domain    wire.Domain         `json:"organization"`
	Own       bool                `json:"own"`
	State     organization.State  `json:"state"`
	RootEnds  time.Time           `json:"root_ends"`
	Nodes     []NodeStatus        `json:"nodes"`
	Lanes     []outbox.LaneStatus `json:"lanes"`                // what waits for the organization
	LastError string              `json:"last_error,omitempty"` // of the last refusal or failure of the organization; "" for none
	LastTime  time.Time           `json:"last_time,omitzero"`   // of LastError
}

// NodeStatus describes one node.
type NodeStatus struct {
	Node            wire.NodeID `json:"node"`
	Address         string      `json:"address"`                   // from its record, or a seed's
	Recorded        time.Time   `json:"recorded,omitzero"`         // when its record was made; zero while only a seed is known
	Connected       bool        `json:"connected"`                 // there is a gossip link
	Since           time.Time   `json:"since,omitzero"`            // when the link went up or down, if this node has seen it
	Alive           bool        `json:"alive"`                     // according to gossip
	CertificateEnds time.Time   `json:"certificate_ends,omitzero"` // zero while only a seed is known
}

// Status returns a snapshot for an operator.
func (f *Federation) Status() Status {
	id := f.cfg.Identity
	s := Status{Node: id.Node, Address: f.Address(), CertificateEnds: id.Certificate().NotAfter, RootEnds: id.Root.NotAfter}
	lanes := make(map[wire.Domain][]outbox.LaneStatus)
	if f.cfg.Lanes != nil {
		for _, l := range f.cfg.Lanes() {
			lanes[l.Organization] = append(lanes[l.Organization], l)
		}
	}
	alive := f.gossip.alive()
	peers := []organization.Peer{{Domain: id.Domain, State: organization.Admitted, Root: id.Root, Seeds: f.ownSeeds}}
	for _, p := range f.cfg.Peers.List() {
		if p.Domain != id.Domain {
			peers = append(peers, p)
		}
	}
	for _, p := range peers {
		last := f.faults.get(p.Domain)
		s.Peers = append(s.Peers, PeerStatus{
			Domain: p.Domain, Own: p.Domain == id.Domain, State: p.State, RootEnds: p.Root.NotAfter,
			Nodes: f.nodeStatus(p, alive), Lanes: lanes[p.Domain], LastError: last.text, LastTime: last.at,
		})
	}
	return s
}

// nodeStatus describes an organization's nodes: those with a record, and those that only a seed names.
func (f *Federation) nodeStatus(p organization.Peer, alive map[wire.NodeID]bool) []NodeStatus {
	var list []NodeStatus
	known := make(map[wire.NodeID]bool)
	for _, k := range f.records.ofOrganization(p.Domain) {
		known[k.Node] = true
		list = append(list, NodeStatus{Node: k.Node, Address: k.Address, Recorded: k.Number.Std(), CertificateEnds: k.Ends})
	}
	for _, s := range p.Seeds {
		if !known[s.Node] {
			known[s.Node] = true
			list = append(list, NodeStatus{Node: s.Node, Address: s.Address})
		}
	}
	for i := range list {
		n := &list[i]
		n.Connected, n.Since = f.links.get(n.Node) != nil, f.state.changed(n.Node)
		n.Alive = alive[n.Node]
	}
	return list
}
