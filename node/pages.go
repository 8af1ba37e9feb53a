package node

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/mlsfed/mlsfed/directory"
	"github.com/mlsfed/mlsfed/wire"
)

// This file serves lists that grow with the federation or with its age: in pages, and whole for devices and nodes
// that do not know pages.

// pageBytes bounds the content of a page: far below a frame, and below the smallest answer that links may be set to.
const pageBytes = 128 << 10

func (r *router) organizations(context.Context, wire.DeviceID) (any, error) {
	return &wire.OrganizationsAnswer{Organizations: r.peers.Organizations()}, nil
}

func (r *router) revocations(ctx context.Context, d wire.DeviceID, q *wire.RevocationsRequest) (any, error) {
	if q.Domain == r.org {
		return revocations(ctx, r.directory)
	}
	if err := r.limits.call("revocations", d.User()); err != nil {
		return nil, err
	}
	answer := new(wire.RevocationsAnswer)
	return answer, r.peers.CallOrganization(ctx, q.Domain, wire.CallRevocations, nil, answer)
}

func revocations(ctx context.Context, d *directory.Directory) (*wire.RevocationsAnswer, error) {
	list, err := d.RevocationList(ctx)
	if err != nil {
		return nil, err
	}
	return &wire.RevocationsAnswer{List: list}, nil
}

func (r *router) organizationsPage(_ context.Context, _ wire.DeviceID, q *wire.OrganizationsPageRequest) (any, error) {
	return pageOfOrganizations(r.peers.Organizations(), q, pageBytes), nil
}

// pageOfOrganizations answers q with at most size bytes of names and roots, but with at least one organization.
func pageOfOrganizations(list []wire.Organization, q *wire.OrganizationsPageRequest, size int) *wire.OrganizationsPage {
	slices.SortFunc(list, func(a, b wire.Organization) int { return cmp.Compare(a.Domain, b.Domain) })
	h := sha256.New()
	for _, o := range list {
		for _, part := range [][]byte{[]byte(o.Domain), o.Root} {
			h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
			h.Write(part)
		}
	}
	p := &wire.OrganizationsPage{List: wire.Hash(h.Sum(nil)), Organizations: []wire.Organization{}}
	if p.List == q.Known {
		return p
	}
	from, found := slices.BinarySearchFunc(list, q.After, func(o wire.Organization, d wire.Domain) int { return cmp.Compare(o.Domain, d) })
	if found {
		from++
	}
	for sum, at := 0, from; at < len(list); at++ {
		if sum += len(list[at].Domain) + len(list[at].Root) + 16; sum > size && at > from {
			p.More = true
			break
		}
		p.Organizations = append(p.Organizations, list[at])
	}
	return p
}

func (r *router) revocationsPage(ctx context.Context, d wire.DeviceID, q *wire.RevocationsPageRequest) (any, error) {
	if q.Domain == r.org {
		return ownRevocationsPage(ctx, r.directory, q)
	}
	if err := r.limits.call("revocations", d.User()); err != nil {
		return nil, err
	}
	if r.peers.Announced(q.Domain, wire.FeaturePages) {
		answer := new(wire.RevocationsPage)
		return answer, r.peers.CallOrganization(ctx, q.Domain, wire.CallRevocationsPage, q, answer)
	}
	whole := new(wire.RevocationsAnswer)
	if err := r.peers.CallOrganization(ctx, q.Domain, wire.CallRevocations, nil, whole); err != nil {
		return nil, err
	}
	return wire.PageOfRevocations(whole.List, q, pageBytes)
}

func ownRevocationsPage(ctx context.Context, d *directory.Directory, q *wire.RevocationsPageRequest) (any, error) {
	list, err := d.RevocationList(ctx)
	if err != nil {
		return nil, err
	}
	return wire.PageOfRevocations(list, q, pageBytes)
}

// callRevocationsPage answers a node of another organization.
func (r *router) callRevocationsPage(ctx context.Context, from wire.Domain, q *wire.RevocationsPageRequest) (any, error) {
	if q.Domain != r.org {
		return nil, wire.Errorf(wire.NotFound, "revocations", "%s asks %s for the list of %s", from, r.org, q.Domain)
	}
	return ownRevocationsPage(ctx, r.directory, q)
}
