package main

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/goreleaser/nfpm/v2"
	"github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
	"github.com/goreleaser/nfpm/v2/rpm"
)

//go:embed scripts
var scripts embed.FS

// writePackage writes one package. The same plan results in the same bytes.
func writePackage(p *plan, k *pkg) error {
	contents, err := installed(p, k.Root)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "mlsfed-scripts-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.CopyFS(dir, scripts); err != nil {
		return err
	}
	script := func(name string) string { return filepath.Join(dir, "scripts", name+".sh") }
	info := nfpm.WithDefaults(&nfpm.Info{
		Name:        "mlsfed",
		Arch:        k.Arch,
		Platform:    "linux",
		Version:     p.Version,
		Section:     "net",
		Priority:    "optional",
		Maintainer:  "The mlsfed authors",
		Vendor:      "The mlsfed authors",
		Homepage:    "https://github.com/mlsfed/mlsfed",
		License:     "Apache-2.0",
		Description: "Federated delivery network for end-to-end encrypted groups\nA node that orders and delivers messages of MLS groups (RFC 9420) with the nodes of\nother organizations, and the commands for its operators and for people.",
		MTime:       p.Date,
		Overridables: nfpm.Overridables{
			Contents: contents,
			Scripts: nfpm.Scripts{
				PostInstall: script("postinstall"),
				PreRemove:   script("preremove"),
				PostRemove:  script("postremove"),
			},
			RPM: nfpm.RPM{BuildHost: "localhost"}, // the default is the name of this machine
		},
	})
	var packager nfpm.Packager
	switch k.Format {
	case "deb":
		info.Depends, packager = []string{"passwd"}, deb.Default // useradd
	case "rpm":
		info.Depends, packager = []string{"shadow-utils"}, rpm.DefaultRPM
	default:
		return fmt.Errorf("no format %q: deb or rpm", k.Format)
	}
	if err := info.Validate(); err != nil {
		return err
	}
	return create(k.Out, func(w io.Writer) error { return packager.Package(info, w) })
}

// installed lists the files below a folder, each at its place below /.
func installed(p *plan, root string) (list files.Contents, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if filepath.Base(filepath.Dir(rel)) == "bin" {
			mode = 0o755
		}
		list = append(list, &files.Content{
			Source:      path,
			Destination: "/" + filepath.ToSlash(rel),
			FileInfo:    &files.ContentFileInfo{Owner: "root", Group: "root", Mode: mode, MTime: p.Date},
		})
		return nil
	})
	if err == nil && len(list) == 0 {
		err = errors.New("no file to install")
	}
	return list, err
}
