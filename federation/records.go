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

	"github.com/mlsfed/mlsfed/federation/internal/atomicfile"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/internal/clock"
	"github.com/mlsfed/mlsfed/wire"
)

// Reasons for dropped records, in addition to those of an [organization.Verifier].
const (
	recordReplayed = "replayed" // older than the known one
	recordTooMany  = "too_many" // nodes of its organization
	recordFlood    = "flood"    // records arrived faster than they could be verified
)

// known is a verified record as it was received.
type known struct {
	*organization.VerifiedRecord
	raw []byte
	sum recordSum // of raw
}

// records are the verified records of nodes, the newest of each, the own one among them.
type records struct {
	own      *organization.Identity
	peers    *organization.Peers
	verifier *organization.Verifier
	clock    clock.Source
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

func newRecords(cfg Config, v *organization.Verifier) *records {
	return &records{
		own: cfg.Identity, peers: cfg.Peers, verifier: v, clock: cfg.Clock, maxBytes: cfg.Limits.Record, maxNodes: cfg.Limits.Nodes, by: make(map[wire.NodeID]*known),
		of: make(map[wire.Domain][]*known), sums: make(map[recordSum]struct{}), orgs: make(map[shortSum]wire.Domain),
	}
}

// add verifies a record and stores it if it is newer than the known one. It returns nil without an error for the record
// that is known already.
func (s *records) add(b []byte) (*known, error) {
	if s.has(b) {
		return nil, nil
	}
	raw := slices.Clone(b)
	r, err := s.verifier.Record(raw, s.maxBytes)
	if err != nil {
		return nil, err
	}
	k := &known{VerifiedRecord: r, raw: raw, sum: sha256.Sum256(raw)}
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

// ofOrganization returns the valid records of an organization, by node.
func (s *records) ofOrganization(d wire.Domain) []*known {
	s.mu.Lock()
	list := s.of[d]
	s.mu.Unlock()
	var current []*known
	for _, k := range list {
		if s.valid(k) {
			current = append(current, k)
		}
	}
	return current
}

// organization returns the organization with a short sum, if a record of one of its nodes is known.
func (s *records) organization(h shortSum) (wire.Domain, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.orgs[h]
	return d, ok
}

// has reports whether exactly these bytes are known and need no verification.
func (s *records) has(b []byte) bool {
	sum := recordSum(sha256.Sum256(b))
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.sums[sum]
	return ok
}

// get returns a node's record, nil if there is no valid one.
func (s *records) get(n wire.NodeID) *known {
	s.mu.Lock()
	k := s.by[n]
	s.mu.Unlock()
	if k == nil || !s.valid(k) {
		return nil
	}
	return k
}

// valid reports whether a record is still accepted: its organization may have been removed since, or its certificate
// may have expired.
func (s *records) valid(k *known) bool {
	root, err := s.verifier.Root(k.Node.Organization())
	return err == nil && sameCertificate(root, k.Root) && s.clock.Now().Before(k.Ends)
}

func sameCertificate(a, b *x509.Certificate) bool { return a == b || a.Equal(b) }

// all returns the valid records, by node.
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

// number returns the number of this node's next record.
func (s *records) number(n wire.NodeID, now time.Time) wire.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := wire.TimeOf(now)
	if k := s.by[n]; k != nil {
		next = max(next, k.Number+1)
	}
	return next
}

// forget drops the records of organizations that are no longer in the allow-list, of nodes whose certificates have
// expired, and of nodes whose certificates another root has signed.
func (s *records) forget() {
	keep := make(map[wire.Domain]*x509.Certificate)
	keep[s.own.Domain] = s.own.Root
	for _, p := range s.peers.List() {
		keep[p.Domain] = p.Root
	}
	now := s.clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, k := range s.by {
		if root := keep[n.Organization()]; root == nil || !sameCertificate(root, k.Root) || !now.Before(k.Ends) {
			s.drop(k)
		}
	}
}

// The file of known records: a version and the records as they were received.
const recordsFile = "records.cbor"

const recordsVersion = 1

type recordList struct {
	Version uint8    `cbor:"1,keyasint"`
	Records [][]byte `cbor:"2,keyasint"`
}

// Check refuses another version.
func (l *recordList) Check() error {
	if l.Version != recordsVersion {
		return wire.Errorf(wire.Version, "records", "version %d, this node knows %d", l.Version, recordsVersion)
	}
	return nil
}

// encodeRecords encodes a list for the file and for gossip.
func encodeRecords(list []*known) ([]byte, error) {
	l := recordList{Version: recordsVersion, Records: make([][]byte, 0, len(list))}
	for _, k := range list {
		l.Records = append(l.Records, k.raw)
	}
	return wire.Encode(&l)
}

// maxRecords is the largest list that is read, in bytes.
const maxRecords = 16 << 20

// save writes the known records, if they have changed since they were written.
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
		err = atomicfile.Write(filepath.Join(dir, recordsFile), b, 0o600)
	}
	if err != nil {
		s.mu.Lock()
		s.changed = true
		s.mu.Unlock()
		return fmt.Errorf("save node records: %w", err)
	}
	return nil
}

// load reads saved records. Each record is verified again; a record that is not accepted is left out.
func (s *records) load(dir string) error {
	if dir == "" {
		return nil
	}
	b, err := atomicfile.Read(filepath.Join(dir, recordsFile), maxRecords)
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
		_, _ = s.add(raw) // the certificate may have expired, or the organization may have been removed
	}
	return nil
}
