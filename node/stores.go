package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/mlsfed/mlsfed/batch"
	"github.com/mlsfed/mlsfed/clock"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/consensus/blob"
	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/quota"
)

// The folders in a node's data.
const (
	mailFolder  = "mail"  // one Pebble database: mailbox, directory, outbox, readers, bindings of files and keys of past epochs, each under a prefix
	orderFolder = "order" // snapshots of conversations
	logFolder   = "log"   // in order: the log of all conversations
	blobFolder  = "blobs" // what entries name
	filesFolder = "files" // what members share
	linksFolder = "links" // where other nodes were last
)

// The prefixes of the shared database.
var (
	prefixMailbox   = []byte("m")
	prefixDirectory = []byte("d")
	prefixOutbox    = []byte("o")
	prefixStreams   = []byte("s")
	prefixBindings  = []byte("b")
	prefixPastKeys  = []byte("k")
	prefixClock     = []byte("c")
	prefixFounded   = []byte("f")
)

// stores is all that is open on disk.
type stores struct {
	db     *pebble.DB
	writer *batch.Writer // for mailbox and outbox, who write what is accepted
	log    *raftlog.Log
	blobs  *blob.Store
	files  *files
	clock  *clock.Clock

	account *quota.Account // of what devices and other organizations have stored
	full    *fullDisk
}

func openStores(cfg *config.Config, o Options) (s *stores, err error) {
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	disk := &quota.Folder{Path: cfg.Data, Reserve: uint64(cfg.Quota.Reserve), Percent: cfg.Quota.ReservePercent}
	s = &stores{account: newAccount(&cfg.Quota, disk), full: newFullDisk(disk)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	at := func(names ...string) string { return filepath.Join(append([]string{cfg.Data}, names...)...) }
	if err := removeLeftovers(cfg.Data); err != nil {
		return s, err
	}
	if s.db, err = pebble.Open(at(mailFolder), mailbox.Tune(&pebble.Options{Logger: quiet{s.full}, FS: s.full.wrap(vfs.Default)})); err != nil {
		if errors.Is(err, syscall.EAGAIN) { // the lock is held
			return s, fmt.Errorf("data folder %s: another node is running on it: one folder is one node's", cfg.Data)
		}
		return s, fmt.Errorf("data folder %s: %w", at(mailFolder), err)
	}
	s.writer = batch.NewWriter(s.db)
	if s.clock, err = openClock(s.db, &cfg.Clock, o); err != nil {
		return s, err
	}
	for _, dir := range []string{at(orderFolder, logFolder), at(linksFolder)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return s, fmt.Errorf("data folder: %w", err)
		}
	}
	if s.log, err = raftlog.Open(raftlog.Config{Dir: at(orderFolder, logFolder), Backend: cfg.Consensus.Log, MinFree: logReserve(&cfg.Quota)}); err != nil {
		return s, err
	}
	if s.blobs, err = blob.Open(at(blobFolder), blob.Limits{Now: s.clock.Count, Ledger: ledger{s.account, quota.Blobs}}); err != nil {
		return s, err
	}
	s.files, err = openFiles(at(filesFolder), uint64(cfg.Files.File), uint64(cfg.Files.Total), cfg.Files.Age.Std(), &bindings{s.db, prefixBindings}, s.clock.Count, s.account)
	return s, err
}

// logReserve is the free space that the log leaves to the other stores: half of the reserve, since the node's
// own entries are written when nothing foreign is any more.
func logReserve(c *config.Quota) int64 {
	return int64(min(c.Reserve/2, 256<<20))
}

// removeLeftovers removes what a backup that was interrupted has left.
func removeLeftovers(data string) error {
	left, err := filepath.Glob(filepath.Join(data, "backup-*"))
	for _, dir := range left {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// close closes what is open, the other way round.
func (s *stores) close() error {
	var errs []error
	if s.files != nil {
		errs = append(errs, s.files.close())
	}
	if s.blobs != nil {
		errs = append(errs, s.blobs.Close())
	}
	if s.log != nil {
		errs = append(errs, s.log.Close())
	}
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	return errors.Join(errs...)
}
