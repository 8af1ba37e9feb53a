package federation

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// records are the verified records of nodes, the newest of each, the own one among them.
type records struct {
	trust    *trust
	maxBytes int // of one
	maxNodes int // of one organization

	mu      sync.Mutex // guards what follows
	by      map[wire.NodeID]*known
	of      map[wire.Domain][]*known // by node
	sums    map[recordSum]struct{}   // of the records in by
	orgs    map[shortSum]wire.Domain // the keys of of
	news    uint64                   // changes of by
	changed bool                     // since the last save
}

// recordSum is the SHA-256 of an encoded record.
type recordSum [sha256.Size]byte

func newRecords(t *trust, l Limits) *records {
	return &records{
		trust: t, maxBytes: l.Record, maxNodes: l.Nodes, by: make(map[wire.NodeID]*known),
		of: make(map[wire.Domain][]*known), sums: make(map[recordSum]struct{}), orgs: make(map[shortSum]wire.Domain),
	}
}

// add verifies a record and keeps it if it is news. It returns nil without an error for the one that is
// known already.
func (s *records) add(b []byte) (*known, error) {
	if s.has(b) {
		return nil, nil
	}
	k, err := s.trust.decodeRecord(slices.Clone(b), s.maxBytes)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.by[k.Node]
	if old != nil && old.Number >= k.Number {
		return nil, refuse(recordReplayed, "the record of %s is number %d, number %d is known", k.Node, k.Number, old.Number)
	}
	if old == nil && len(s.of[k.Node.Organization()]) >= s.maxNodes {
		return nil, refuse(recordTooMany, "%s has more than %d nodes: raise the limit if that is right", k.Node.Organization(), s.maxNodes)
	}
	s.drop(old)
	s.put(k)
	return k, nil
}

// put adds a record. The caller holds mu, and has dropped the node's earlier one.
func (s *records) put(k *known) {
	d := k.Node.Organization()
	s.by[k.Node] = k
	s.sums[k.sum] = struct{}{}
	s.orgs[shortOf(d)] = d
	list := append(slices.Clone(s.of[d]), k) // readers may hold the old list
	slices.SortFunc(list, func(a, b *known) int { return cmp.Compare(a.Node, b.Node) })
	s.of[d] = list
	s.changed = true
	s.news++
}

// drop removes a record, unless it is nil. The caller holds mu.
func (s *records) drop(k *known) {
	if k == nil {
		return
	}
	d := k.Node.Organization()
	delete(s.by, k.Node)
	delete(s.sums, k.sum)
	s.of[d] = slices.DeleteFunc(slices.Clone(s.of[d]), func(have *known) bool { return have == k })
	if len(s.of[d]) == 0 {
		delete(s.of, d)
		delete(s.orgs, shortOf(d))
	}
	s.changed = true
	s.news++
}

// version changes with the records.
func (s *records) version() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.news
}

// ofOrganization returns the records of an organization that are believed now, by node.
func (s *records) ofOrganization(d wire.Domain) []*known {
	s.mu.Lock()
	list := s.of[d]
	s.mu.Unlock()
	var believed []*known
	for _, k := range list {
		if s.valid(k) {
			believed = append(believed, k)
		}
	}
	return believed
}

// organization returns the organization that a short sum stands for, if a record of one of its nodes is
// known.
func (s *records) organization(h shortSum) (wire.Domain, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.orgs[h]
	return d, ok
}

// has reports whether exactly these bytes are known, which spares their verification.
func (s *records) has(b []byte) bool {
	sum := recordSum(sha256.Sum256(b))
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.sums[sum]
	return ok
}

// get is a node's record, nil if there is none that is believed now.
func (s *records) get(n wire.NodeID) *known {
	s.mu.Lock()
	k := s.by[n]
	s.mu.Unlock()
	if k == nil || !s.valid(k) {
		return nil
	}
	return k
}

// valid reports whether a record is believed now: its organization may have been removed since, and its
// certificate ended.
func (s *records) valid(k *known) bool {
	root, err := s.trust.root(k.Node.Organization())
	return err == nil && sameCertificate(root, k.root) && s.trust.clock.Now().Before(k.ends)
}

func sameCertificate(a, b *x509.Certificate) bool { return a == b || a.Equal(b) }

// all are the records that are believed now, by node.
func (s *records) all() []*known {
	s.mu.Lock()
	list := make([]*known, 0, len(s.by))
	for _, k := range s.by {
		list = append(list, k)
	}
	s.mu.Unlock()
	list = slices.DeleteFunc(list, func(k *known) bool { return !s.valid(k) })
	slices.SortFunc(list, func(a, b *known) int { return cmp.Compare(a.Node, b.Node) })
	return list
}

// number is the number of the own next record.
func (s *records) number(n wire.NodeID, now time.Time) wire.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := wire.TimeOf(now)
	if k := s.by[n]; k != nil {
		next = max(next, k.Number+1)
	}
	return next
}

// forget drops the records of organizations that are not in the list any more, of nodes whose
// certificates have ended, and of those that another root had signed.
func (s *records) forget() {
	keep := make(map[wire.Domain]*x509.Certificate)
	keep[s.trust.own.Domain] = s.trust.own.Root
	for _, p := range s.trust.peers.List() {
		keep[p.Domain] = p.Root
	}
	now := s.trust.clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, k := range s.by {
		if root := keep[n.Organization()]; root == nil || !sameCertificate(root, k.root) || !now.Before(k.ends) {
			s.drop(k)
		}
	}
}

// The file of known records: a version and the records as they were received.
const recordsFile = "records.cbor"

type recordList struct {
	Version uint8    `cbor:"1,keyasint"`
	Records [][]byte `cbor:"2,keyasint"`
}

// Check refuses another version.
func (l *recordList) Check() error {
	if l.Version != recordVersion {
		return wire.Errorf(wire.Version, "records", "version %d, this node knows %d", l.Version, recordVersion)
	}
	return nil
}

// encodeRecords is a list as it is written to the file, and as gossip exchanges it.
func encodeRecords(list []*known) ([]byte, error) {
	l := recordList{Version: recordVersion, Records: make([][]byte, 0, len(list))}
	for _, k := range list {
		l.Records = append(l.Records, k.raw)
	}
	return wire.Encode(&l)
}

// maxRecords is the largest list that is read, in bytes.
const maxRecords = 16 << 20

// save writes what is known, if it has changed since it was written.
func (s *records) save(dir string) error {
	s.mu.Lock()
	list := make([]*known, 0, len(s.by))
	for _, k := range s.by {
		list = append(list, k)
	}
	dirty := s.changed
	s.changed = false
	s.mu.Unlock()
	if !dirty || dir == "" {
		return nil
	}
	b, err := encodeRecords(list)
	if err == nil {
		err = writeAtomic(filepath.Join(dir, recordsFile), b, 0o600)
	}
	if err != nil {
		s.mu.Lock()
		s.changed = true
		s.mu.Unlock()
		return fmt.Errorf("save node records: %w", err)
	}
	return nil
}

// load reads what was saved. Each record is verified again; what does not pass is left out.
func (s *records) load(dir string) error {
	if dir == "" {
		return nil
	}
	b, err := readSmall(filepath.Join(dir, recordsFile), maxRecords)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("load node records: %w", err)
	}
	var l recordList
	if err := wire.Decode(b, maxRecords, &l); err != nil {
		return fmt.Errorf("load node records from %s: %w: remove it; seeds will do", filepath.Join(dir, recordsFile), err)
	}
	for _, raw := range l.Records {
		_, _ = s.add(raw) // one that has ended meanwhile, or whose organization was removed
	}
	return nil
}
