package node

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/audit"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/directory"
	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// A backup is a tar archive of a running node: backup.json, data/, identity/ and an empty file, end, since
// tar itself takes an archive that is cut off between two files for a whole one. The parts are copied one
// after the other, the mail first: what the log has beyond it is delivered again.
//
// A node that is restored has forgotten what it did since. So at the restoration
//
//   - the streams of devices move on, so that no place in them is given twice (mailbox.Rebase),
//   - KeyPackages and invitations are dropped (directory.Restored),
//   - replicas with other voters are given up and invited anew (consensus.Config.Restored).

const (
	backupVersion = 2 // 1 had no end
	backupNote    = "backup.json"
	backupEnd     = "end"      // the last file: an archive without it was cut off
	restoredNote  = "restored" // in the data folder, until the first start has taken note of it
	streamsMoveBy = 1 << 32    // places; more than a stream can have gained since the backup
)

// Backup describes an archive.
type Backup struct {
	Version int         `json:"version"`
	Node    wire.NodeID `json:"node"`
	Domain  wire.Domain `json:"domain"`
	Time    time.Time   `json:"time"`
	By      string      `json:"by"` // the version of the node
}

// serveBackup writes an archive. What fails after its beginning breaks the connection, so that half an
// archive is not taken for one.
func (n *Node) serveBackup(w http.ResponseWriter, r *http.Request) {
	scratch, err := os.MkdirTemp(n.cfg.Data, "backup-*")
	if err == nil {
		defer os.RemoveAll(scratch)
		err = n.freeze(scratch)
	}
	if err != nil {
		n.log.Error("backup failed", "error", err)
		answer(w, http.StatusInternalServerError, plainError(err))
		return
	}
	w.Header().Set("Content-Type", "application/x-tar")
	if err := n.writeBackup(w, scratch); err != nil {
		n.log.Error("backup failed", "error", err)
		panic(http.ErrAbortHandler)
	}
	n.log.Info("backup written")
	n.audit.note(audit.BackupTaken, byCaller(r.Context()), string(n.cfg.Node), nil)
}

// freeze copies what changes under a reader.
func (n *Node) freeze(scratch string) error {
	if err := n.stores.db.Checkpoint(filepath.Join(scratch, mailFolder), pebble.WithFlushedWAL()); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if AuditFolder(n.cfg) == filepath.Join(n.cfg.Data, auditFolder) { // elsewhere it is kept elsewhere
		if err := n.audit.log.Copy(filepath.Join(scratch, auditFolder)); err != nil {
			return fmt.Errorf("backup: %w", err)
		}
	}
	return n.orders.Copy(filepath.Join(scratch, orderFolder, logFolder))
}

func (n *Node) writeBackup(out io.Writer, scratch string) error {
	w := tar.NewWriter(out)
	note, err := json.MarshalIndent(Backup{backupVersion, n.cfg.Node, n.cfg.Domain, n.now().UTC().Truncate(time.Second), n.version}, "", "  ")
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: backupNote, Mode: 0o600, Size: int64(len(note)), ModTime: n.now()}); err != nil {
		return err
	}
	if _, err := w.Write(note); err != nil {
		return err
	}
	for _, part := range []struct{ from, to string }{
		{filepath.Join(scratch, mailFolder), "data/" + mailFolder},
		{filepath.Join(scratch, orderFolder), "data/" + orderFolder},
		{filepath.Join(n.cfg.Data, orderFolder, "snapshots"), "data/" + orderFolder + "/snapshots"}, // after the log: never older
		{filepath.Join(n.cfg.Data, blobFolder), "data/" + blobFolder},
		{filepath.Join(n.cfg.Data, filesFolder), "data/" + filesFolder},
		{filepath.Join(n.cfg.Data, linksFolder), "data/" + linksFolder},
		{n.cfg.Identity, "identity"},
		{filepath.Join(scratch, auditFolder), "data/" + auditFolder},
	} {
		if err := addFolder(w, part.from, part.to); err != nil {
			return err
		}
	}
	if err := w.WriteHeader(&tar.Header{Name: backupEnd, Mode: 0o600, ModTime: n.now()}); err != nil {
		return err
	}
	return w.Close()
}

// addFolder writes the regular files below a folder. One that vanishes meanwhile is passed over.
func addFolder(w *tar.Writer, from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.Type().IsRegular() || d.Name() == "lock" || d.Name() == "LOCK" || strings.HasSuffix(d.Name(), ".tmp") {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		return addFile(w, path, to+"/"+filepath.ToSlash(rel))
	})
}

func addFile(w *tar.Writer, path, name string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: int64(info.Mode().Perm()), Size: info.Size(), ModTime: info.ModTime()}); err != nil {
		return err
	}
	_, err = io.CopyN(w, f, info.Size())
	return err
}

