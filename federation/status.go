package federation

import (
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// Status is what an operator sees of a node's part in the federation.
type Status struct {
	Node            wire.NodeID  `json:"node"`
	Address         string       `json:"address"` // that others are told
	CertificateEnds time.Time    `json:"certificate_ends,omitzero"`
	RootEnds        time.Time    `json:"root_ends"`
	Peers           []PeerStatus `json:"peers"` // the own organization first, then by domain
}

// PeerStatus is about one organization.
type PeerStatus struct {
	Domain    wire.Domain  `json:"organization"`
	Own       bool         `json:"own"`
	State     State        `json:"state"`
	RootEnds  time.Time    `json:"root_ends"`
	Nodes     []NodeStatus `json:"nodes"`
	Lanes     []LaneStatus `json:"lanes"`                // what waits for it
	LastError string       `json:"last_error,omitempty"` // of the last refusal or failure that concerned it; "" for none
	LastTime  time.Time    `json:"last_time,omitzero"`   // of LastError
}

// NodeStatus is about one node.
type NodeStatus struct {
	Node            wire.NodeID `json:"node"`
	Address         string      `json:"address"`                   // from its record, or a seed's
	Recorded        time.Time   `json:"recorded,omitzero"`         // when its record was made; zero while only a seed is known
	Connected       bool        `json:"connected"`                 // a gossip link stands
	Since           time.Time   `json:"since,omitzero"`            // when the link went up or down, if this node has seen it
	Alive           bool        `json:"alive"`                     // gossip takes it to be alive
	CertificateEnds time.Time   `json:"certificate_ends,omitzero"` // zero while only a seed is known
}

// Status is a snapshot for an operator.
func (f *Federation) Status() Status {
	id := f.cfg.Identity
	s := Status{Node: id.Node, Address: f.Address(), CertificateEnds: id.Certificate().NotAfter, RootEnds: id.Root.NotAfter}
	lanes := make(map[wire.Domain][]LaneStatus)
	if f.cfg.Outbox != nil {
		for _, l := range f.cfg.Outbox.Lanes() {
			lanes[l.Organization] = append(lanes[l.Organization], l)
		}
	}
	alive := f.gossip.alive()
	peers := []Peer{{Domain: id.Domain, State: Admitted, Root: id.Root, Seeds: f.ownSeeds}}
	for _, p := range f.trust.peers.List() {
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

// nodeStatus is about an organization's nodes: those with a record, and those that only a seed names.
func (f *Federation) nodeStatus(p Peer, alive map[wire.NodeID]bool) []NodeStatus {
	var list []NodeStatus
	known := make(map[wire.NodeID]bool)
	for _, k := range f.records.ofOrganization(p.Domain) {
		known[k.Node] = true
		list = append(list, NodeStatus{Node: k.Node, Address: k.Address, Recorded: k.Number.Std(), CertificateEnds: k.ends})
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
