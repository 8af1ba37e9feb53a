package federation

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

	"github.com/mlsfed/mlsfed/wire"
)

// State says how an organization stands in the allow-list.
type State string

// The states.
const (
	Admitted  State = "admitted"
	Suspended State = "suspended" // kept in the list, and treated as if it were not
)

// Peer is one organization of the allow-list.
type Peer struct {
	Domain wire.Domain
	State  State
	Root   *x509.Certificate
	Seeds  []Seed

	change uint64 // the version of the list in which the entry changed last
}

// Peers is the allow-list: a folder with one file for each organization. Several processes may use it
// at once: each change is one rename, and Refresh brings in what others have changed.
type Peers struct {
	dir string

	mu      sync.Mutex // guards what follows
	known   map[wire.Domain]Peer
	files   map[string]wire.Domain // the names of the files in known
	stamps  map[string]stamp       // of the files that known was read from, or that could not be read
	changes uint64                 // of known
	folder  time.Time              // when the folder was changed last, as of the last look at all files
	looked  time.Time              // when that look began
}

// lookEvery is how often all files are looked at though the folder is unchanged: a file may have been
// written in place.
const lookEvery = 10 * time.Second

// stamp tells whether a file has changed: each write makes a new file.
type stamp struct {
	size     int64
	modified time.Time
	inode    uint64
}

// peerFile is the content of a file.
type peerFile struct {
	State  State             `json:"state"`
	Bundle *Bundle           `json:"bundle"`
	root   *x509.Certificate // of Bundle, checked
}

// maxPeerFile is the largest file of a peer that is read, in bytes: a bundle, indented further.
const maxPeerFile = 2 * MaxBundle

// OpenPeers opens the folder, and makes it if it is not there. A file that cannot be read is an error
// here; in Refresh it only takes its organization off the list.
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

// PeersIn is OpenPeers without reading what is in the folder: Add, Remove, Suspend and Resume read the
// files that they change, and List has those alone until Refresh.
func PeersIn(dir string) (*Peers, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("peers: %w", err)
	}
	return &Peers{
		dir: dir, known: make(map[wire.Domain]Peer), files: make(map[string]wire.Domain), stamps: make(map[string]stamp),
	}, nil
}

// Add admits an organization. One that is admitted already gets the new seeds; with another root it is
// refused with wire.Exists, since that is another organization under the same name until its operator
// says otherwise by another way: remove it first.
func (p *Peers) Add(b *Bundle) error {
	root, err := b.rootChecked()
	if err != nil {
		return err
	}
	if _, err := p.look(peerFileName(b.Domain)); err != nil {
		return fmt.Errorf("peers: %w", err)
	}
	state := Admitted
	if old, ok := p.get(b.Domain); ok {
		if !old.Root.Equal(root) {
			return wire.Errorf(wire.Exists, "peers", "%s is in the list with another root certificate: compare fingerprints with its operator, then remove it and add it again", b.Domain)
		}
		state = old.State
	}
	return p.write(b, state)
}

// Remove takes an organization off the list.
func (p *Peers) Remove(d wire.Domain) error {
	if err := d.Check(); err != nil {
		return wire.Errorf(wire.Malformed, "peers", "%v", err)
	}
	err := os.Remove(filepath.Join(p.dir, peerFileName(d)))
	if errors.Is(err, os.ErrNotExist) {
		return noPeer(d)
	}
	if err == nil {
		err = syncDir(p.dir)
	}
	if err == nil {
		_, err = p.look(peerFileName(d))
	}
	if err != nil {
		return fmt.Errorf("peers: %w", err)
	}
	return nil
}

// Suspend keeps an organization in the list and treats it as if it were not there.
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
	err = writeAtomic(filepath.Join(p.dir, peerFileName(b.Domain)), append(content, '\n'), 0o600)
	if err == nil {
		_, err = p.look(peerFileName(b.Domain))
	}
	if err != nil {
		return fmt.Errorf("peers: %w", err)
	}
	return nil
}

// List is the allow-list in the order of the domains, as of the last change or Refresh.
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

func (p *Peers) get(d wire.Domain) (Peer, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	peer, ok := p.known[d]
	return peer, ok
}

// version changes with the list.
func (p *Peers) version() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changes
}

// Refresh reads what has changed in the folder, and says whether the list has. A file that cannot be
// read takes its organization off the list, and is an error each time that it is found changed.
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

// unchanged reports whether no file was made, replaced or removed since all were looked at, by the time at
// which the folder was changed last. Such times are coarse: a look within a second of the change may have
// missed another one.
func (p *Peers) unchanged(folder, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	since := now.Sub(p.looked)
	return folder.Equal(p.folder) && since >= 0 && since < lookEvery && p.looked.Sub(folder) > time.Second
}

// look reads one file again if it has changed.
func (p *Peers) look(name string) (changed bool, err error) {
	path := filepath.Join(p.dir, name)
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return p.forget(name), nil
	}
	if err != nil {
		return false, err
	}
	now := stamp{info.Size(), info.ModTime(), inode(info)}
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
		return changed, fmt.Errorf("%w: its organization is not admitted until the file is mended", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stamps[name] = now
	was, ok := p.known[f.Bundle.Domain]
	if ok && was.State == f.State && was.Root.Equal(f.root) && slices.Equal(was.Seeds, f.Bundle.Seeds) {
		return false, nil // written again, or read by another goroutine at the same time
	}
	p.changes++
	p.files[name] = f.Bundle.Domain
	p.known[f.Bundle.Domain] = Peer{f.Bundle.Domain, f.State, f.root, f.Bundle.Seeds, p.changes}
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

// forget drops what a file said, and says whether that was anything.
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
	b, err := readSmall(path, maxPeerFile)
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

// peerFileName is the domain, or its hash where the domain is too long for the name of a file.
func peerFileName(d wire.Domain) string {
	if len(d) > 200 {
		h := sha256.Sum256([]byte(d))
		return hex.EncodeToString(h[:]) + peerSuffix
	}
	return string(d) + peerSuffix
}
