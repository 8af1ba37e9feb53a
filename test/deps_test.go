// Package test holds what concerns the whole tree rather than one package.
// The tests in this file hold the import rules of docs/architecture.md and the
// limit on the length of a file. They read the sources with go/parser, under
// every build tag, and so need neither a build nor the network.
package test

import (
	"bufio"
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

// module is the path of this module, as in go.mod.
const module = "github.com/mlsfed/mlsfed"

// A rule says what one folder's packages may import. Packages of ours are
// named relative to the module; "x/..." means x and everything below it.
// The first rule whose dir matches a package is its rule.
type rule struct {
	dir string // the folder, or "folder/..." with its subfolders

	own []string // packages of ours that it and its tests may import, besides those under its own dir

	free bool // it may import anything

	// limited restricts packages from other modules to those under deps; the
	// tests may also import testLibraries.
	limited bool
	deps    []string

	// pure forbids files, the network, logs, the clock and goroutines outside tests.
	pure bool
}

var parts = []string{"wire/...", "batch", "consensus/...", "federation/...", "directory/...", "mailbox/...", "gateway/...", "door", "quota"}

// rules is the table that docs/architecture.md describes. A new package needs a row.
var rules = []rule{
	{dir: "cmd/...", free: true},
	{dir: "test/...", free: true},

	// Examples show that an application needs package client alone; their tests bring a federation.
	{dir: "examples/...", own: []string{"client", "test/cluster"}, limited: true},

	{dir: "mlscore/codec", limited: true, pure: true},
	{dir: "mlscore/boltstore", own: []string{"mlscore"}, limited: true,
		deps: []string{"go.etcd.io/bbolt", "golang.org/x/crypto"}},
	{dir: "mlscore", own: []string{"mlscore/codec"}, limited: true, pure: true,
		deps: []string{"golang.org/x/crypto", "github.com/cloudflare/circl", "filippo.io/edwards25519"}},

	{dir: "wire/...", own: []string{"mlscore/codec"}},
	{dir: "clock", limited: true},   // time for what is stored
	{dir: "private", limited: true}, // folders, files and sockets of one user
	{dir: "audit", limited: true},   // the log of who did what
	{dir: "client/...", own: []string{"wire/...", "mlscore", "mlscore/boltstore", "private"}},

	// A measurement, not a part: no part imports it.
	{dir: "consensus/orderbench", own: []string{"consensus/...", "wire/...", "mlscore", "mlscore/codec", "stats"}},
	{dir: "consensus/...", own: []string{"wire/...", "mlscore", "mlscore/codec"}},
	{dir: "batch", own: []string{"wire/..."}},
	{dir: "door", limited: true},
	{dir: "stats", limited: true, pure: true},
	{dir: "quota", own: []string{"wire/..."}, limited: true},
	{dir: "federation/...", own: []string{"wire/...", "batch", "door"}},
	{dir: "directory/...", own: []string{"wire/...", "mlscore"}}, // verifies KeyPackages
	{dir: "mailbox/...", own: []string{"wire/...", "batch"}},
	{dir: "scim", own: []string{"wire/..."}, limited: true},
	{dir: "gateway/...", own: []string{"wire/...", "door"}},

	{dir: "config/...", own: []string{"wire/..."}},
	{dir: "node/...", own: append([]string{"config/...", "mlscore", "mlscore/boltstore", "web", "private", "clock", "audit", "scim"}, parts...)},
	{dir: "web/...", own: []string{"client/...", "wire/...", "mlscore"}},
}

// exclusive names packages that belong to some folders only. Folders that are
// free may import them too. A path ending in * covers every path that begins so.
var exclusive = []struct {
	path string
	only []string
}{
	{"github.com/hashicorp/raft*", []string{"consensus/..."}},
	{"github.com/hashicorp/memberlist*", []string{"federation/..."}},
	{"github.com/gorilla/websocket*", []string{"gateway/...", "client/..."}},
	{"github.com/coder/websocket*", []string{"gateway/...", "client/..."}},
	{"golang.org/x/net/websocket*", []string{"gateway/...", "client/..."}},
	{module + "/config*", []string{"node/...", "config/..."}},
}

// testLibraries are what the tests of a limited package may import besides its deps.
var testLibraries = []string{
	"pgregory.net/rapid", "go.uber.org/goleak", "github.com/anishathalye/porcupine",
}

// goroutinesIn names the files of pure packages that may start goroutines, and
// why the result cannot depend on them.
var goroutinesIn = map[string]string{
	"mlscore/parallel.go": "parallel sealing and verification with a deterministic result",
}

// impurePackages are closed to pure packages, with what lies below them.
var impurePackages = []string{"os", "net", "log", "syscall", "plugin", "io/ioutil", "crypto/tls", "C"}

// clock is what package time offers that reads or waits for the clock.
var clock = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}

