package node

import (
	"context"
	"net"
	"slices"

	"github.com/mlsfed/mlsfed/consensus"
	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/wire"
)

// network is the view of other parts on the links to other nodes.
type network struct {
	identity *organization.Identity
	admitted *organization.Peers
	fed      later[*federation.Federation]
}

var (
	_ consensus.Link   = (*network)(nil)
	_ consensus.Roster = (*network)(nil)
	_ peers            = organizationsOf{}
)

// Dial opens a stream for ordering.
func (n *network) Dial(ctx context.Context, to wire.NodeID) (net.Conn, error) {
	return n.fed.get().Dial(ctx, to)
}

// Nodes returns the nodes of an admitted organization, or of this node's own.
func (n *network) Nodes(org wire.Domain) []wire.NodeID { return n.fed.get().Nodes(org) }

// OrdersOnly reports whether a node holds replicas and no devices.
func (n *network) OrdersOnly(node wire.NodeID) bool { return n.fed.get().OrdersOnly(node) }

// Announced reports whether a node is known to understand a feature.
func (n *network) Announced(node wire.NodeID, f wire.Feature) bool {
	if node == n.identity.Node {
		return features.Has(f)
	}
	return n.fed.get().Announced(node, f)
}

// takesLate reports whether all known nodes of an organization accept messages that come after a removal.
func (n *network) takesLate(org wire.Domain) bool {
	nodes := n.Nodes(org)
	return len(nodes) > 0 && !slices.ContainsFunc(nodes, func(v wire.NodeID) bool { return !n.Announced(v, wire.FeatureLate) })
}

// Notify implements outbox.Link.
func (n *network) Notify(ctx context.Context, org wire.Domain, id wire.ConversationID, payloads [][]byte) ([]error, error) {
	return n.fed.get().Notify(ctx, org, id, payloads)
}

// organizationsOf is the router's view of the network.
type organizationsOf struct{ *network }

// CallOrganization asks a node of another organization.
func (o organizationsOf) CallOrganization(ctx context.Context, org wire.Domain, method wire.Method, request, response any) error {
	return o.fed.get().CallOrganization(ctx, org, method, request, response)
}

// Announced implements peers.
func (o organizationsOf) Announced(org wire.Domain, feature wire.Feature) bool {
	asked := false
	for _, n := range o.Nodes(org) {
		if !o.OrdersOnly(n) {
			if !o.network.Announced(n, feature) {
				return false
			}
			asked = true
		}
	}
	return asked
}

// Organizations returns the admitted organizations and this node's own.
func (o organizationsOf) Organizations() []wire.Organization {
	list := []wire.Organization{{Domain: o.identity.Domain, Root: o.identity.Root.Raw}}
	for _, p := range o.admitted.List() {
		root := p.Root
		if p.State != organization.Admitted {
			continue
		}
		list = append(list, wire.Organization{Domain: p.Domain, Root: root.Raw})
	}
	return list
}
