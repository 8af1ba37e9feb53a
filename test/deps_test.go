// Package test has the tests of the whole tree rather than one package. The tests in this file check the import rules
// of docs/architecture.md and the limit on the length of a file. They read the sources with go/parser, under every
// build tag, and need neither a build nor the network.
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

// A rule defines what one folder's packages may import. Packages of this module are named relative to it; "x/..."
// means x and everything below it. The first rule whose dir matches a package is its rule.
type rule struct {
	dir string // the folder, or "folder/..." with its subfolders

	own     []string // packages of this module that it and its tests may import, in addition to those under its own dir
	testOwn []string // packages of this module that its tests may import too: a store, if a test uses the real one

	free bool // it may import anything

	// limited restricts packages from other modules to those under deps; the
	// tests may also import testLibraries.
	limited bool
	deps    []string

	// pure forbids files, the network, logs, the clock and goroutines outside tests.
	pure bool
}

var parts = []string{"wire/...", "internal/clock", "store/...", "consensus/...", "federation/...", "directory/...", "mailbox/...", "gateway/...", "internal/admission", "internal/tokenbucket", "internal/quota"}

// stored lists the packages with the types of stored data.
var stored = []string{"wire/...", "internal/clock", "mailbox/...", "federation/outbox/lanestore", "directory/recordstore"}

// commandRoom has the commands of mlsfed. The groups of commands do not import each other, except that a chat acts
// through a Person of package people.
const commandRoom = "cmd/mlsfed/internal/"

// benchOwn lists what the benchmarks that run a federation import.
var benchOwn = []string{commandRoom + "cli/...", commandRoom + "bench/harness/...", "client", "config", "internal/cluster", "internal/stats", "wire"}

// rules is the table that docs/architecture.md describes. A new package needs a row.
var rules = []rule{
	{dir: "cmd/mlsfed", free: true}, // joins the rooms below
	{dir: "cmd/mlsfed/noquery", limited: true},
	{dir: commandRoom + "cli/...", own: []string{"wire", "mlscore"}},
	{dir: commandRoom + "traffic", own: []string{"client", "wire"}, limited: true},
	// A person's device needs no node, and a chat acts through a Person.
	{dir: commandRoom + "people/peopletest", own: []string{"client", "wire", "internal/cluster"}, limited: true},
	{dir: commandRoom + "people", own: []string{commandRoom + "cli/...", commandRoom + "traffic", "client", "wire", "mlscore", "mlscore/boltstore", "internal/private"},
		testOwn: []string{commandRoom + "people/peopletest", "internal/cluster", "config", "test/issuer"}},
	{dir: commandRoom + "chat", own: []string{commandRoom + "cli/...", commandRoom + "people", "client", "wire"},
		testOwn: []string{commandRoom + "people/peopletest", commandRoom + "traffic", "internal/cluster"}},
	{dir: commandRoom + "operator", own: []string{commandRoom + "cli/...", "client", "config", "federation/organization", "internal/audit", "internal/private", "node", "wire"}},
	{dir: commandRoom + "vectors", own: []string{commandRoom + "cli/...", "mlscore", "mlscore/vectors"}, limited: true, deps: []string{"github.com/spf13/cobra"}},
	// Only the demo and the benchmarks run a federation.
	{dir: commandRoom + "demo", own: []string{commandRoom + "cli/...", commandRoom + "traffic", "client", "config", "federation", "internal/cluster", "mlscore", "node", "wire"}},
	{dir: commandRoom + "bench/harness/...", own: []string{commandRoom + "cli/...", "internal/stats"}},
	{dir: commandRoom + "bench/core", own: []string{commandRoom + "cli/...", commandRoom + "bench/harness/...", "internal/stats", "mlscore", "mlscore/boltstore", "mlscore/mlsbench"}},
	{dir: commandRoom + "bench", own: []string{commandRoom + "cli/...", commandRoom + "bench/...", "consensus/orderbench"}},
	{dir: commandRoom + "bench/delivery", own: append([]string{"federation/organization", "mlscore"}, benchOwn...)},
	{dir: commandRoom + "bench/federation", own: append([]string{"federation", "federation/organization"}, benchOwn...)},
	{dir: "test/...", free: true},
	{dir: platformRoom + "/...", limited: true, deps: []string{"golang.org/x/sys/windows"}},
	{dir: "internal/release/...", free: true}, // a program that makes releases, no part
	{dir: "internal/cluster", free: true},     // a federation in one process, for tests and the demo

	// Examples show that an application needs package client alone; their tests bring a federation.
	{dir: "examples/...", own: []string{"client", "internal/cluster"}, limited: true},

	{dir: "mlscore/codec", limited: true, pure: true},
	{dir: "mlscore/boltstore", own: []string{"mlscore", "mlscore/mlsbench"}, limited: true, // mlsbench: its tests fabricate groups
		deps: []string{"go.etcd.io/bbolt", "golang.org/x/crypto"}},
	// Test vectors and benchmarks use unexported code of mlscore; no part imports these packages.
	{dir: "mlscore/internal/bridge", limited: true, pure: true},
	{dir: "mlscore/vectors", own: []string{"mlscore", "mlscore/internal/bridge"}, limited: true, pure: true},
	{dir: "mlscore/mlsbench", own: []string{"mlscore", "mlscore/internal/bridge"}, limited: true, pure: true},
	{dir: "mlscore", own: []string{"mlscore/codec", "mlscore/internal/bridge"}, limited: true, pure: true,
		deps: []string{"golang.org/x/crypto", "github.com/cloudflare/circl", "filippo.io/edwards25519"}},

	// The format of messages. Its tests compare it with another implementation of CBOR.
	{dir: "content/...", limited: true, pure: true, deps: []string{"github.com/fxamacker/cbor/v2"}},
	{dir: "wire/...", own: []string{"mlscore/codec"}},
	{dir: "internal/clock", limited: true},   // time for what is stored
	{dir: "internal/private", limited: true}, // folders, files and sockets of one user
	{dir: "internal/audit", limited: true},   // the log of who did what
	{dir: "client/...", own: []string{"content/...", "wire/...", "mlscore", "mlscore/boltstore", "internal/private", "internal/tokenbucket"}},

	// This is a measurement, not a part: no part imports it.
	{dir: "consensus/orderbench", own: []string{"consensus/...", "wire/...", "mlscore", "mlscore/codec", "internal/stats", "internal/tokenbucket"}},
	{dir: "consensus/...", own: []string{"wire/...", "mlscore", "mlscore/codec", "internal/tokenbucket"}},
	// The storage interface, and its implementation.
	{dir: "store/pebblestore/...", own: append([]string{"store", "internal/quota"}, stored...), testOwn: []string{"directory/directorytest", "federation/outbox/lanestest"}},
	{dir: "store/postgres/pgtest", limited: true, deps: []string{"github.com/jackc/pgx/v5"}}, // a server for tests
	{dir: "store/postgres/...", own: append([]string{"store"}, stored...), testOwn: []string{"directory/directorytest", "federation/outbox/lanestest", "store/pebblestore", "store/postgres/pgtest"}},
	{dir: "store/localfiles", own: []string{"store", "wire/...", "consensus/blob"}, testOwn: []string{"store/filestest"}}, // blob keeps files by hash, and knows nothing of consensus
	{dir: "store/filestest", own: []string{"store", "wire/..."}, limited: true},
	{dir: "store", own: stored, limited: true},
	{dir: "internal/tokenbucket", limited: true, pure: true},
	{dir: "internal/admission", own: []string{"internal/tokenbucket"}, limited: true},
	{dir: "internal/stats", limited: true, pure: true},
	{dir: "internal/quota", own: []string{"wire/..."}, limited: true},
	{dir: "federation/outbox/lanestest", own: []string{"wire/...", "federation/outbox/lanestore"}, limited: true}, // checks a store
	{dir: "federation/outbox/lanestore", own: []string{"wire/..."}, limited: true},                                // types, and the contract of a store
	{dir: "federation/outbox", own: []string{"wire/...", "internal/clock", "federation/outbox/lanestore", "federation/internal/..."},
		testOwn: []string{"store/..."}, limited: true, deps: []string{"github.com/prometheus/client_golang"}}, // knows links by an interface
	{dir: "federation/internal/...", own: []string{"internal/clock"}},
	{dir: "federation/lineage", own: []string{"wire/..."}, limited: true, pure: true}, // chains of roots, for nodes and devices
	{dir: "federation/discovery", own: []string{"wire/...", "federation/lineage", "federation/internal/netkind"}, testOwn: []string{"federation/organization"},
		limited: true, deps: []string{"golang.org/x/net", "github.com/prometheus/client_golang"}}, // looks up domains; knows no node
	{dir: "federation/organization", own: []string{"wire/...", "federation/lineage", "federation/internal/atomicfile"}, limited: true}, // identities and allow-lists: no sockets
	{dir: "federation/...", own: []string{"wire/...", "internal/clock", "internal/tokenbucket", "internal/admission"}, testOwn: []string{"mailbox", "store/..."}},
	{dir: "directory/recordstore", own: []string{"wire/..."}, limited: true},
	{dir: "directory/directorytest", own: []string{"wire/...", "directory/recordstore"}, limited: true},
	{dir: "directory/...", own: []string{"wire/...", "internal/clock", "internal/tokenbucket", "mlscore"}, testOwn: []string{"store/..."}}, // verifies KeyPackages
	{dir: "mailbox/mailboxtest", own: []string{"wire/...", "mailbox"}, limited: true, deps: []string{"pgregory.net/rapid"}},
	{dir: "mailbox/...", own: []string{"wire/...", "internal/clock"}, limited: true},
	{dir: "internal/scim", own: []string{"wire/..."}, limited: true},
	{dir: "gateway/...", own: []string{"wire/...", "internal/clock", "internal/tokenbucket", "internal/admission"}},

	{dir: "config/...", own: []string{"wire/..."}},
	{dir: "node/...", own: append([]string{"config/...", "mlscore", "mlscore/boltstore", "web", "internal/private", "internal/audit", "internal/scim"}, parts...)},
	{dir: "web/...", own: []string{"client/...", "wire/...", "mlscore"}},
}