// Lines a file may have. A longer one gives its reason near its top, in a line
// that begins with lengthMark.
const (
	maxLines     = 600
	maxTestLines = 1000
	lengthMark   = "// Length:"
	lengthTop    = 40 // how many lines count as the top
)

// matches says whether a relative package path falls under a pattern.
func matches(pattern, pkg string) bool {
	if dir, ok := strings.CutSuffix(pattern, "/..."); ok {
		return within(dir, pkg)
	}
	return pattern == pkg
}

func matchesAny(patterns []string, pkg string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, pkg) })
}

// within says whether a path is dir or lies below it.
func within(dir, p string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

func withinAny(dirs []string, p string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool { return within(d, p) })
}

func standardLibrary(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".")
}

// ruleFor returns the rule of a package, given relative to the module.
func ruleFor(pkg string) (rule, bool) {
	i := slices.IndexFunc(rules, func(r rule) bool { return matches(r.dir, pkg) })
	if i < 0 {
		return rule{}, false
	}
	return rules[i], true
}

// goFiles lists the Go files of a tree. It leaves out what the go command
// ignores too: testdata, vendor, and names that begin with a dot or underscore.
func goFiles(tree fs.FS) ([]string, error) {
	var files []string
	err := fs.WalkDir(tree, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		hidden := p != "." && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_"))
		if d.IsDir() {
			if hidden || name == "testdata" || name == "vendor" || name == "node_modules" {
				return fs.SkipDir
			}
			return nil
		}
		if !hidden && path.Ext(name) == ".go" {
			files = append(files, p)
		}
		return nil
	})
	return files, err
}

// checkImports returns a complaint for each breach of the rules in a tree.
func checkImports(tree fs.FS) ([]string, error) {
	files, err := goFiles(tree)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, file := range files {
		pkg := path.Dir(file)
		r, ok := ruleFor(pkg)
		if !ok {
			found = append(found, fmt.Sprintf("%s: package %s has no import rule: add a row for it to rules in test/deps_test.go and to docs/architecture.md", file, pkg))
			continue
		}
		source, err := fs.ReadFile(tree, file)
		if err != nil {
			return nil, err
		}
		complaints, err := checkFile(r, file, source)
		if err != nil {
			return nil, err
		}
		found = append(found, complaints...)
	}
	return found, nil
}

// checkFile holds one file against the rule of its package.
func checkFile(r rule, file string, source []byte) ([]string, error) {
	set := token.NewFileSet()
	syntax, err := parser.ParseFile(set, file, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, fmt.Errorf("read imports: %w", err)
	}
	if r.free {
		return nil, nil
	}
	isTest := strings.HasSuffix(file, "_test.go")
	var found []string
	complain := func(at token.Pos, format string, args ...any) {
		found = append(found, fmt.Sprintf("%s:%d: %s", file, set.Position(at).Line, fmt.Sprintf(format, args...)))
	}
	for _, spec := range syntax.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, fmt.Errorf("read imports of %s: %w", file, err)
		}
		if why := r.refuses(path.Dir(file), imported, isTest); why != "" {
			complain(spec.Pos(), "%s must not import %s: %s", path.Dir(file), imported, why)
		}
	}
	if r.pure && !isTest {
		checkPure(syntax, goroutinesIn[file] != "", complain)
	}
	return found, nil
}

// refuses returns why the package pkg under this rule may not import a
// package, or "" if it may.
func (r rule) refuses(pkg, imported string, isTest bool) string {
	for _, e := range exclusive {
		prefix := strings.TrimSuffix(e.path, "*")
		if strings.HasPrefix(imported, prefix) && !matchesAny(e.only, pkg) {
			return "only " + strings.Join(e.only, ", ") + " may, and cmd and test"
		}
	}
	if within(module, imported) {
		rel := strings.TrimPrefix(strings.TrimPrefix(imported, module), "/")
		if rel == pkg || matches(r.dir, rel) || matchesAny(r.own, rel) {
			return ""
		}
		return fmt.Sprintf("of this module it may import %s", listed(r.own))
	}
	if standardLibrary(imported) {
		if r.pure && !isTest && withinAny(impurePackages, imported) {
			return "the package is pure: no file, no network, no log"
		}
		return ""
	}
	if r.limited && !withinAny(r.deps, imported) && !(isTest && withinAny(testLibraries, imported)) {
		return fmt.Sprintf("of other modules it may import %s", listed(r.deps))
	}
	return ""
}