// Restore makes a node's data folder, and its identity where that is elsewhere, of an archive. Neither
// may hold anything. A restoration that fails leaves nothing behind that a node would start with.
func Restore(cfg *config.Config, archive io.Reader) (Backup, error) {
	inside := strings.HasPrefix(cfg.Identity, cfg.Data+string(filepath.Separator))
	for _, dir := range []string{cfg.Data, cfg.Identity} {
		if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
			return Backup{}, fmt.Errorf("restore: %s holds something already: move it away first", dir)
		}
	}
	scratch := cfg.Data + ".restoring"
	if err := errors.Join(os.RemoveAll(scratch), os.MkdirAll(scratch, 0o700)); err != nil {
		return Backup{}, fmt.Errorf("restore: %w", err)
	}
	defer os.RemoveAll(scratch)
	note, err := unpack(archive, scratch)
	if err != nil {
		return note, fmt.Errorf("restore: %w", err)
	}
	if note.Node != cfg.Node || note.Domain != cfg.Domain {
		return note, fmt.Errorf("restore: the archive is of %s of %s, the configuration of %s of %s", note.Node, note.Domain, cfg.Node, cfg.Domain)
	}
	data, identity := filepath.Join(scratch, "data"), filepath.Join(scratch, "identity")
	if err := forget(data, identity); err != nil {
		return note, fmt.Errorf("restore: %w", err)
	}
	to := cfg.Identity
	if inside {
		rel, err := filepath.Rel(cfg.Data, cfg.Identity)
		if err != nil {
			return note, err
		}
		to = filepath.Join(data, rel)
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o700), place(identity, to), place(data, cfg.Data)); err != nil {
		return note, fmt.Errorf("restore: %w", err)
	}
	return note, nil
}

// place moves a folder to where an empty one may be.
func place(from, to string) error {
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Rename(from, to)
}

// forget makes restored data safe to go on with, but for the replicas, which the first start sees to.
func forget(data, identity string) (err error) {
	db, err := pebble.Open(filepath.Join(data, mailFolder), mailbox.Tune(&pebble.Options{Logger: quiet{}}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := mailbox.Rebase(db, prefixMailbox, streamsMoveBy); err != nil {
		return err
	}
	id, err := federation.LoadIdentity(identity)
	if err != nil {
		return err
	}
	d, err := directory.New(db, prefixDirectory, directory.Config{Domain: id.Domain, CA: authority{id}})
	if err != nil {
		return err
	}
	if err := d.Restored(); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(data, restoredNote), nil, 0o600)
}

// damaged says why an archive cannot be used.
func damaged(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the archive is cut off: take another one, or copy it again")
	}
	return fmt.Errorf("the archive is damaged: %w", err)
}

// unpack writes an archive's files under a folder, and nothing outside of it.
func unpack(archive io.Reader, dir string) (note Backup, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return note, err
	}
	defer root.Close()
	in := tar.NewReader(archive)
	for first := true; ; first = false {
		h, err := in.Next()
		if errors.Is(err, io.EOF) && note.Version == 1 || err == nil && h.Name == backupEnd && !first {
			return note, nil
		}
		if err != nil {
			return note, damaged(err)
		}
		if first {
			if note, err = readNote(h, in); err != nil {
				return note, err
			}
			continue
		}
		if h.Typeflag != tar.TypeReg {
			return note, fmt.Errorf("the archive holds %q, which is no file", h.Name)
		}
		if err := unpackFile(root, h, in); err != nil {
			return note, err
		}
	}
}

func readNote(h *tar.Header, in io.Reader) (note Backup, err error) {
	if h.Name != backupNote || h.Size > 64<<10 {
		return note, errors.New("this is no archive of 'mlsfed backup'")
	}
	if err := json.NewDecoder(in).Decode(&note); err != nil {
		return note, damaged(err)
	}
	if note.Version < 1 || note.Version > backupVersion {
		return note, fmt.Errorf("the archive has version %d, this program knows 1 to %d", note.Version, backupVersion)
	}
	return note, nil
}

func unpackFile(root *os.Root, h *tar.Header, in io.Reader) error {
	name := filepath.FromSlash(h.Name)
	if err := root.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, fs.FileMode(h.Mode).Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(f, in)
	if err != nil {
		err = damaged(err)
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// restored says whether this is the first start after a restoration, and how to note that it was made.
func restored(data string) (bool, func() error) {
	path := filepath.Join(data, restoredNote)
	if _, err := os.Stat(path); err != nil {
		return false, func() error { return nil }
	}
	return true, func() error { return os.Remove(path) }
}
