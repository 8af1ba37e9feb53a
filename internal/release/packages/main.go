// Program packages writes Debian packages, RPM packages and bills of materials from binaries that are already built.
// It reads a plan from standard input. Package internal/release writes the plan and runs this program, which is a
// module of its own, so that its dependencies are not in the module that people import.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// plan is the input from internal/release, which has its own copy in internal/release/packages.go.
type plan struct {
	Version  string    `json:"version"` // v0.1.0
	Date     time.Time `json:"date"`    // of everything that is written
	Packages []pkg     `json:"packages"`
	Bills    []bill    `json:"bills"`
}

// pkg is one package to write.
type pkg struct {
	Format string `json:"format"` // deb or rpm
	Arch   string `json:"arch"`   // as Go names it
	Root   string `json:"root"`   // folder with the files to install, from usr/ down
	Out    string `json:"out"`
}

// bill is one bill of materials to write.
type bill struct {
	Binary string `json:"binary"`
	Out    string `json:"out"`
}

func main() {
	if err := run(os.Stdin); err != nil {
		fmt.Fprintf(os.Stderr, "packages: %v\n", err)
		os.Exit(1)
	}
}

func run(in io.Reader) error {
	d := json.NewDecoder(in)
	d.DisallowUnknownFields()
	var p plan
	if err := d.Decode(&p); err != nil {
		return fmt.Errorf("read the plan: %w", err)
	}
	for i := range p.Packages {
		if err := writePackage(&p, &p.Packages[i]); err != nil {
			return fmt.Errorf("%s: %w", p.Packages[i].Out, err)
		}
	}
	for i := range p.Bills {
		if err := writeBill(&p, &p.Bills[i]); err != nil {
			return fmt.Errorf("%s: %w", p.Bills[i].Out, err)
		}
	}
	return nil
}

// create creates a file with the output of write. It removes an incomplete file.
func create(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}
