package organization

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/federation/internal/atomicfile"
	"github.com/mlsfed/mlsfed/wire"
)

// State is the state of an organization in the allow-list.
type State string

// The states.
const (
	Admitted  State = "admitted"
	Suspended State = "suspended" // in the list, and not admitted
)

// Peer is one organization of the allow-list.
type Peer struct {
	Domain wire.Domain
	State  State
	Root   *x509.Certificate
	Seeds  []Seed

	Changed uint64 // the version of the list in which the entry changed last
}

// Peers is the allow-list: a folder with one file for each organization. Several processes may use it at once: each
// change is one rename, and Refresh reads the changes of other processes.
type Peers struct {
	dir string

	mu      sync.Mutex // guards what follows
	known   map[wire.Domain]Peer
	files   map[string]wire.Domain // the names of the files in known
	stamps  map[string]stamp       // of the files that were read, or could not be read
	changes uint64                 // of known
	folder  time.Time              // the time of the folder's last change, when Refresh last checked all files
	looked  time.Time              // when that check began
}

// lookEvery is how often Refresh checks all files even if the folder is unchanged: a file may have been written in
// place.
const lookEvery = 10 * time.Second

// stamp identifies a version of a file: each write makes a new file.
type stamp struct {
	size     int64
	modified time.Time
	inode    uint64
}

func stampOf(info os.FileInfo) stamp {
	return stamp{size: info.Size(), modified: info.ModTime(), inode: inode(info)}
}

// peerFile is the content of a file.
type peerFile struct {
	State  State             `json:"state"`
	Bundle *Bundle           `json:"bundle"`
	root   *x509.Certificate // of Bundle, checked
}

// maxPeerFile is the largest file of a peer that is read, in bytes: a bundle, indented further.
const maxPeerFile = 2 * maxBundle

// OpenPeers opens the folder, and makes it if there is none. A file that cannot be read is an error here; in Refresh it
// only removes its organization from the list.
func OpenPeers(dir string) (*Peers, error) {
	p, err := PeersIn(dir)
	if err != nil {
		return nil, err
	}
	if _, err := p.Refresh(); err != nil {
		return nil, fmt.Errorf("peers: %w", err)
	}
	return p, nil
}

// PeersIn opens the folder without reading its files: Add, Remove, Suspend and Resume read the files that they change,
// and List has only those until Refresh.
func PeersIn(dir string) (*Peers, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("peers: %w", err)
	}
	return &Peers{
		dir: dir, known: make(map[wire.Domain]Peer), files: make(map[string]wire.Domain), stamps: make(map[string]stamp),
	}, nil
}

// Add admits an organization. One that is in the list already gets the new seeds. A bundle with another root is refused
// with wire.Exists: it is another organization of the same name, unless its operator confirms the new root by another
// channel. Remove the organization first to change its root.
func (p *Peers) Add(b *Bundle) error {
	root, err := b.rootChecked()
	if err != nil {
		return err
	}
	if _, err := p.look(peerFileName(b.Domain)); err != nil {
		return fmt.Errorf("peers: %w", err)
	}
	state := Admitted
	if old, ok := p.Get(b.Domain); ok {
		if !old.Root.Equal(root) {
			return wire.Errorf(wire.Exists, "peers", "%s is in the list with another root certificate: compare fingerprints with its operator, then remove it and add it again", b.Domain)
		}
		state = old.State
	}
	return p.write(b, state)
}

// addsAtOnce is how many organizations AddAll admits at the same time.
const addsAtOnce = 32

// AddAll admits organizations as Add does, many at the same time, so that they share the writes of the disk. It returns
// an error for each bundle, nil for one that is admitted. Several bundles of one organization are added in their order.
func (p *Peers) AddAll(list []*Bundle) []error {
	errs := make([]error, len(list))
	of := make(map[wire.Domain][]int)
	for i, b := range list {
		of[b.Domain] = append(of[b.Domain], i)
	}
	var all sync.WaitGroup
	places := make(chan struct{}, addsAtOnce)
	for _, same := range of {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			for _, i := range same {
				errs[i] = p.Add(list[i])
			}
		})
	}
	all.Wait()
	return errs
}

// Remove removes an organization from the list.
func (p *Peers) Remove(d wire.Domain) error {
	if err := d.Check(); err != nil {
		return wire.Errorf(wire.Malformed, "peers", "%v", err)
	}
	err := atomicfile.Remove(filepath.Join(p.dir, peerFileName(d)))
	if errors.Is(err, os.ErrNotExist) {
		return noPeer(d)
	}
	if err == nil {
		_, err = p.look(peerFileName(d))
	}
	if err != nil {
		return fmt.Errorf("peers: %w", err)
	}
	return nil
}

// Suspend keeps an organization in the list, and not admitted, until Resume.
func (p *Peers) Suspend(d wire.Domain) error { return p.set(d, Suspended) }

// Resume ends a suspension.
func (p *Peers) Resume(d wire.Domain) error { return p.set(d, Admitted) }

func (p *Peers) set(d wire.Domain, s State) error {
	if err := d.Check(); err != nil {
		return wire.Errorf(wire.Malformed, "peers", "%v", err)
	}
	f, err := readPeer(filepath.Join(p.dir, peerFileName(d)))
	if errors.Is(err, os.ErrNotExist) {
		return noPeer(d)
	}
	if err != nil {
		return fmt.Errorf("peers: %w", err)
	}
	return p.write(f.Bundle, s)
}

func noPeer(d wire.Domain) error {
	return wire.Errorf(wire.NotFound, "peers", "%s is not in the list", d)
}