func listed(paths []string) string {
	if len(paths) == 0 {
		return "nothing"
	}
	return "only " + strings.Join(paths, ", ")
}

// checkPure complains of clocks and, unless they are allowed, of goroutines in
// one file. It has no types to go by, and so takes every method named Go for
// one that starts a goroutine (sync.WaitGroup and errgroup.Group have one).
func checkPure(file *ast.File, goroutines bool, complain func(token.Pos, string, ...any)) {
	timeName, contextName := importName(file, "time"), importName(file, "context")
	for _, name := range []string{timeName, contextName} {
		if name == "." {
			complain(file.Package, "a pure package must not dot-import time or context: clocks and goroutines could not be seen")
		}
	}
	goroutine := func(at token.Pos) {
		if !goroutines {
			complain(at, "a pure package must not start goroutines: if the result cannot depend on it, add the file to goroutinesIn in test/deps_test.go with the reason")
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			goroutine(n.Pos())
		case *ast.CallExpr:
			if s, ok := n.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "Go" {
				goroutine(n.Pos())
			}
		case *ast.SelectorExpr:
			x, ok := n.X.(*ast.Ident)
			if !ok {
				return true
			}
			if timeName != "" && x.Name == timeName && slices.Contains(clock, n.Sel.Name) {
				complain(n.Pos(), "a pure package must not use time.%s: take the time as a parameter", n.Sel.Name)
			}
			if contextName != "" && x.Name == contextName && slices.Contains([]string{"WithTimeout", "WithDeadline", "AfterFunc"}, n.Sel.Name) {
				complain(n.Pos(), "a pure package must not use context.%s: leave deadlines to the caller", n.Sel.Name)
			}
		}
		return true
	})
}

// importName returns the name under which a file knows a package of the
// standard library, or "" if it does not import it.
func importName(file *ast.File, imported string) string {
	for _, spec := range file.Imports {
		if spec.Path.Value == strconv.Quote(imported) {
			if spec.Name != nil {
				return spec.Name.Name
			}
			return path.Base(imported)
		}
	}
	return ""
}

// checkLengths returns a complaint for each Go file that is too long and does
// not say why.
func checkLengths(tree fs.FS) ([]string, error) {
	files, err := goFiles(tree)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, file := range files {
		source, err := fs.ReadFile(tree, file)
		if err != nil {
			return nil, err
		}
		limit := maxLines
		if strings.HasSuffix(file, "_test.go") {
			limit = maxTestLines
		}
		if n := bytes.Count(source, []byte("\n")); n > limit && !givesReason(source) {
			found = append(found, fmt.Sprintf("%s has %d lines, more than %d: split it by subject, or say near its top why not, in a line '%s the reason'", file, n, limit, lengthMark))
		}
	}
	return found, nil
}

// givesReason says whether a long file states its reason near its top.
func givesReason(source []byte) bool {
	lines := bufio.NewScanner(bytes.NewReader(source))
	for n := 0; n < lengthTop && lines.Scan(); n++ {
		if reason, ok := strings.CutPrefix(lines.Text(), lengthMark); ok && strings.TrimSpace(reason) != "" {
			return true
		}
	}
	return false
}

// TestImportRules holds the rules on this repository.
func TestImportRules(t *testing.T) {
	tree := os.DirFS("..")
	files, err := goFiles(tree)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"cmd/mlsfed", "mlscore", "mlscore/codec", "test"} {
		if !slices.ContainsFunc(files, func(f string) bool { return path.Dir(f) == dir }) {
			t.Errorf("no Go file found in %s: the walk over the repository misses it", dir)
		}
	}
	found, err := checkImports(tree)
	if err != nil {
		t.Fatal(err)
	}
	for _, complaint := range found {
		t.Error(complaint)
	}
}

// TestModulePath holds the name by which the rules know our own packages.
func TestModulePath(t *testing.T) {
	gomod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(gomod, []byte("module "+module+"\n")) {
		t.Errorf("go.mod does not begin with 'module %s': change module in test/deps_test.go with it", module)
	}
}

// TestFileLengths holds the limit on lines on this repository.
func TestFileLengths(t *testing.T) {
	found, err := checkLengths(os.DirFS(".."))
	if err != nil {
		t.Fatal(err)
	}
	for _, complaint := range found {
		t.Error(complaint)
	}
}