// exclusive names packages that only some folders may import. Folders that are free may import them too. A path
// ending in * covers every path with that prefix.
var exclusive = []struct {
	path string
	only []string
}{
	{"github.com/hashicorp/raft*", []string{"consensus/..."}},
	{"github.com/hashicorp/memberlist*", []string{"federation/..."}},
	{"github.com/cockroachdb/pebble*", []string{"store/pebblestore/...", "consensus/raftlog/..."}},
	{"github.com/jackc/pgx*", []string{"store/postgres/..."}},
	{"github.com/pressly/goose*", []string{"store/postgres/..."}},
	{"github.com/gorilla/websocket*", []string{"gateway/...", "client/..."}},
	{"github.com/coder/websocket*", []string{"gateway/...", "client/..."}},
	{"golang.org/x/net/websocket*", []string{"gateway/...", "client/..."}},
	{module + "/config*", []string{"node/...", "config/...", commandRoom + "operator", commandRoom + "demo", commandRoom + "bench/...", commandRoom + "people"}},
}

// platformRoom has what operating systems do differently. Packages that use files may import it; it imports no
// package of this module.
const platformRoom = "internal/platform"

// testLibraries lists what the tests of a limited package may import in addition to its deps.
var testLibraries = []string{
	"pgregory.net/rapid", "go.uber.org/goleak", "github.com/anishathalye/porcupine",
}

// goroutinesIn names the files of pure packages that may start goroutines, and the reason why the result cannot
// depend on the goroutines.
var goroutinesIn = map[string]string{
	"mlscore/parallel.go": "parallel sealing and verification with a deterministic result",
}

// impurePackages lists packages that pure packages may not import, with the packages below them.
var impurePackages = []string{"os", "net", "log", "syscall", "plugin", "io/ioutil", "crypto/tls", "C"}

// clock lists the functions of package time that read the clock or wait for it.
var clock = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}

// The most lines of a file. A longer file gives its reason near its top, in a line that begins with lengthMark.
const (
	maxLines     = 600
	maxTestLines = 1000
	lengthMark   = "// Length:"
	lengthTop    = 40 // how many lines count as the top
)

// matches reports whether a relative package path matches a pattern.
func matches(pattern, pkg string) bool {
	if dir, ok := strings.CutSuffix(pattern, "/..."); ok {
		return within(dir, pkg)
	}
	return pattern == pkg
}

func matchesAny(patterns []string, pkg string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, pkg) })
}

// within reports whether a path is dir or lies below it.
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

// checkImports returns a complaint for each violation of the rules in a tree.
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

