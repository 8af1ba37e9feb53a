package people

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/internal/platform"
	"github.com/mlsfed/mlsfed/wire"
)

// SaveFileAt writes a file to a path at which nothing is, or into a folder, where the file gets a free name.
func (p *Person) SaveFileAt(ctx context.Context, m *client.Message, path string) (string, error) {
	switch path {
	case "":
		return "", cli.UsageError(errors.New("where to save is empty: wanted a file, or a folder"))
	case "-":
		return "", cli.UsageError(errors.New("- is no place to save: nothing is written to standard output; ./- is a file of that name"))
	}
	file := m.Content.File
	folder, path := false, p.path(path)
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		folder, path = true, filepath.Join(path, safeName(file.Name))
	} else if _, err := os.Lstat(path); err == nil {
		return "", fmt.Errorf("%s exists already: choose another name", path)
	}
	if _, err := os.Stat(filepath.Dir(path)); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("folder %s does not exist: make it first", p.named(filepath.Dir(path)))
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

// openPart opens what an earlier attempt has left, or a new file. The name is the hash of the saved content, which a
// sender of another file cannot choose. openPart refuses a link, and a file of another user or with more than one
// name.
func openPart(name string) (*os.File, error) {
	part, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|os.O_APPEND|platform.NoFollow, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := part.Stat()
	if err == nil {
		o, known := platform.OwnerOf(info)
		if !info.Mode().IsRegular() || known && (o.Links != 1 || o.User != os.Geteuid()) {
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

// place gives a complete file its name, and never replaces another file.
func place(part, path string, free bool) (string, error) {
	for n := 1; n <= mostNames; n++ {
		to := path
		if n > 1 {
			to = numbered(path, n)
		}
		err := os.Link(part, to) // fails if the name exists
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

// renamed is for a file system without hard links: it first creates a file with the name.
func renamed(part, to string) (string, error) {
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	return to, errors.Join(f.Close(), os.Rename(part, to))
}

// numbered returns "name (2).jpg" for "name.jpg".
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

// safeName returns the name that a sender gave a file, without anything that could leave the folder or hide the file.
func safeName(name string) string {
	name = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '_'
		}
		return r
	}, name)
	name = filepath.Base(strings.ReplaceAll(cli.OneLine(name), `\`, "/"))
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
