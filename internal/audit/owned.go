package audit

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/mlsfed/mlsfed/internal/platform"
)

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
	f, err := os.OpenFile(path, flags|platform.NoFollow, 0o600)
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
	o, known := platform.OwnerOf(info)
	if !known || o.User == 0 {
		return nil
	}
	return os.Lchown(path, o.User, o.Group)
}
