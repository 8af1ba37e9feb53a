// Command release makes the files of a release, the same bytes on every machine with the same Go:
//
//	go run ./internal/release                                  all platforms, into dist/
//	go run ./internal/release -platforms linux/amd64 -twice    one, built twice and compared
//
// For each platform it writes an archive with the static binary and a bill of materials. For Linux it
// adds a Debian package, an RPM package and a container image. SHA256SUMS has the checksum of each file.
//
// The version is the tag of the commit, or a pseudo-version as the go command makes it. Outside of a clone, -version,
// -commit and -date give these values. docs/install.md describes how to install a release.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
)

// platforms lists the platforms of a release, by GOOS/GOARCH.
var platforms = []string{
	"linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64", "windows/amd64", "windows/arm64",
}

// options holds the flags.
type options struct {
	out       string
	platforms []string
	twice     bool
	dirty     bool
	source    source // the values of the flags
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "release: %v\n", err)
		os.Exit(1)
	}
}

func parse(args []string) (o options, err error) {
	f := flag.NewFlagSet("release", flag.ContinueOnError)
	list := f.String("platforms", strings.Join(platforms, ","), "GOOS/GOARCH, separated by commas")
	f.StringVar(&o.out, "out", "dist", "folder for the files; it must be empty or missing")
	f.BoolVar(&o.twice, "twice", false, "build again in another folder with an empty cache, and compare")
	f.BoolVar(&o.dirty, "dirty", false, "permit changes that are in no commit; the version says so")
	f.StringVar(&o.source.Version, "version", "", "version, as v1.2.3 (default: from git)")
	f.StringVar(&o.source.Commit, "commit", "", "commit (default: from git)")
	f.StringVar(&o.source.Date, "date", "", "date of the commit, RFC 3339 (default: from git)")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.platforms = strings.Split(*list, ",")
	for _, p := range o.platforms {
		if !slices.Contains(platforms, p) {
			return o, fmt.Errorf("no platform %q: %s", p, strings.Join(platforms, ", "))
		}
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("%q is no flag", f.Arg(0))
	}
	return o, nil
}

func run(ctx context.Context, args []string) (err error) {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	r := &release{root: ".", out: o.out, binaries: make(map[string]string)}
	if _, err := os.Stat("cmd/mlsfed"); err != nil {
		return errors.New("run it in the root of the module: go run ./internal/release")
	}
	if r.source, err = describe(ctx, r.root, o.source, o.dirty); err != nil {
		return err
	}
	if list, err := os.ReadDir(o.out); err == nil && len(list) > 0 {
		return fmt.Errorf("%s holds something already: remove it first", o.out)
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	if r.work, err = os.MkdirTemp("", "mlsfed-release-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.work)) }()
	fmt.Printf("mlsfed %s, commit %s of %s\n", r.source.Version, r.source.Commit, r.source.Date)
	return r.make(ctx, o)
}

// release is one release in the making.
type release struct {
	root, work, out string
	source          source
	binaries        map[string]string // by platform, those that were built
}

// make builds the binaries, compares them if requested, and packs them.
func (r *release) make(ctx context.Context, o options) error {
	for _, p := range o.platforms {
		if _, err := r.binary(ctx, p); err != nil {
			return err
		}
	}
	if o.twice {
		if err := r.compare(ctx, o.platforms); err != nil {
			return err
		}
	}
	if err := r.documents(ctx); err != nil {
		return err
	}
	for _, p := range o.platforms {
		if err := r.archive(p); err != nil {
			return err
		}
		if strings.HasPrefix(p, "linux/") {
			if err := r.image(p); err != nil {
				return err
			}
		}
	}
	if err := r.packages(ctx, o.platforms); err != nil {
		return err
	}
	return sums(r.out)
}

// name returns the path of a file of the release.
func (r *release) name(platform, suffix string) string {
	return filepath.Join(r.out, "mlsfed-"+r.source.Version+"-"+strings.ReplaceAll(platform, "/", "-")+suffix)
}
