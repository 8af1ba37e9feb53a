package audit

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// lockWhole waits for the lock of a file, which ends when the file is closed.
func lockWhole(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// makeFolder makes the log's folder, for its owner alone.
func makeFolder(dir string) error {
	switch err := os.Mkdir(dir, 0o700); {
	case errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	return giveTo(dir)
}

// openOwned opens a file of the log, and gives one that it makes to the owner of the folder above.
func openOwned(path string, flags int) (*os.File, error) {
	_, err := os.Lstat(path)
	fresh := errors.Is(err, fs.ErrNotExist)
	f, err := os.OpenFile(path, flags|syscall.O_NOFOLLOW, 0o600)
	if err == nil && fresh {
		if err = giveTo(path); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, err
}

// giveTo gives what root has made to the owner of the folder that it is in: root's own commands must not keep the
// node's user from appending.
func giveTo(path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return err
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok || s.Uid == 0 {
		return nil
	}
	return os.Lchown(path, int(s.Uid), int(s.Gid))
}
