package client

import (
	"context"
	"crypto/sha256"

	"github.com/mlsfed/mlsfed/wire"
)

// Lists that may be longer than a frame come in pages from a node that has announced pages, otherwise whole.

// maxAdmitted bounds the organizations that a device accepts in a node's list of admitted organizations.
const maxAdmitted = 1 << 17

// maxNewerLists bounds how often a list may be replaced while it is read.
const maxNewerLists = 3

// eachOrganization calls fn with batches of the organizations that the node has admitted, until fn returns false or an
// error. knownAdditions is the list that the device has read whole: if the list has not changed since, fn is not
// called. eachOrganization returns the list that it read whole, or zero if the list has changed meanwhile or was not
// read to its end.
func (d *Device) eachOrganization(ctx context.Context, known wire.Hash, fn func([]wire.Organization) (bool, error)) (wire.Hash, error) {
	paged, err := d.supports(ctx, wire.FeaturePages)
	if err != nil {
		return wire.Hash{}, err
	}
	if !paged {
		var a wire.OrganizationsAnswer
		if err := d.call(ctx, wire.MethodOrganizations, nil, &a); err != nil {
			return wire.Hash{}, err
		}
		_, err := fn(a.Organizations)
		return wire.Hash{}, err
	}
	var list wire.Hash
	same, count := true, 0
	for q := (wire.OrganizationsPageRequest{Known: known}); ; {
		var page wire.OrganizationsPage
		if err := d.call(ctx, wire.MethodOrganizationsPage, &q, &page); err != nil {
			return wire.Hash{}, err
		}
		if q.After != "" {
			same = same && page.List == list
			if n := len(page.Organizations); n > 0 && page.Organizations[0].Domain <= q.After {
				return wire.Hash{}, wire.Errorf(wire.Malformed, "organizations", "a page behind %s begins with %s", q.After, page.Organizations[0].Domain)
			}
		}
		list = page.List
		if count += len(page.Organizations); count > maxAdmitted {
			return wire.Hash{}, wire.Errorf(wire.TooLarge, "organizations", "the node names more than %d", maxAdmitted)
		}
		if n := len(page.Organizations); n > 0 {
			q = wire.OrganizationsPageRequest{After: page.Organizations[n-1].Domain}
			if more, err := fn(page.Organizations); err != nil || !more {
				return wire.Hash{}, err
			}
		}
		if !page.More {
			break
		}
	}
	if !same {
		list = wire.Hash{}
	}
	return list, nil
}

// revocations returns the revocation list of an organization, DER, unverified.
func (d *Device) revocations(ctx context.Context, org Domain) ([]byte, error) {
	paged, err := d.supports(ctx, wire.FeaturePages)
	if err != nil {
		return nil, err
	}
	if !paged {
		var a wire.RevocationsAnswer
		err := d.call(ctx, wire.MethodRevocations, &wire.RevocationsRequest{Domain: org}, &a)
		return a.List, err
	}
	var list []byte
	q := wire.RevocationsPageRequest{Domain: org}
	for newer := 0; ; {
		var page wire.RevocationsPage
		if err := d.call(ctx, wire.MethodRevocationsPage, &q, &page); err != nil {
			return nil, err
		}
		if page.List != q.List {
			if newer++; newer > maxNewerLists {
				return nil, wire.Errorf(wire.Unavailable, "revocations", "the list of %s is replaced again and again: try again later", org)
			}
			list, q.List = nil, page.List
		}
		if page.Offset != uint64(len(list)) {
			return nil, wire.Errorf(wire.Malformed, "revocations", "a part of the list of %s at offset %d, wanted %d", org, page.Offset, len(list))
		}
		list = append(list, page.Part...)
		if q.Offset = uint64(len(list)); q.Offset < page.Size {
			continue
		}
		if sha256.Sum256(list) != q.List {
			return nil, wire.Errorf(wire.Malformed, "revocations", "the parts of the list of %s are not what was announced", org)
		}
		return list, nil
	}
}