// checkFile checks one file against the rule of its package.
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
		if rel == pkg || matches(r.dir, rel) || matchesAny(r.own, rel) || isTest && matchesAny(r.testOwn, rel) || within(platformRoom, rel) && !r.pure {
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

// checkPure complains of clocks and, unless they are allowed, of goroutines in one file. It has no type information,
// so it treats every method named Go as one that starts a goroutine (sync.WaitGroup and errgroup.Group have one).
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

// checkLengths returns a complaint for each Go file that is too long and gives no reason.
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

// givesReason reports whether a long file states its reason near its top.
func givesReason(source []byte) bool {
	lines := bufio.NewScanner(bytes.NewReader(source))
	for n := 0; n < lengthTop && lines.Scan(); n++ {
		if reason, ok := strings.CutPrefix(lines.Text(), lengthMark); ok && strings.TrimSpace(reason) != "" {
			return true
		}
	}
	return false
}

// TestImportRules checks the rules on this repository.
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

// TestModulePath checks the module path by which the rules know the packages of this module.
func TestModulePath(t *testing.T) {
	gomod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(gomod, []byte("module "+module+"\n")) {
		t.Errorf("go.mod does not begin with 'module %s': change module in test/deps_test.go with it", module)
	}
}

// TestFileLengths checks the limit on lines on this repository.
func TestFileLengths(t *testing.T) {
	found, err := checkLengths(os.DirFS(".."))
	if err != nil {
		t.Fatal(err)
	}
	for _, complaint := range found {
		t.Error(complaint)
	}
}

// TestImportCheckerComplains violates each rule in a file of its own and expects exactly one complaint; a case
// without want must pass.
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

		{"internal/audit/x.go", ours("internal/platform"), ""},
		{"mlscore/x.go", ours("internal/platform"), "must not import"},
		{"internal/platform/x.go", ours("internal/private"), "must not import"},
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
		{"mlscore/boltstore/x.go", other("github.com/dgraph-io/badger/v4"), "of other modules"},
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
		{"federation/x.go", ours("store/pebblestore"), "must not import"},
		{"federation/x.go", ours("federation/organization") + ours("federation/outbox"), ""},
		{"federation/organization/x.go", ours("federation"), "must not import"},
		{"federation/outbox/x.go", ours("federation"), "must not import"},
		{"federation/outbox/x.go", ours("federation/organization"), "must not import"},
		{"federation/x_test.go", ours("store/pebblestore") + ours("mailbox"), ""},
		{"directory/x_test.go", ours("mailbox"), "must not import"},
		{"store/x.go", ours("mailbox") + ours("federation/outbox/lanestore"), ""},
		{"store/x.go", ours("store/pebblestore"), "must not import"},
		{"store/pebblestore/x.go", ours("store") + ours("federation/outbox/lanestore") + other("github.com/cockroachdb/pebble/v2"), ""},
		{"store/pebblestore/x.go", ours("federation"), "must not import"},
		{"consensus/raftlog/x.go", other("github.com/cockroachdb/pebble/v2/vfs"), ""},
		{"consensus/x.go", other("github.com/cockroachdb/pebble/v2"), "only store/pebblestore/..., consensus/raftlog/..."},
		{"node/x_test.go", other("github.com/cockroachdb/pebble/v2/vfs"), "only store/pebblestore/..., consensus/raftlog/..."},
		{"mailbox/x.go", other("github.com/cockroachdb/pebble/v2"), "only store/pebblestore/..., consensus/raftlog/..."},
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
		{"cmd/mlsfed/x.go", ours("cmd/mlsfed/internal/people") + ours("cmd/mlsfed/internal/operator"), ""},
		{"cmd/mlsfed/internal/novel/x.go", "", "has no import rule"},
		{"cmd/mlsfed/internal/cli/x.go", ours("client"), "must not import"},
		{"cmd/mlsfed/internal/people/x.go", ours("node"), "must not import"},
		{"cmd/mlsfed/internal/people/x.go", ours("internal/cluster"), "must not import"},
		{"cmd/mlsfed/internal/people/x_test.go", ours("internal/cluster") + ours("client"), ""},
		{"cmd/mlsfed/internal/people/x.go", ours("cmd/mlsfed/internal/operator"), "must not import"},
		{"cmd/mlsfed/internal/operator/x.go", ours("cmd/mlsfed/internal/people"), "must not import"},
		{"cmd/mlsfed/internal/operator/x.go", ours("node") + ours("config") + ours("cmd/mlsfed/internal/cli"), ""},
		{"cmd/mlsfed/internal/chat/x.go", ours("cmd/mlsfed/internal/people") + ours("client"), ""},
		{"cmd/mlsfed/internal/vectors/x.go", ours("client"), "must not import"},
		{"cmd/mlsfed/internal/bench/core/x.go", ours("internal/cluster"), "must not import"},
		{"cmd/mlsfed/internal/bench/delivery/x.go", ours("internal/cluster") + ours("internal/stats"), ""},
		{"node/x.go", ours("cmd/mlsfed/internal/cli"), "must not import"},
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

// TestImportCheckerUnparsable checks that a file that cannot be parsed does not pass.
func TestImportCheckerUnparsable(t *testing.T) {
	for _, file := range []string{"wire/x.go", "cmd/mlsfed/x.go"} {
		if _, err := checkImports(fstest.MapFS{file: {Data: []byte("package")}}); err == nil {
			t.Errorf("%s: no error for a file that does not parse", file)
		}
	}
}

// TestLengthCheckerComplains checks both limits on either side, and the reason that lifts them.
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
