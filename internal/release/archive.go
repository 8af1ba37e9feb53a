package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// file is one file of an archive, or a folder if content is nil.
type file struct {
	name    string // with slashes; a folder's name has no slash at its end
	mode    os.FileMode
	owner   int // number of user and group
	content []byte
}

// archive writes the archive of a platform: the binary and the documents that a person reads first.
func (r *release) archive(platform string) error {
	at, err := r.source.when()
	if err != nil {
		return err
	}
	dir := "mlsfed-" + r.source.Version + "-" + strings.ReplaceAll(platform, "/", "-")
	list := []file{{name: dir, mode: 0o755}}
	for _, f := range []struct {
		from, to string
		mode     os.FileMode
	}{
		{r.binaries[platform], program(platform), 0o755},
		{"LICENSE", "LICENSE", 0o644},
		{"README.md", "README.md", 0o644},
		{"CHANGELOG.md", "CHANGELOG.md", 0o644},
		{"docs/install.md", "install.md", 0o644},
	} {
		from := f.from
		if !filepath.IsAbs(from) {
			from = filepath.Join(r.root, filepath.FromSlash(from))
		}
		b, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		list = append(list, file{name: dir + "/" + f.to, mode: f.mode, content: b})
	}
	if strings.HasPrefix(platform, "windows/") {
		return writeTo(r.name(platform, ".zip"), func(w io.Writer) error { return writeZip(w, list, at) })
	}
	return writeTo(r.name(platform, ".tar.gz"), func(w io.Writer) error {
		z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
		if err != nil {
			return err
		}
		return errors.Join(writeTar(z, list, at), z.Close())
	})
}

// writeTo writes a file of the release and prints its size.
func writeTo(path string, write func(io.Writer) error) error {
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

// writeTar writes files whose headers have no data of this machine.
func writeTar(w io.Writer, list []file, at time.Time) error {
	t := tar.NewWriter(w)
	for _, f := range list {
		h := &tar.Header{
			Typeflag: tar.TypeReg, Name: f.name, Mode: int64(f.mode), Uid: f.owner, Gid: f.owner,
			Size: int64(len(f.content)), ModTime: at, Format: tar.FormatUSTAR,
		}
		if f.content == nil {
			h.Typeflag, h.Name = tar.TypeDir, f.name+"/"
		}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if _, err := t.Write(f.content); err != nil {
			return err
		}
	}
	return t.Close()
}

func writeZip(w io.Writer, list []file, at time.Time) error {
	z := zip.NewWriter(w)
	for _, f := range list {
		h := &zip.FileHeader{Name: f.name, Method: zip.Deflate, Modified: at}
		h.SetMode(f.mode)
		if f.content == nil {
			h.Name, h.Method = f.name+"/", zip.Store
		}
		to, err := z.CreateHeader(h)
		if err != nil {
			return err
		}
		if _, err := to.Write(f.content); err != nil {
			return err
		}
	}
	return z.Close()
}

// sumsFile lists the checksums in the format of sha256sum -c.
const sumsFile = "SHA256SUMS"

// sums writes the checksum of every file of a folder, and prints their sizes.
func sums(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		sum, size, err := hashFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s  %s\n", sum, name)
		fmt.Printf("%11d  %s\n", size, name)
	}
	return os.WriteFile(filepath.Join(dir, sumsFile), []byte(b.String()), 0o644)
}

// sortFiles orders files by name, so that a folder comes before what is in it.
func sortFiles(list []file) {
	slices.SortFunc(list, func(a, b file) int { return strings.Compare(a.name, b.name) })
}
