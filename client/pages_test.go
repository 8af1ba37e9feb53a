package client

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// revocationList is a list with a number of entries.
type revocationList struct {
	entries int
	der     []byte
}

// revocations creates the present list.
func (o *org) revocations() ([]byte, error) {
	return x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(o.serial), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour), RevokedCertificateEntries: o.revoked,
	}, o.root, o.key)
}

// partOfList is the size of a page, in bytes: a list has several.
const partOfList = 100

// page answers a request for a page. A page of organizations has one organization.
func (w *world) page(m wire.Method, body []byte) (any, error) {
	if m == wire.MethodOrganizationsPage {
		r, err := decodeInto[wire.OrganizationsPageRequest](body)
		if err != nil {
			return nil, err
		}
		all := slices.Sorted(maps.Keys(w.orgs))
		page := &wire.OrganizationsPage{List: sha256.Sum256(fmt.Append(nil, all)), Organizations: []wire.Organization{}}
		if r.Known == page.List {
			return page, nil
		}
		behind := slices.DeleteFunc(all, func(d wire.Domain) bool { return d <= r.After })
		if len(behind) > 0 {
			page.Organizations = []wire.Organization{{Domain: behind[0], Root: w.orgs[behind[0]].root.Raw}}
			page.More = len(behind) > 1
		}
		return page, nil
	}
	r, err := decodeInto[wire.RevocationsPageRequest](body)
	if err != nil {
		return nil, err
	}
	o := w.orgs[r.Domain]
	if w.newer {
		o.revoked = append(o.revoked, x509.RevocationListEntry{SerialNumber: big.NewInt(int64(len(o.revoked)) + 99), RevocationTime: time.Now()})
	}
	list, ok := w.lists[r.Domain]
	if !ok || list.entries != len(o.revoked) {
		if list.der, err = o.revocations(); err != nil {
			return nil, err
		}
		list.entries = len(o.revoked)
		if w.lists == nil {
			w.lists = make(map[wire.Domain]revocationList)
		}
		w.lists[r.Domain] = list
	}
	return wire.PageOfRevocations(list.der, r, partOfList)
}

// TestPagedLists checks that a device takes in organizations and revocations from a node that returns them in pages,
// and does not request data again that it has.
func TestPagedLists(t *testing.T) {
	w := newWorld(t, "a.example", "b.example", "c.example", "d.example")
	w.features = wire.NewFeatures(wire.FeaturePages)
	a, b, c := w.peer(alicePhone).ready(), w.peer(bobPhone).ready(), w.peer(carolPhone).ready()
	id, err := a.Create(t.Context(), CreateOptions{})
	check(t, err)
	check(t, a.Add(t.Context(), id, bob, carol))
	agree(t, id, a, b, c)
	check(t, a.refreshRoots(t.Context()))
	list, err := a.Organizations(t.Context())
	check(t, err)
	if len(list) != len(w.orgs) {
		t.Errorf("%d organizations are known, wanted %d", len(list), len(w.orgs))
	}
	w.mu.Lock()
	w.costs = make(map[wire.Method]cost)
	w.mu.Unlock()
	check(t, a.refreshRoots(t.Context()))
	w.mu.Lock()
	if n := w.costs[wire.MethodOrganizationsPage].requests; n != 1 {
		t.Errorf("%d requests for a list that is known, wanted 1", n)
	}
	w.addOrg("e.example")
	w.mu.Unlock()
	if err := a.checkWitness(t.Context(), "e.example"); err != nil {
		t.Errorf("an organization on the last page: %v", err)
	}
	if err := a.checkWitness(t.Context(), "f.example"); wire.CodeOf(err) != wire.NotAdmitted {
		t.Errorf("an organization on no page: %v", err)
	}
	w.mu.Lock()
	check(t, w.revoke(w.orgs["c.example"], c.id))
	w.mu.Unlock()
	check(t, b.Tend(t.Context()))
	eventually(t, func() error {
		members, err := b.Members(t.Context(), id)
		if err == nil && len(members) != 2 {
			err = fmt.Errorf("%d members, wanted 2", len(members))
		}
		return err
	})
}

// TestListThatIsReplaced checks that a device reads a list again from its beginning if the list is replaced
// meanwhile, and gives up on a list that is always replaced.
func TestListThatIsReplaced(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	w.features = wire.NewFeatures(wire.FeaturePages)
	w.timing = func(q *Timing) { q.Upkeep = time.Hour }
	a := w.peer(alicePhone).ready()
	asked := 0
	w.mu.Lock()
	w.faults.before = func(_ wire.DeviceID, m wire.Method) {
		if m != wire.MethodRevocationsPage {
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if asked++; asked == 2 {
			o := w.orgs["b.example"]
			o.revoked = append(o.revoked, x509.RevocationListEntry{SerialNumber: big.NewInt(7), RevocationTime: time.Now()})
		}
	}
	w.mu.Unlock()
	der, err := a.revocations(t.Context(), "b.example")
	check(t, err)
	list, err := x509.ParseRevocationList(der)
	check(t, err)
	if len(list.RevokedCertificateEntries) != 1 || asked < 3 {
		t.Errorf("%d entries after %d requests, wanted those of the newer list", len(list.RevokedCertificateEntries), asked)
	}
	w.mu.Lock()
	w.newer = true
	w.mu.Unlock()
	if _, err := a.revocations(t.Context(), "b.example"); wire.CodeOf(err) != wire.Unavailable {
		t.Errorf("a list that is always replaced: %v", err)
	}
}
