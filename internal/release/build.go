package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// binary returns the program for a platform, and builds it if necessary.
func (r *release) binary(ctx context.Context, platform string) (string, error) {
	if path := r.binaries[platform]; path != "" {
		return path, nil
	}
	path := filepath.Join(r.work, "bin", strings.ReplaceAll(platform, "/", "-"), program(platform))
	if err := r.build(ctx, r.root, platform, path, ""); err != nil {
		return "", err
	}
	r.binaries[platform] = path
	return path, nil
}

// program returns the name of the binary on a platform.
func program(platform string) string {
	if strings.HasPrefix(platform, "windows/") {
		return "mlsfed.exe"
	}
	return "mlsfed"
}

// build runs the go command in a folder with the sources. It fixes all inputs that could make two builds differ: cgo,
// the features of processors, paths, build ids and settings of this machine.
func (r *release) build(ctx context.Context, dir, platform, path, cache string) error {
	out, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	started := time.Now()
	goos, goarch, _ := strings.Cut(platform, "/")
	link := []string{"-s", "-w", "-buildid="}
	for _, set := range [][2]string{ // the variables in cmd/mlsfed/version.go
		{"linkedVersion", r.source.Version}, {"linkedCommit", r.source.Commit}, {"linkedDate", r.source.Date},
		{"linkedDirty", fmt.Sprint(r.source.Dirty)},
	} {
		link = append(link, "-X", "main."+set[0]+"="+set[1])
	}
	c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-mod=readonly",
		"-ldflags", strings.Join(link, " "), "-o", out, "./cmd/mlsfed")
	c.Dir, c.Stderr = dir, os.Stderr
	c.Env = append(os.Environ(), "GOOS="+goos, "GOARCH="+goarch, "CGO_ENABLED=0", "GOFLAGS=", "GOEXPERIMENT=",
		"GOWORK=off", "GOTOOLCHAIN=local", "GOAMD64=v1", "GOARM64=v8.0")
	if cache != "" {
		c.Env = append(c.Env, "GOCACHE="+cache)
	}
	if err := c.Run(); err != nil {
		return fmt.Errorf("build for %s: %w", platform, err)
	}
	sum, size, err := hashFile(path)
	if err != nil {
		return err
	}
	fmt.Printf("%-14s %s  %d bytes, %.0f s\n", platform, sum, size, time.Since(started).Seconds())
	return nil
}

// compare builds each platform again, from a copy of the sources in another folder and with an empty
// cache, and returns an error if a byte differs.
func (r *release) compare(ctx context.Context, platforms []string) error {
	dir, cache := filepath.Join(r.work, "again", "a", "longer", "path"), filepath.Join(r.work, "cache")
	if err := errors.Join(copySources(ctx, r.root, dir), os.MkdirAll(cache, 0o755)); err != nil {
		return err
	}
	for _, p := range platforms {
		path := filepath.Join(r.work, "again", program(p))
		if err := r.build(ctx, dir, p, path, cache); err != nil {
			return err
		}
		first, _, err := hashFile(r.binaries[p])
		if err != nil {
			return err
		}
		second, _, err := hashFile(path)
		if err != nil {
			return err
		}
		if first != second {
			return fmt.Errorf("%s is not reproducible: a build in another folder with an empty cache differs", p)
		}
		fmt.Printf("%-14s the second build has the same bytes\n", p)
	}
	return nil
}

// copySources copies the files that are, or could be, in a commit.
func copySources(ctx context.Context, root, to string) error {
	list, err := git(ctx, root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(strings.Trim(list, "\x00"), "\x00") {
		from := filepath.Join(root, filepath.FromSlash(name))
		info, err := os.Lstat(from)
		if errors.Is(err, os.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
			continue // removed, and not committed yet
		}
		if err != nil {
			return err
		}
		if err := copyFile(from, filepath.Join(to, filepath.FromSlash(name)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string, mode os.FileMode) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return writeFile(to, b, mode)
}

// writeFile writes a file and creates its folders.
func writeFile(path string, b []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, b, mode)
}

// documents writes the manual pages and the shell completions, with a binary for this machine.
func (r *release) documents(ctx context.Context) error {
	own := runtime.GOOS + "/" + runtime.GOARCH
	path, err := r.binary(ctx, own)
	if err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, path, "man", filepath.Join(r.work, "man")).CombinedOutput(); err != nil {
		return fmt.Errorf("manual pages: %w: %s", err, bytes.TrimSpace(out))
	}
	completion, err := exec.CommandContext(ctx, path, "completion", "bash").Output()
	if err != nil {
		return fmt.Errorf("completion: %w", err)
	}
	return writeFile(filepath.Join(r.work, "completion", "mlsfed"), completion, 0o644)
}

func hashFile(path string) (sum string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	size, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), size, err
}
