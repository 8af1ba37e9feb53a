package node

import (
	"archive/tar"
	"context"
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

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/directory"
	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/internal/audit"
	"github.com/mlsfed/mlsfed/store/pebblestore"
	"github.com/mlsfed/mlsfed/wire"
)

// A backup is a tar archive of a running node: backup.json, data/, identity/ and an empty file, end. The file end is
// needed because tar itself accepts an archive that is cut off between two files. The parts are copied one after the
// other, the store first: entries that the log has beyond the store are delivered again.
//
// A restored node does not know what it did after the backup. Therefore, at the restoration
//
//   - the streams of devices move on, so that no place in them is given twice (pebblestore.Database.Rebase),
//   - KeyPackages and invitations are dropped (directory.Restored),
//   - replicas with other voters are given up and invited again (consensus.Config.Restored).

const (
	backupVersion = 2 // version 1 had no file end
	backupNote    = "backup.json"
	backupEnd     = "end"      // the last file: an archive without this file was cut off
	restoredNote  = "restored" // in the data folder, until the first start has read it
	streamsMoveBy = 1 << 32    // in items; more than a stream can have gained since the backup
)

// Backup describes an archive.
type Backup struct {
	Version int         `json:"version"`
	Node    wire.NodeID `json:"node"`
	Domain  wire.Domain `json:"domain"`
	Time    time.Time   `json:"time"`
	By      string      `json:"by"` // the version of the node
}

// serveBackup writes an archive. A failure after the beginning breaks the connection, so that no client takes half an
// archive for a whole one.
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

// freeze copies the files that change while they are read.
func (n *Node) freeze(scratch string) error {
	if n.cfg.Storage == config.StoragePebble {
		if err := n.stores.store.Checkpoint(filepath.Join(scratch, storeFolder)); err != nil {
			return fmt.Errorf("backup: %w", err)
		}
	}
	if AuditFolder(n.cfg) == filepath.Join(n.cfg.Data, auditFolder) { // in another folder it is not backed up
		if err := n.audit.log.Copy(filepath.Join(scratch, auditFolder)); err != nil {
			return fmt.Errorf("backup: %w", err)
		}
	}
	return n.orders.Copy(filepath.Join(scratch, orderFolder, logFolder))
}

func (n *Node) writeBackup(out io.Writer, scratch string) error {
	w := tar.NewWriter(out)
	note, err := json.MarshalIndent(Backup{
		Version: backupVersion, Node: n.cfg.Node, Domain: n.cfg.Domain, Time: n.now().UTC().Truncate(time.Second), By: n.version,
	}, "", "  ")
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
		{filepath.Join(scratch, storeFolder), "data/" + storeFolder},
		{filepath.Join(scratch, orderFolder), "data/" + orderFolder},
		{filepath.Join(n.cfg.Data, orderFolder, "snapshots"), "data/" + orderFolder + "/snapshots"}, // after the log: never older than it
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
	if err := addFile(w, filepath.Join(n.cfg.Data, formatFile), "data/"+formatFile); err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: backupEnd, Mode: 0o600, ModTime: n.now()}); err != nil {
		return err
	}
	return w.Close()
}

// addFolder writes the regular files below a folder. It skips a file that vanishes meanwhile.
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

// Restore creates a node's data folder from an archive, and its identity folder where that is another folder. Both
// must be empty. A restoration that fails leaves nothing behind with which a node would start.
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
	if err := checkFormat(data); err != nil {
		return note, fmt.Errorf("restore: %w", err)
	}
	if err := forget(context.Background(), cfg.Storage, data, identity); err != nil {
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

// place moves a folder to a path at which nothing, or an empty folder, is.
func place(from, to string) error {
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Rename(from, to)
}

// forget makes restored data safe to use, except for the replicas, which the first start handles. A PostgreSQL database
// is not in the archive: RebasePostgres does the same for a database that was restored.
func forget(ctx context.Context, storage, data, identity string) (err error) {
	path := filepath.Join(data, storeFolder)
	switch _, err := os.Stat(path); {
	case storage == config.StoragePostgres && err == nil:
		return errors.New("the archive is of a node with storage: pebble, the configuration has storage: postgres")
	case storage == config.StoragePebble && errors.Is(err, fs.ErrNotExist):
		return errors.New("the archive has no database: it is of a node with storage: postgres, the configuration has storage: pebble")
	case storage == config.StoragePostgres:
		return os.WriteFile(filepath.Join(data, restoredNote), nil, 0o600)
	}
	kept, err := pebblestore.Open(path, pebblestore.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, kept.Close()) }()
	if err := kept.Rebase(streamsMoveBy); err != nil {
		return err
	}
	if err := forgetRecords(ctx, kept.Records(), identity); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(data, restoredNote), nil, 0o600)
}

// forgetRecords drops the records that may have been used since a backup.
func forgetRecords(ctx context.Context, records recordstore.Store, identity string) error {
	id, err := organization.LoadIdentity(identity)
	if err != nil {
		return err
	}
	d, err := directory.New(records, directory.Config{Domain: id.Domain, CA: authority{id}})
	if err != nil {
		return err
	}
	return d.Restored(ctx)
}

// damaged returns the error for an archive that cannot be used.
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
		return note, errors.New("the file is not an archive of 'mlsfed backup'")
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

// restored reports whether this is the first start after a restoration, and returns a function that records that this
// start was made.
func restored(data string) (bool, func() error) {
	path := filepath.Join(data, restoredNote)
	if _, err := os.Stat(path); err != nil {
		return false, func() error { return nil }
	}
	return true, func() error { return os.Remove(path) }
}
