// Command report reads what go test -json writes, and prints it as go test would: a line for each package, and the
// output of what failed. It also reports which tests were skipped, and why: a skipped test has not passed.
//
//	go test -json ./... | go run ./test/report [-elsewhere REGEXP] [-rows FILE]
//
// It ends with 1 if a test was skipped without a reason. Failed tests are reported by go test itself.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
)

func main() {
	elsewhere := flag.String("elsewhere", "^$", "tests that match this, by 'name: reason to skip', are run by another command, and not listed")
	rows := flag.String("rows", "", "file to which a row 'test|NOT RUN|-|reason' is added for each test that was skipped")
	flag.Parse()
	if err := run(os.Stdin, os.Stdout, *elsewhere, *rows); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer, elsewhere, rows string) error {
	ran, err := regexp.Compile(elsewhere)
	if err != nil {
		return fmt.Errorf("-elsewhere: %w", err)
	}
	skips, err := read(in, out)
	if err != nil {
		return err
	}
	skips = slices.DeleteFunc(skips, func(s skip) bool { return ran.MatchString(s.test + ": " + s.why) })
	var table strings.Builder
	var quietErrors []error
	for _, s := range skips {
		fmt.Fprintf(out, "SKIPPED: %s: %s\n", s.test, s.why)
		fmt.Fprintf(&table, "%s|NOT RUN|-|%s\n", s.test, strings.ReplaceAll(s.why, "|", "/"))
		if s.why == "" {
			quietErrors = append(quietErrors, fmt.Errorf("%s of %s was skipped and does not say why", s.test, s.pkg))
		}
	}
	if rows != "" && len(skips) > 0 {
		f, err := os.OpenFile(rows, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		_, err = f.WriteString(table.String())
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return errors.Join(quietErrors...)
}

// event is a line of go test -json: see go doc test2json.
type event struct {
	Action, Package, ImportPath, Test, Output string
}

// skip is a test that was skipped.
type skip struct{ pkg, test, why string }

// line is a piece of a package's output, of one of its tests or of none.
type line struct{ test, text string }

// read prints the packages as they end, and returns what was skipped.
func read(in io.Reader, out io.Writer) (skips []skip, err error) {
	printed := make(map[string][]line)
	passed := make(map[[2]string]bool) // package and test; skipped ones too
	scan := bufio.NewScanner(in)
	scan.Buffer(nil, 1<<24)
	for scan.Scan() {
		var e event
		if json.Unmarshal(scan.Bytes(), &e) != nil { // output of the go command itself
			fmt.Fprintln(out, scan.Text())
			continue
		}
		switch e.Action {
		case "output":
			printed[e.Package] = append(printed[e.Package], line{e.Test, e.Output})
		case "build-output":
			fmt.Fprint(out, e.Output)
		case "skip":
			if e.Test != "" {
				skips = append(skips, skip{e.Package, e.Test, reason(printed[e.Package], e.Test)})
			}
			fallthrough
		case "pass":
			passed[[2]string{e.Package, e.Test}] = true
			fallthrough
		case "fail":
			if e.Test == "" {
				show(out, e, printed[e.Package], passed)
				delete(printed, cmp.Or(e.Package, e.ImportPath))
			}
		}
	}
	return skips, scan.Err()
}

// show prints a package that has ended: the output of everything that did not pass, or the summary line.
func show(out io.Writer, e event, lines []line, passed map[[2]string]bool) {
	for _, l := range lines {
		sum := strings.HasPrefix(l.text, "ok ") || strings.HasPrefix(l.text, "?")
		if e.Action == "fail" && !passed[[2]string{e.Package, l.test}] || l.test == "" && sum {
			fmt.Fprint(out, l.text)
		}
	}
}

// said matches a message of a test with its place, as t.Skip prints it.
var said = regexp.MustCompile(`^\s+\w+_test\.go:\d+: (.*)`)

// reason returns the last message of a test, "" for none.
func reason(lines []line, test string) string {
	for _, l := range slices.Backward(lines) {
		if m := said.FindStringSubmatch(l.text); l.test == test && m != nil {
			return strings.TrimSpace(m[1])
		}
	}
	return ""
}