// TestImportCheckerComplains breaks each rule in a file of its own and expects
// exactly one complaint; a case without want must pass.
func TestImportCheckerComplains(t *testing.T) {
	ours := func(pkg string) string { return fmt.Sprintf("import _ %q\n", module+"/"+pkg) }
	other := func(p string) string { return fmt.Sprintf("import _ %q\n", p) }
	cases := []struct {
		file, body, want string
	}{
		{"novel/x.go", "", "has no import rule"},
		{"x.go", "", "has no import rule"},
		{"mlscore/novel/x.go", "", "has no import rule"},
		{"mlscore/codec/deep/x.go", "", "has no import rule"},

		{"mlscore/x.go", ours("wire"), "must not import"},
		{"mlscore/x.go", ours("mlscore/boltstore"), "must not import"},
		{"mlscore/x.go", ours("mlscore/codec"), ""},
		{"mlscore/x.go", other("golang.org/x/crypto/hkdf") + other("github.com/cloudflare/circl/kem") + other("filippo.io/edwards25519"), ""},
		{"mlscore/x.go", other("golang.org/x/cryptography"), "of other modules"},
		{"mlscore/x.go", other("go.etcd.io/bbolt"), "of other modules"},
		{"mlscore/x.go", other("pgregory.net/rapid"), "of other modules"},
		{"mlscore/x_test.go", other("pgregory.net/rapid"), ""},
		{"mlscore/x_test.go", other("github.com/hashicorp/raft"), "only consensus/..."},
		{"mlscore/x_test.go", ours("wire"), "must not import"},
		{"mlscore/codec/x.go", other("golang.org/x/crypto/cryptobyte"), "nothing"},
		{"mlscore/codec/x.go", ours("mlscore"), "must not import"},
		{"mlscore/codec/x.go", other("encoding/binary"), ""},
		{"mlscore/boltstore/x.go", ours("mlscore") + other("go.etcd.io/bbolt") + other("os"), ""},
		{"mlscore/boltstore/x.go", other("github.com/cockroachdb/pebble/v2"), "of other modules"},
		{"mlscore/boltstore/x.go", ours("client"), "must not import"},

		{"mlscore/x.go", other("os"), "pure"},
		{"mlscore/x.go", other("os/exec"), "pure"},
		{"mlscore/x.go", other("net"), "pure"},
		{"mlscore/x.go", other("net/http"), "pure"},
		{"mlscore/x.go", other("log"), "pure"},
		{"mlscore/x.go", other("log/slog"), "pure"},
		{"mlscore/codec/x.go", other("os"), "pure"},
		{"mlscore/x_test.go", other("os") + other("log/slog"), ""},
		{"mlscore/x.go", "import \"time\"\nvar _ = time.Now()\n", "time.Now"},
		{"mlscore/x.go", "import \"time\"\nvar now = time.Now\n", "time.Now"},
		{"mlscore/x.go", "import clock \"time\"\nvar _ = clock.Since(clock.Time{})\n", "time.Since"},
		{"mlscore/x.go", "import . \"time\"\nvar _ = Now()\n", "dot-import"},
		{"mlscore/x.go", "import \"time\"\nvar _ = time.Unix(0, 0)\n", ""},
		{"mlscore/x.go", "import \"context\"\nvar _ = context.AfterFunc\n", "context.AfterFunc"},
		{"mlscore/x_test.go", "import \"time\"\nvar _ = time.Now()\n", ""},
		{"mlscore/x.go", "func f() { go f() }\n", "goroutines"},
		{"mlscore/x.go", "import \"sync\"\nfunc f() { var w sync.WaitGroup; w.Go(f) }\n", "goroutines"},
		{"mlscore/parallel.go", "func f() { go f() }\n", ""},
		{"mlscore/parallel.go", "import \"time\"\nfunc f() { time.Sleep(1) }\n", "time.Sleep"},
		{"mlscore/x_test.go", "func f() { go f() }\n", ""},
		{"mlscore/boltstore/x.go", "func f() { go f() }\n", ""},

		{"wire/x.go", ours("mlscore/codec") + other("github.com/fxamacker/cbor/v2"), ""},
		{"wire/x.go", ours("mlscore"), "must not import"},
		{"wire/x.go", ours("client"), "must not import"},
		{"client/x.go", ours("wire") + ours("mlscore") + ours("mlscore/boltstore") + other("github.com/gorilla/websocket"), ""},
		{"client/x.go", ours("gateway"), "must not import"},
		{"client/x_test.go", ours("gateway"), "must not import"},

		{"consensus/x.go", ours("wire") + ours("mlscore") + ours("consensus/logstore") + other("github.com/hashicorp/raft"), ""},
		{"consensus/logstore/x.go", ours("consensus") + other("github.com/hashicorp/raft-boltdb/v2"), ""},
		{"consensus/x.go", ours("federation"), "must not import"},
		{"consensus/logstore/x.go", ours("mailbox"), "must not import"},
		{"federation/x.go", ours("directory"), "must not import"},
		{"federation/x.go", ours("wire") + other("github.com/hashicorp/memberlist"), ""},
		{"directory/x.go", ours("mailbox"), "must not import"},
		{"directory/x.go", ours("mlscore") + ours("wire"), ""},
		{"directory/x.go", ours("consensus"), "must not import"},
		{"mailbox/x.go", ours("gateway"), "must not import"},
		{"mailbox/x_test.go", ours("directory"), "must not import"},
		{"gateway/x.go", ours("consensus"), "must not import"},
		{"gateway/x.go", ours("consensus/logstore"), "must not import"},
		{"gateway/x.go", ours("wire") + other("github.com/gorilla/websocket"), ""},

		{"mailbox/x.go", other("github.com/hashicorp/raft"), "only consensus/..."},
		{"node/x.go", other("github.com/hashicorp/raft-boltdb/v2"), "only consensus/..."},
		{"consensus/x.go", other("github.com/hashicorp/memberlist"), "only federation/..."},
		{"federation/x.go", other("github.com/gorilla/websocket"), "only gateway/..."},
		{"gateway/x.go", ours("config"), "only node/..."},
		{"node/x.go", ours("config") + ours("gateway") + ours("consensus") + ours("mailbox"), ""},
		{"node/x.go", ours("test"), "must not import"},
		{"web/wasm/x.go", ours("client"), ""},
		{"web/x.go", ours("node"), "must not import"},

		{"cmd/mlsfed/x.go", ours("config") + ours("node") + other("github.com/hashicorp/raft"), ""},
		{"test/x_test.go", ours("gateway") + ours("consensus") + other("github.com/gorilla/websocket"), ""},
		{"mlscore/testdata/x.go", ours("wire"), ""},
	}
	for _, c := range cases {
		tree := fstest.MapFS{c.file: {Data: []byte("package x\n\n" + c.body)}}
		found, err := checkImports(tree)
		if err != nil {
			t.Errorf("%s with %q: %v", c.file, c.body, err)
			continue
		}
		switch {
		case c.want == "" && len(found) > 0:
			t.Errorf("%s with %q: unexpected complaints %q", c.file, c.body, found)
		case c.want != "" && (len(found) != 1 || !strings.Contains(found[0], c.want)):
			t.Errorf("%s with %q: complaints %q, want one that contains %q", c.file, c.body, found, c.want)
		}
	}
}

