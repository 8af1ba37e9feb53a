// Package private keeps what a process stores to the user that the process runs as: folders and files are narrowed
// to their owner, or refused with a reason, and a control socket is never open in between.
package private

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Modes of what is private.
const (
	FolderMode fs.FileMode = 0o700
	FileMode   fs.FileMode = 0o600
)

const (
	group  fs.FileMode = 0o070
	others fs.FileMode = 0o007
)

// Open says that a folder or a file is open to other users of the machine.
type Open struct {
	Path string
	Mode fs.FileMode // permissions
	Dir  bool
	// Foreign is the number of the owner, if that is neither this process's user nor root.
	Foreign int
	// Group says that only the group has access besides the owner.
	Group bool
}

func (o *Open) Error() string {
	kind, want := "file", FileMode
	if o.Dir {
		kind, want = "folder", FolderMode
	}
	if o.Foreign != 0 {
		return fmt.Sprintf("%s %s belongs to user %d, who can change it: chown it to the user that mlsfed runs as", kind, o.Path, o.Foreign)
	}
	return fmt.Sprintf("%s %s is open to other users (mode %04o): chmod %04o %s", kind, o.Path, o.Mode, want, o.Path)
}

// Check returns an *Open if others than the owner have access, or if the owner is somebody else; nil for what is not
// there, and where the system knows no owners. A symbolic link is followed.
func Check(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	owner, known := ownerOf(info)
	if !known {
		return nil
	}
	o := &Open{Path: path, Mode: info.Mode().Perm(), Dir: info.IsDir()}
	if me := os.Geteuid(); me != 0 && owner != me && owner != 0 {
		o.Foreign = owner
		return o
	}
	if o.Mode&(group|others) == 0 {
		return nil
	}
	o.Group = o.Mode&others == 0
	return o
}

// CheckWritable returns an *Open if others than the owner can change a file that need not be secret, or if the owner is
// somebody else.
func CheckWritable(path string) error {
	err := Check(path)
	var o *Open
	if errors.As(err, &o) && o.Foreign == 0 && o.Mode&0o022 == 0 {
		return nil
	}
	return err
}

// Narrow takes access to a folder or a file from all but its owner. It returns what was open, nil if nothing was. An
// error, which is an *Open or one of the system, says that others still have access.
func Narrow(path string) (was *Open, err error) {
	err = Check(path)
	if err == nil || !errors.As(err, &was) || was.Foreign != 0 {
		return nil, err
	}
	if cerr := os.Chmod(path, was.Mode&^(group|others)); cerr != nil {
		if was.Group {
			return was, nil // as an orchestrator mounts it for the group of this process: reported, and used
		}
		return nil, fmt.Errorf("%w (%w)", was, cerr)
	}
	return was, nil
}

// MakeFolder makes a folder that is private, or narrows the one that is there.
func MakeFolder(path string) (was *Open, err error) {
	if err := os.MkdirAll(path, FolderMode); err != nil {
		return nil, err
	}
	return Narrow(path)
}

// Listen opens a Unix socket that only the process's user can connect to. The socket is made in a folder of its own,
// which others cannot enter, and moved to its place when its mode is right. A socket that another process has left there
// is replaced. Closing the listener removes it. The path can be longer than a socket's address: see Dial.
func Listen(path string) (net.Listener, error) {
	const scratchName = len(".0000/s")
	short, done, err := shortPath(filepath.Join(filepath.Dir(path), strings.Repeat("x", max(scratchName, len(filepath.Base(path))))))
	if err != nil {
		return nil, err
	}
	defer done()
	folder, err := scratch(filepath.Dir(short))
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder)
	made := filepath.Join(folder, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(made, FileMode), os.Rename(made, path)); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &listener{UnixListener: l, path: path}, nil
}

// scratch makes a folder with a name that is short: the path of a socket has about a hundred bytes at most.
func scratch(in string) (string, error) {
	var err error
	for range 8 {
		var b [2]byte
		_, _ = rand.Read(b[:]) // cannot fail: crypto/rand ends the process
		path := filepath.Join(in, "."+hex.EncodeToString(b[:]))
		if err = os.Mkdir(path, FolderMode); err == nil || !errors.Is(err, fs.ErrExist) {
			return path, err
		}
	}
	return "", err
}

type listener struct {
	*net.UnixListener
	path string
	once sync.Once
}

// Close implements net.Listener.
func (l *listener) Close() error {
	err := l.UnixListener.Close()
	l.once.Do(func() { err = errors.Join(err, os.Remove(l.path)) })
	return err
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }
