package private

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
)

// maxSocketPath is the length of a socket's path in bytes that every system takes: sun_path holds 104 on macOS and
// BSD, 108 on Linux, with a zero at its end.
const maxSocketPath = 103

// Dial connects to a socket that Listen has made, whatever the length of its path.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	short, done, err := shortPath(path)
	if err != nil {
		return nil, err
	}
	defer done()
	return new(net.Dialer).DialContext(ctx, "unix", short)
}

// shortPath returns a path to the same file that a socket's address can hold: where the path is too long, it leads
// through a symbolic link to its folder, in a private folder of the system's temporary one. done removes both.
func shortPath(path string) (short string, done func(), err error) {
	if len(path) <= maxSocketPath {
		return path, func() {}, nil
	}
	folder, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return "", nil, err
	}
	temporary, err := os.MkdirTemp("", "m") // mode 0700
	if err != nil {
		return "", nil, err
	}
	done = func() { _ = os.RemoveAll(temporary) } // removes the link, not the folder that it names
	link := filepath.Join(temporary, "f")
	short = filepath.Join(link, filepath.Base(path))
	err = os.Symlink(folder, link)
	if err == nil && len(short) > maxSocketPath {
		err = &fs.PathError{Op: "connect", Path: path, Err: fmt.Errorf("%w: the path has %d bytes, a socket's at most %d, and so has %s", errLongPath, len(path), maxSocketPath, short)}
	}
	if err != nil {
		done()
		return "", nil, err
	}
	return short, done, nil
}

var errLongPath = errors.New("the path is too long for a socket: choose a shorter folder, or TMPDIR")
