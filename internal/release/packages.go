package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// plan is the input of program internal/release/packages, which has the same type.
type plan struct {
	Version  string    `json:"version"`
	Date     time.Time `json:"date"`
	Packages []pkg     `json:"packages"`
	Bills    []bill    `json:"bills"`
}

type pkg struct {
	Format string `json:"format"`
	Arch   string `json:"arch"`
	Root   string `json:"root"`
	Out    string `json:"out"`
}

type bill struct {
	Binary string `json:"binary"`
	Out    string `json:"out"`
}

// packages writes the packages of the Linux platforms and the bills of materials of all platforms, with a program in
// a module of its own.
func (r *release) packages(ctx context.Context, platforms []string) error {
	at, err := r.source.when()
	if err != nil {
		return err
	}
	p := plan{Version: r.source.Version, Date: at}
	absolute := func(path string) string {
		var abs string
		if err == nil {
			abs, err = filepath.Abs(path)
		}
		return abs
	}
	for _, platform := range platforms {
		p.Bills = append(p.Bills, bill{Binary: absolute(r.binaries[platform]), Out: absolute(r.name(platform, ".cdx.json"))})
		arch, linux := strings.CutPrefix(platform, "linux/")
		if !linux {
			continue
		}
		root := filepath.Join(r.work, "root-"+arch)
		if err := r.stage(root, platform); err != nil {
			return err
		}
		for _, format := range []string{"deb", "rpm"} {
			p.Packages = append(p.Packages, pkg{
				Format: format, Arch: arch, Root: absolute(root), Out: absolute(r.name(platform, "."+format)),
			})
		}
	}
	if err != nil {
		return err
	}
	in, err := json.Marshal(p)
	if err != nil {
		return err
	}
	c := exec.CommandContext(ctx, "go", "run", "-mod=readonly", ".")
	c.Dir, c.Stdin, c.Stdout, c.Stderr = filepath.Join(r.root, "internal/release/packages"), bytes.NewReader(in), os.Stdout, os.Stderr
	c.Env = append(os.Environ(), "GOWORK=off")
	if err := c.Run(); err != nil {
		return fmt.Errorf("packages: %w", err)
	}
	return nil
}

// stage writes the files that a package installs into a folder.
func (r *release) stage(root, platform string) error {
	doc := "usr/share/doc/mlsfed/"
	for from, to := range map[string]string{
		r.binaries[platform]:                          "usr/bin/mlsfed",
		"internal/release/mlsfed.service":             "usr/lib/systemd/system/mlsfed.service",
		filepath.Join(r.work, "completion", "mlsfed"): "usr/share/bash-completion/completions/mlsfed",
		"LICENSE":                 doc + "copyright",
		"README.md":               doc + "README.md",
		"CHANGELOG.md":            doc + "CHANGELOG.md",
		"docs/install.md":         doc + "install.md",
		"docs/operations.md":      doc + "operations.md",
		"docs/spec/federation.md": doc + "federation.md",
		"docs/use/cli.md":         doc + "cli.md",
	} {
		if !filepath.IsAbs(from) {
			from = filepath.Join(r.root, filepath.FromSlash(from))
		}
		if err := copyFile(from, filepath.Join(root, filepath.FromSlash(to)), 0o644); err != nil {
			return err
		}
	}
	pages, err := filepath.Glob(filepath.Join(r.work, "man", "*.1"))
	if err != nil {
		return err
	}
	if len(pages) == 0 {
		return errors.New("no manual pages")
	}
	for _, page := range pages {
		b, err := os.ReadFile(page)
		if err != nil {
			return err
		}
		var zipped bytes.Buffer
		z, err := gzip.NewWriterLevel(&zipped, gzip.BestCompression)
		if err != nil {
			return err
		}
		_, err = z.Write(b)
		if err := errors.Join(err, z.Close()); err != nil {
			return err
		}
		to := filepath.Join(root, "usr/share/man/man1", filepath.Base(page)+".gz")
		if err := writeFile(to, zipped.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}
