package node

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/mlsfed/mlsfed/consensus/blob"
	"github.com/mlsfed/mlsfed/internal/quota"
	"github.com/mlsfed/mlsfed/wire"
)

// parts holds the uploads that have begun and not ended. Each device has a folder, named after the hash of its name,
// with a file for each upload and one that holds the device's name:
//
//	parts/HASH/device
//	parts/HASH/HASH of the file's hash and the conversation
//
// Each byte is charged before it is written. A device's uploads are its own: two devices that upload the same content
// have two uploads.
type parts struct {
	dir     string
	now     func() time.Time // the clock by which uploads age
	account *quota.Account

	mu   sync.Mutex // guards busy
	busy map[string]bool
}

const (
	// maxUploads bounds the requests that write uploads at once.
	maxUploads = 4096
	// partLife is how long an upload that does not continue is kept.
	partLife = 24 * time.Hour
	// deviceFile names the device in its folder.
	deviceFile = "device"
)

// openParts charges the existing uploads to the account. It removes an upload without an owner: that upload starts
// again.
func openParts(dir string, now func() time.Time, account *quota.Account) (*parts, error) {
	s := &parts{dir: dir, now: now, account: account, busy: make(map[string]bool)}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	folders, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range folders {
		path := filepath.Join(dir, e.Name())
		d, err := readDevice(filepath.Join(path, deviceFile))
		if err != nil || !e.IsDir() {
			if err := os.RemoveAll(path); err != nil {
				return nil, err
			}
			continue
		}
		if err := s.each(path, func(p *upload, info fs.FileInfo) error {
			p.device = d
			p.adopt()
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func readDevice(path string) (wire.DeviceID, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 1024))
	if err != nil {
		return "", err
	}
	return wire.ParseDeviceID(string(b))
}

// each calls fn with the uploads in a device's folder.
func (s *parts) each(folder string, fn func(*upload, fs.FileInfo) error) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if len(e.Name()) != 2*sha256.Size {
			continue // the device's name
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = fn(&upload{parts: s, path: filepath.Join(folder, e.Name())}, info)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *parts) folder(d wire.DeviceID) string {
	h := sha256.Sum256([]byte(d))
	return filepath.Join(s.dir, hex.EncodeToString(h[:16]))
}

// hold blocks other requests for the same upload until release.
func (s *parts) hold(d wire.DeviceID, ref wire.BlobRef, id wire.ConversationID) (p *upload, release func(), err error) {
	h := sha256.New()
	h.Write(ref.Hash[:])
	h.Write([]byte(id))
	path := filepath.Join(s.folder(d), hex.EncodeToString(h.Sum(nil)))
	if !s.take(path) {
		return nil, nil, wire.Errorf(wire.Busy, "putBlob", "another request writes this blob, or %d uploads are under way: send the pieces one after the other, or try again later", maxUploads)
	}
	return &upload{parts: s, device: d, conversation: id, path: path, ref: ref}, func() { s.give(path) }, nil
}

func (s *parts) take(path string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[path] || len(s.busy) >= maxUploads {
		return false
	}
	s.busy[path] = true
	return true
}

func (s *parts) give(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.busy, path)
}

// sweep removes uploads that have not continued for partLife.
func (s *parts) sweep() error {
	now := s.now()
	folders, err := os.ReadDir(s.dir)
	errs := []error{err}
	for _, e := range folders {
		folder := filepath.Join(s.dir, e.Name())
		d, err := readDevice(filepath.Join(folder, deviceFile))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		left := false
		errs = append(errs, s.each(folder, func(p *upload, info fs.FileInfo) error {
			// An upload with a time in the future began before a clock was set back.
			if now.Sub(info.ModTime()).Abs() <= partLife || !s.take(p.path) {
				left = true
				return nil
			}
			defer s.give(p.path)
			p.device = d
			return p.remove()
		}))
		// An upload that begins at this moment creates the folder again, or fails and is sent again.
		if !left && s.take(folder) {
			errs = append(errs, os.RemoveAll(folder))
			s.give(folder)
		}
	}
	return errors.Join(errs...)
}

// upload is an upload of a device that has begun and not ended.
type upload struct {
	parts        *parts
	path         string
	device       wire.DeviceID
	conversation wire.ConversationID // a file that is bound to one conversation can be uploaded for another
	ref          wire.BlobRef
}

// cost returns the bytes that are charged for a part.
func (p *upload) cost() uint64 {
	info, err := os.Stat(p.path)
	if err != nil {
		return 0
	}
	return uint64(info.Size()) + blob.Overhead
}

func (p *upload) owner() quota.Owner { return quota.Device(p.device) }

func (p *upload) adopt()     { p.parts.account.Adopt(p.owner(), quota.Parts, p.cost()) }
func (p *upload) discharge() { p.parts.account.Release(p.owner(), quota.Parts, p.cost()) }

func (p *upload) remove() error {
	n := p.cost()
	if err := os.Remove(p.path); err != nil {
		return err
	}
	p.parts.account.Release(p.owner(), quota.Parts, n)
	return nil
}

// begin creates the file, and the device's folder for its first upload.
func (p *upload) begin() error {
	if _, err := os.Stat(p.path); err == nil {
		return nil
	}
	if err := p.parts.account.Charge(p.owner(), quota.Parts, blob.Overhead); err != nil {
		return err
	}
	err := p.create()
	if err != nil {
		p.parts.account.Release(p.owner(), quota.Parts, blob.Overhead)
	}
	return uploadError(err)
}

func (p *upload) create() error {
	folder := filepath.Dir(p.path)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	name := filepath.Join(folder, deviceFile)
	if have, err := readDevice(name); err != nil || have != p.device {
		if err := os.WriteFile(name, []byte(p.device), 0o600); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(p.path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), p.touch())
}

// touch sets the part's time by the counting clock: the file system uses the machine's clock, which may have jumped.
func (p *upload) touch() error {
	now := p.parts.now()
	return os.Chtimes(p.path, now, now)
}

func uploadError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return diskFull("putBlob")
	}
	return fmt.Errorf("upload: %w", err)
}

// write appends the new bytes of a piece, and returns how much is stored.
func (p *upload) write(q *wire.PutBlobRequest) (have uint64, err error) {
	if info, err := os.Stat(p.path); err == nil {
		have = uint64(info.Size())
	} else if !errors.Is(err, fs.ErrNotExist) {
		return 0, uploadError(err)
	}
	end := q.Offset + uint64(len(q.Data))
	if q.Offset > have || end <= have {
		return have, nil // the upload continues at have
	}
	if err := p.begin(); err != nil {
		return have, err
	}
	fresh := q.Data[have-q.Offset:]
	if err := p.parts.account.Charge(p.owner(), quota.Parts, uint64(len(fresh))); err != nil {
		return have, err
	}
	n, err := p.append(fresh)
	if n < len(fresh) { // the written bytes stay
		p.parts.account.Release(p.owner(), quota.Parts, uint64(len(fresh)-n))
	}
	return have + uint64(n), uploadError(err)
}

func (p *upload) append(b []byte) (n int, err error) {
	f, err := os.OpenFile(p.path, os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 0, err
	}
	n, err = f.Write(b)
	return n, errors.Join(err, f.Close(), p.touch())
}