// TestImportCheckerUnparsable: a file that cannot be read must not pass.
func TestImportCheckerUnparsable(t *testing.T) {
	for _, file := range []string{"wire/x.go", "cmd/mlsfed/x.go"} {
		if _, err := checkImports(fstest.MapFS{file: {Data: []byte("package")}}); err == nil {
			t.Errorf("%s: no error for a file that does not parse", file)
		}
	}
}

// TestLengthCheckerComplains tries both limits on either side, and the reason
// that lifts them.
func TestLengthCheckerComplains(t *testing.T) {
	lines := func(n int, top string) string {
		return top + strings.Repeat("\n", n-strings.Count(top, "\n"))
	}
	reason := "package x\n\n// Length: one generated table\n"
	late := strings.Repeat("\n", lengthTop) + reason
	cases := []struct {
		name, file, source string
		tooLong            bool
	}{
		{"at the limit", "wire/x.go", lines(maxLines, "package x\n"), false},
		{"over it", "wire/x.go", lines(maxLines+1, "package x\n"), true},
		{"over it with a reason", "wire/x.go", lines(maxLines+1, reason), false},
		{"an empty reason", "wire/x.go", lines(maxLines+1, "package x\n// Length:  \n"), true},
		{"a reason too far down", "wire/x.go", lines(maxLines+1, late), true},
		{"a test at its limit", "wire/x_test.go", lines(maxTestLines, "package x\n"), false},
		{"a test over it", "wire/x_test.go", lines(maxTestLines+1, "package x\n"), true},
		{"test data", "wire/testdata/x.go", lines(maxLines+1, "package x\n"), false},
	}
	for _, c := range cases {
		found, err := checkLengths(fstest.MapFS{c.file: {Data: []byte(c.source)}})
		if err != nil {
			t.Fatal(err)
		}
		if (len(found) == 1) != c.tooLong || len(found) > 1 {
			t.Errorf("%s: complaints %q, want one: %v", c.name, found, c.tooLong)
		}
	}
}
