package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unicode"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

// saveFile writes a file to where it is wanted: a path where nothing is, or a folder, where it gets a free name.
func (p *person) saveFile(ctx context.Context, m *client.Message, path string) (string, error) {
	file := m.Content.File
	folder, path := false, p.path(path)
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		folder, path = true, filepath.Join(path, safeName(file.Name))
	} else if _, err := os.Lstat(path); err == nil {
		return "", fmt.Errorf("%s exists already: choose another name", path)
	}
	name := filepath.Join(filepath.Dir(path), ".mlsfed-"+file.Blob.Hash.String()+".part")
	part, err := openPart(name)
	if err != nil {
		return "", err
	}
	info, err := part.Stat()
	if err == nil {
		err = p.SaveFile(ctx, m.Conversation, file, part, min(uint64(info.Size()), file.Size))
	}
	err = errors.Join(err, part.Sync(), part.Close())
	if wire.CodeOf(err) == wire.Forged {
		err = errors.Join(err, os.Remove(name))
	}
	if err != nil {
		return "", err
	}
	saved, err := place(name, path, folder)
	return p.named(saved), err
}

// openPart opens what an earlier attempt has left, or a new file. Its name is the hash of what is saved, which no sender
// of another file chooses. A link, or what is no file of one name, is not written to.
func openPart(name string) (*os.File, error) {
	part, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := part.Stat()
	if err == nil {
		s, ok := info.Sys().(*syscall.Stat_t)
		if !info.Mode().IsRegular() || ok && (s.Nlink != 1 || int(s.Uid) != os.Geteuid()) {
			err = fmt.Errorf("%s is no file of this user alone: remove it", name)
		}
	}
	if err != nil {
		return nil, errors.Join(err, part.Close())
	}
	return part, nil
}

// mostNames bounds the names that are tried in a folder.
const mostNames = 1000

// place gives a whole file its name, never that of another one.
func place(part, path string, free bool) (string, error) {
	for n := 1; n <= mostNames; n++ {
		to := path
		if n > 1 {
			to = numbered(path, n)
		}
		err := os.Link(part, to) // fails where something is
		if err == nil {
			return to, os.Remove(part)
		}
		if !errors.Is(err, fs.ErrExist) {
			return renamed(part, to)
		}
		if !free {
			return "", fmt.Errorf("%s exists already: choose another name", to)
		}
	}
	return "", fmt.Errorf("%s and %d names like it exist already: choose another folder", path, mostNames)
}

// renamed is for a file system without hard links: the name is taken first.
func renamed(part, to string) (string, error) {
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	return to, errors.Join(f.Close(), os.Rename(part, to))
}

// numbered is "name (2).jpg" of "name.jpg".
func numbered(path string, n int) string {
	dir, name := filepath.Split(path)
	ext := filepath.Ext(name)
	if len(ext) > maxExtension {
		ext = ""
	}
	number := fmt.Sprintf(" (%d)", n)
	return dir + shorten(strings.TrimSuffix(name, ext), maxFileName-len(number)-len(ext)) + number + ext
}

// Lengths of names of files in bytes: the most that file systems take, and the longest ending that is kept whole.
const (
	maxFileName  = 255
	maxExtension = 32
)

// safeName is the name that a sender gave a file, without what could lead out of a folder or hide it.
func safeName(name string) string {
	name = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '_'
		}
		return r
	}, name)
	name = filepath.Base(strings.ReplaceAll(oneLine(name), `\`, "/"))
	name = strings.TrimLeft(strings.Map(func(r rune) rune {
		if r == '/' || r == ':' {
			return '_'
		}
		return r
	}, name), ".-")
	if name == "" {
		return "file"
	}
	ext := filepath.Ext(name)
	if len(ext) > maxExtension {
		ext = ""
	}
	return shorten(strings.TrimSuffix(name, ext), maxFileName-len(ext)) + ext
}

// shorten cuts a name to n bytes, without a part of a character at its end.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
