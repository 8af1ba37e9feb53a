package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/wire"
)

// TestPagesOfOrganizations checks that pages have each organization once, in order, and none is larger than its bound
// unless one organization alone is.
func TestPagesOfOrganizations(t *testing.T) {
	var list []wire.Organization
	for i := range 50 {
		root := bytes.Repeat([]byte{byte(i)}, 100)
		if i == 30 {
			root = bytes.Repeat(root, 100) // larger than a page
		}
		list = append(list, wire.Organization{Domain: wire.Domain(fmt.Sprintf("o%02d.example", 49-i)), Root: root})
	}
	const size = 1000
	var got []wire.Organization
	pages := 0
	q := &wire.OrganizationsPageRequest{}
	for {
		p := pageOfOrganizations(list, q, size)
		if err := p.Check(); err != nil {
			t.Fatal(err)
		}
		b, err := wire.Encode(p)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > size+100 && len(p.Organizations) > 1 {
			t.Errorf("page %d with %d organizations has %d bytes", pages, len(p.Organizations), len(b))
		}
		pages++
		got = append(got, p.Organizations...)
		if !p.More {
			q = &wire.OrganizationsPageRequest{Known: p.List}
			break
		}
		q = &wire.OrganizationsPageRequest{After: got[len(got)-1].Domain}
	}
	if len(got) != len(list) || pages < 50*100/size {
		t.Errorf("%d organizations in %d pages, wanted %d", len(got), pages, len(list))
	}
	if p := pageOfOrganizations(list, q, size); len(p.Organizations) != 0 || p.More {
		t.Errorf("a list that is known is answered with %d organizations", len(p.Organizations))
	}
	list = list[1:]
	if p := pageOfOrganizations(list, q, size); len(p.Organizations) == 0 {
		t.Error("a list that has changed is not answered")
	}
	if p := pageOfOrganizations(list, &wire.OrganizationsPageRequest{After: "o10a.example"}, size); p.Organizations[0].Domain != "o11.example" {
		t.Errorf("behind a name that is not there comes %s", p.Organizations[0].Domain)
	}
	if p := pageOfOrganizations(list, &wire.OrganizationsPageRequest{After: "z.example"}, size); len(p.Organizations) != 0 || p.More {
		t.Errorf("behind all names come %v", p.Organizations)
	}
}

// otherBuild is a node of another organization that knows pages, or does not.
type otherBuild struct {
	pages bool
	list  []byte
}

func (o otherBuild) Organizations() []wire.Organization { return nil }
func (o otherBuild) Announced(_ wire.Domain, f wire.Feature) bool {
	return o.pages && f == wire.FeaturePages
}

func (o otherBuild) CallOrganization(_ context.Context, _ wire.Domain, m wire.Method, request, answer any) error {
	switch {
	case m == wire.CallRevocations && !o.pages:
		answer.(*wire.RevocationsAnswer).List = o.list
	case m == wire.CallRevocationsPage && o.pages:
		p, err := wire.PageOfRevocations(o.list, request.(*wire.RevocationsPageRequest), pageBytes)
		if err != nil {
			return err
		}
		*answer.(*wire.RevocationsPage) = *p
	default:
		return wire.Errorf(wire.Malformed, "call", "this node has no method %q", m)
	}
	return nil
}

// TestPagesOfAnotherBuild checks that a device can read a list that does not fit a frame, from an organization whose
// node knows pages and from an organization whose node does not.
func TestPagesOfAnotherBuild(t *testing.T) {
	list := bytes.Repeat([]byte("0123456789"), wire.MaxSessionFrame/10+1)
	for _, pages := range []bool{false, true} {
		r := &router{org: "a.example", peers: otherBuild{pages, list}, limits: newLimits(new(config.Rates), time.Now)}
		q := &wire.RevocationsPageRequest{Domain: "b.example"}
		var got []byte
		for done := false; !done; {
			v, err := r.revocationsPage(t.Context(), "", q)
			if err != nil {
				t.Fatal(err)
			}
			p := v.(*wire.RevocationsPage)
			b, err := wire.Encode(p)
			if err != nil || len(b) > wire.MaxSessionFrame/2 {
				t.Fatalf("a page of %d bytes: %v", len(b), err)
			}
			got = append(got, p.Part...)
			q.List, q.Offset = p.List, uint64(len(got))
			done = q.Offset == p.Size
		}
		if !bytes.Equal(got, list) {
			t.Errorf("pages %t: %d bytes, wanted the list of %d", pages, len(got), len(list))
		}
	}
}

// TestPagesOfRevocations checks that the pages of a list make up the list, and that reading begins again when the
// list was replaced.
func TestPagesOfRevocations(t *testing.T) {
	list := bytes.Repeat([]byte("0123456789"), 100)
	q := &wire.RevocationsPageRequest{Domain: "a.example"}
	var got []byte
	for {
		p, err := wire.PageOfRevocations(list, q, 333)
		if err == nil {
			err = p.Check()
		}
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, p.Part...); len(p.Part) == 0 {
			break
		}
		q.List, q.Offset = p.List, uint64(len(got))
	}
	if !bytes.Equal(got, list) {
		t.Errorf("%d bytes, wanted the list", len(got))
	}
	newer := append(list, '1')
	if p, err := wire.PageOfRevocations(newer, q, 333); err != nil || p.Offset != 0 || p.List != sha256.Sum256(newer) {
		t.Errorf("a newer list is answered with %+v, %v", p, err)
	}
	if _, err := wire.PageOfRevocations(make([]byte, wire.MaxRevocationList+1), q, 333); wire.CodeOf(err) != wire.TooLarge {
		t.Errorf("a list over the bound: %v", err)
	}
}
