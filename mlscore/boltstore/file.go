package boltstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// fileMode allows only the owner to read and write.
const fileMode = 0o600

// openFile reads the structure of the bbolt file and opens it.
//
// bbolt locks the file only when bbolt opens it, so another process may write before that, or while the structure is
// read. Then the newest transaction differs, and openFile starts again. bbolt does not write over a page that a meta
// page reaches before it writes over that meta page.
func (s *Store) openFile(c credential) error {
	const attempts = 8
	created := false
	for range attempts {
		seen, err := s.inspect()
		if errors.Is(err, fs.ErrNotExist) && !created {
			if err := s.create(c); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			created = true // by this process or by another
			continue
		}
		if err != nil {
			return err
		}
		opened, err := s.openBolt()
		if err != nil {
			return err
		}
		if opened == seen {
			return nil
		}
		if err := s.closeBolt(); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: it changed %d times while it was being opened", ErrInUse, attempts)
}

// inspect reads the structure of the file and returns the id of its newest transaction, or zero, which is not a valid
// id, if another process writes meanwhile.
func (s *Store) inspect() (uint64, error) {
	f, err := os.Open(s.path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // nothing was written
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, errors.New("not a regular file")
	}
	meta, whole, err := readStructure(f, info.Size())
	if err == nil && (whole || s.opts.Salvage) {
		return meta.txid, nil
	}
	if again, _, e := readMetas(f, info.Size()); e == nil && again.txid != meta.txid {
		return 0, nil
	}
	if err == nil {
		err = errors.New("one of the two meta pages is damaged, and the last transaction may be lost with it")
	}
	return 0, s.damaged(nil, err.Error())
}

// openBolt opens the file with bbolt, which locks it, and returns the id of its newest transaction.
func (s *Store) openBolt() (txid uint64, err error) {
	err = s.guard(func() error {
		db, err := bbolt.Open(s.path, fileMode, &bbolt.Options{
			Timeout:      max(s.opts.Wait, time.Nanosecond), // zero would wait without a limit
			FreelistType: bbolt.FreelistMapType,
			NoStatistics: true,
			OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
				f, err := os.OpenFile(name, flag&^os.O_CREATE, mode)
				s.file = f
				return f, err
			},
		})
		if errors.Is(err, bolterrors.ErrTimeout) {
			return fmt.Errorf("%w: a process has it open; close it there, or wait longer (Options.Wait)", ErrInUse)
		}
		s.db = db
		return err
	})
	if err != nil {
		if s.file != nil {
			_ = s.file.Close() // bbolt has closed it, unless bbolt panicked
		}
		s.db, s.file = nil, nil
		return 0, err
	}
	newest, _, err := s.metas()
	return newest.txid, err
}

func (s *Store) closeBolt() error {
	err := s.db.Close()
	s.db, s.file = nil, nil
	return err
}

// metas reads the meta pages of the open file.
func (s *Store) metas() (newest boltMeta, whole bool, err error) {
	info, err := s.file.Stat()
	if err != nil {
		return newest, false, err
	}
	return readMetas(s.file, info.Size())
}

// create makes an empty store under a temporary name and links it to its own name when it is complete, so that a
// crash leaves either no file or a valid one. The name is on the disk before the first batch is written. If two
// processes create the file, the second one finds that the name exists.
func (s *Store) create(c credential) error {
	h, k, err := c.begin(s.opts.Rand)
	if err != nil {
		return err
	}
	defer k.erase()
	dir := filepath.Dir(s.path)
	temp, err := os.CreateTemp(dir, filepath.Base(s.path)+".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(temp.Name()) }() // the link keeps the file
	if err := temp.Close(); err != nil {
		return err
	}
	db, err := bbolt.Open(temp.Name(), fileMode, &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		if _, err := tx.CreateBucket(bucketRecords); err != nil {
			return err
		}
		file, err := tx.CreateBucket(bucketFile)
		if err != nil {
			return err
		}
		if err := file.Put(recordHeader, h.marshal()); err != nil {
			return err
		}
		if err := file.Put(recordGeneration, binary.BigEndian.AppendUint64(nil, 1)); err != nil {
			return err
		}
		if err := makeJournal(tx, s.opts.journalSize()); err != nil {
			return err
		}
		return file.Put(recordDigest, k.digest(&setSum{}, 1))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Link(temp.Name(), s.path); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes a new name in a directory durable. Windows has no such call, and needs none.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
