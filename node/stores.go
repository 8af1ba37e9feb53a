package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/consensus/blob"
	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/internal/clock"
	"github.com/mlsfed/mlsfed/internal/quota"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/store/pebblestore"
	"github.com/mlsfed/mlsfed/store/postgres"
)

// The folders in a node's data.
const (
	storeFolder = "mail"  // the store: mailbox, directory, outbox, readers, bindings of files and keys of past epochs
	orderFolder = "order" // snapshots of conversations
	logFolder   = "log"   // in order: the log of all conversations
	blobFolder  = "blobs" // what entries name
	filesFolder = "files" // what members share
	linksFolder = "links" // where other nodes were last
)

// stores holds everything that is open on disk.
type stores struct {
	store store.Store
	log   *raftlog.Log
	blobs *blob.Store
	files *files
	clock *clock.Clock

	account *quota.Account // of what devices and other organizations have stored
	full    *pebblestore.FullDisk
	disk    quota.Disk
}

// openStores opens the data of a node. count gets the numbers of items that the mailbox refuses or removes. opened gets what is
// open, also after an error.
func openStores(cfg *config.Config, o Options, count func(string, uint64), opened *closers) (*stores, error) {
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	disk := &quota.Folder{Path: cfg.Data, Reserve: uint64(cfg.Quota.Reserve), Percent: cfg.Quota.ReservePercent}
	s := &stores{account: newAccount(&cfg.Quota, disk), full: pebblestore.NewFullDisk(disk), disk: disk}
	at := func(names ...string) string { return filepath.Join(append([]string{cfg.Data}, names...)...) }
	if err := removeLeftovers(cfg.Data); err != nil {
		return nil, err
	}
	db, err := openDatabase(cfg, o, s.full)
	if err != nil {
		return nil, err
	}
	opened.add(db.Close)
	if err := recordFormat(cfg.Data, o.Version); err != nil { // the lock of the database is held
		return nil, err
	}
	if s.clock, err = openClock(context.Background(), db.Clock(), &cfg.Clock, o); err != nil {
		return nil, err
	}
	box := mailboxLimits(&cfg.Mailbox)
	box.Clock, box.Count = counting{s.clock}, count
	box.Report = func(err error) { o.Logger.Error("mailbox", "error", err) }
	s.store = db.open(box)
	for _, dir := range []string{at(orderFolder, logFolder), at(linksFolder)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("data folder: %w", err)
		}
	}
	if s.log, err = raftlog.Open(raftlog.Config{Dir: at(orderFolder, logFolder), Backend: cfg.Consensus.Log, MinFree: logReserve(&cfg.Quota)}); err != nil {
		return nil, err
	}
	opened.add(s.log.Close)
	if s.blobs, err = blob.Open(at(blobFolder), blob.Limits{Now: s.clock.Count, Ledger: ledger{s.account, quota.Blobs}}); err != nil {
		return nil, err
	}
	opened.add(s.blobs.Close)
	s.files, err = openFiles(at(filesFolder), uint64(cfg.Files.File), uint64(cfg.Files.Total), cfg.Files.Age.Std(), s.store.Bindings(), s.clock.Count, s.account)
	if err != nil {
		return nil, err
	}
	opened.add(s.files.close)
	return s, nil
}

// database is an open database of either kind, before its mailbox is made.
type database struct {
	Clock func() store.Clock
	Close func() error
	open  func(mailbox.Config) store.Store // once
}

// openDatabase opens the database that the configuration names.
func openDatabase(cfg *config.Config, o Options, full *pebblestore.FullDisk) (*database, error) {
	path := filepath.Join(cfg.Data, storeFolder)
	if cfg.Storage == config.StoragePostgres {
		if _, err := os.Stat(path); err == nil {
			return nil, fmt.Errorf("storage: postgres, and %s has the database of a node with storage: pebble: start with an empty data folder", path)
		}
		db, err := postgres.Open(context.Background(), PostgresOptions(cfg, func(err error) { o.Logger.Warn("database", "error", err) }))
		if err != nil {
			return nil, err
		}
		return &database{db.Clock, db.Close, func(c mailbox.Config) store.Store { return db.Store(c) }}, nil
	}
	db, err := pebblestore.Open(path, pebblestore.Options{Full: full})
	if errors.Is(err, pebblestore.ErrInUse) {
		return nil, fmt.Errorf("data folder %s: another node is running on it: one folder is one node's", cfg.Data)
	}
	if err != nil {
		return nil, fmt.Errorf("data folder %s: %w", path, err)
	}
	return &database{db.Clock, db.Close, func(c mailbox.Config) store.Store { return db.Store(c) }}, nil
}

// logReserve returns the free space that the log leaves to the other stores: half of the reserve. The node still
// writes its own entries when it no longer stores anything foreign.
func logReserve(c *config.Quota) int64 {
	return int64(min(c.Reserve/2, 256<<20))
}

// removeLeftovers removes what an interrupted backup has left.
func removeLeftovers(data string) error {
	left, err := filepath.Glob(filepath.Join(data, "backup-*"))
	for _, dir := range left {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}