func (p *Peers) write(b *Bundle, s State) error {
	content, err := json.MarshalIndent(peerFile{State: s, Bundle: b}, "", "  ")
	if err != nil {
		return fmt.Errorf("peers: %w", err)
	}
	err = atomicfile.Write(filepath.Join(p.dir, peerFileName(b.Domain)), append(content, '\n'), 0o600)
	if err == nil {
		_, err = p.look(peerFileName(b.Domain))
	}
	if err != nil {
		return fmt.Errorf("peers: %w", err)
	}
	return nil
}

// List returns the allow-list in the order of the domains, as of the last change or Refresh.
func (p *Peers) List() []Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]Peer, 0, len(p.known))
	for _, peer := range p.known {
		peer.Seeds = slices.Clone(peer.Seeds)
		list = append(list, peer)
	}
	slices.SortFunc(list, func(a, b Peer) int { return cmp.Compare(a.Domain, b.Domain) })
	return list
}

// Get returns an organization's entry, as of the last change or Refresh. The caller must not change its seeds.
func (p *Peers) Get(d wire.Domain) (Peer, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	peer, ok := p.known[d]
	return peer, ok
}

// Version returns a number that changes with the list.
func (p *Peers) Version() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changes
}

// Refresh reads the changes in the folder, and reports whether the list has changed. A file that cannot be read removes
// its organization from the list, and is an error each time that the file has changed.
func (p *Peers) Refresh() (changed bool, err error) {
	info, err := os.Stat(p.dir)
	if err != nil {
		return false, err
	}
	begun := time.Now()
	if p.unchanged(info.ModTime(), begun) {
		return false, nil
	}
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return false, err
	}
	present := make(map[string]bool, len(entries))
	var faults []error
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), peerSuffix) || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		present[e.Name()] = true
		again, err := p.look(e.Name())
		changed = changed || again
		if err != nil {
			faults = append(faults, err)
		}
	}
	p.mu.Lock()
	p.folder, p.looked = info.ModTime(), begun
	p.mu.Unlock()
	return p.dropMissing(present) || changed, errors.Join(faults...)
}

// unchanged reports, by the time of the folder's last change, whether no file was made, replaced or removed since all
// files were checked. Such times are coarse: a check within a second of a change may have missed another change.
func (p *Peers) unchanged(folder, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	since := now.Sub(p.looked)
	return folder.Equal(p.folder) && since >= 0 && since < lookEvery && p.looked.Sub(folder) > time.Second
}

// look reads one file if it has changed.
func (p *Peers) look(name string) (changed bool, err error) {
	path := filepath.Join(p.dir, name)
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return p.forget(name), nil
	}
	if err != nil {
		return false, err
	}
	now := stampOf(info)
	p.mu.Lock()
	old, ok := p.stamps[name]
	p.mu.Unlock()
	if ok && old == now {
		return false, nil
	}
	f, err := readPeer(path)
	if err == nil && peerFileName(f.Bundle.Domain) != name {
		err = fmt.Errorf("%s is for %s: wanted it in %s", name, f.Bundle.Domain, peerFileName(f.Bundle.Domain))
	}
	if err != nil {
		changed = p.forget(name)
		p.mu.Lock()
		p.stamps[name] = now
		p.mu.Unlock()
		return changed, fmt.Errorf("%w: its organization is not admitted until the file is repaired", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stamps[name] = now
	was, ok := p.known[f.Bundle.Domain]
	if ok && was.State == f.State && was.Root.Equal(f.root) && slices.Equal(was.Seeds, f.Bundle.Seeds) {
		return false, nil // the same content, or read by another goroutine at the same time
	}
	p.changes++
	p.files[name] = f.Bundle.Domain
	p.known[f.Bundle.Domain] = Peer{Domain: f.Bundle.Domain, State: f.State, Root: f.root, Seeds: f.Bundle.Seeds, Changed: p.changes}
	return true, nil
}

func (p *Peers) dropMissing(present map[string]bool) (changed bool) {
	p.mu.Lock()
	var gone []string
	for name := range p.stamps {
		if !present[name] {
			gone = append(gone, name)
		}
	}
	p.mu.Unlock()
	for _, name := range gone {
		if p.forget(name) {
			changed = true
		}
	}
	return changed
}

// forget removes the organization of a file from the list, and reports whether it was in the list.
func (p *Peers) forget(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.stamps, name)
	d, ok := p.files[name]
	if !ok {
		return false
	}
	delete(p.files, name)
	delete(p.known, d)
	p.changes++
	return true
}

func readPeer(path string) (*peerFile, error) {
	b, err := atomicfile.Read(path, maxPeerFile)
	if err != nil {
		return nil, err
	}
	f, err := parsePeer(b)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return f, nil
}

func parsePeer(b []byte) (*peerFile, error) {
	f := new(peerFile)
	if err := decodeStrict(b, f); err != nil {
		return nil, wire.Errorf(wire.Malformed, "peer", "%v", err)
	}
	if f.State != Admitted && f.State != Suspended {
		return nil, wire.Errorf(wire.Malformed, "peer", "state %.40q, wanted %q or %q", f.State, Admitted, Suspended)
	}
	if f.Bundle == nil {
		return nil, wire.Errorf(wire.Malformed, "peer", "without a bundle")
	}
	var err error
	f.root, err = f.Bundle.rootChecked()
	return f, err
}

const peerSuffix = ".json"

// peerFileName returns the name of an organization's file: the domain, or its hash if the domain is too long for a
// name.
func peerFileName(d wire.Domain) string {
	if len(d) > 200 {
		h := sha256.Sum256([]byte(d))
		return hex.EncodeToString(h[:]) + peerSuffix
	}
	return string(d) + peerSuffix
}
