package mlscore_test

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// source returns the text of functions of a file, or the whole file if no function is named.
func source(t *testing.T, file string, functions []string) string {
	t.Helper()
	text := string(must(os.ReadFile(filepath.Join("..", filepath.FromSlash(file)))))
	if len(functions) == 0 {
		return text
	}
	set := token.NewFileSet()
	parsed := must(parser.ParseFile(set, file, text, parser.SkipObjectResolution))
	var parts []string
	for _, name := range functions {
		for _, d := range parsed.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Name.Name == name {
				parts = append(parts, text[set.Position(f.Pos()).Offset:set.Position(f.End()).Offset]+"\n")
			}
		}
	}
	if len(parts) != len(functions) {
		t.Errorf("%s has %d of the functions %v", file, len(parts), functions)
	}
	return strings.Join(parts, "\n")
}

var (
	codeBlock = regexp.MustCompile("(?s)```go\n(.*?)```\n")
	quoted    = regexp.MustCompile("(?s)<!-- (\\S+)([^>]*?) -->\n```go\n(.*?)```\n")
)

// TestScenarioPages checks that the code in docs/scenarios is that of the examples, which are run as tests; that
// there is a page for each of these examples; and that the list of pages is complete.
func TestScenarioPages(t *testing.T) {
	const folder = "../docs/scenarios"
	index := string(must(os.ReadFile(filepath.Join(folder, "README.md"))))
	shown := map[string]bool{}
	for _, page := range must(filepath.Glob(filepath.Join(folder, "*.md"))) {
		name := filepath.Base(page)
		text := string(must(os.ReadFile(page)))
		blocks := quoted.FindAllStringSubmatch(text, -1)
		if len(blocks) != len(codeBlock.FindAllString(text, -1)) {
			t.Errorf("%s: a block of Go does not say which file it is from: <!-- file function -->", name)
		}
		for _, b := range blocks {
			shown[filepath.Base(b[1])] = true
			if want := source(t, b[1], strings.Fields(b[2])); b[3] != want {
				t.Errorf("%s differs from %s%s: write\n%s", name, b[1], b[2], want)
			}
		}
		if name == "README.md" {
			continue
		}
		if len(blocks) == 0 {
			t.Errorf("%s shows no code", name)
		}
		if !strings.Contains(index, "("+name+")") {
			t.Errorf("README.md does not list %s", name)
		}
	}
	for _, file := range must(filepath.Glob("example_*_test.go")) {
		if !shown[file] {
			t.Errorf("no page shows %s", file)
		}
	}
}

// TestPackageDoc checks that the package's documentation names every page of docs/scenarios, and that each name in
// brackets, in all documentation of the package, is one of its exported identifiers.
func TestPackageDoc(t *testing.T) {
	var files []*ast.File
	set := token.NewFileSet()
	for _, name := range must(filepath.Glob("*.go")) {
		if !strings.HasSuffix(name, "_test.go") {
			files = append(files, must(parser.ParseFile(set, name, nil, parser.ParseComments)))
		}
	}
	pkg := must(doc.NewFromFiles(set, files, "github.com/mlsfed/mlsfed/mlscore"))
	for _, page := range must(filepath.Glob("../docs/scenarios/*.md")) {
		if name := filepath.Base(page); name != "README.md" && name != "hello.md" && !strings.Contains(pkg.Doc, "("+name+")") {
			t.Errorf("the package's documentation does not name docs/scenarios/%s", name)
		}
	}
	texts := []string{pkg.Doc}
	values := func(list []*doc.Value) {
		for _, v := range list {
			texts = append(texts, v.Doc)
		}
	}
	functions := func(list []*doc.Func) {
		for _, f := range list {
			texts = append(texts, f.Doc)
		}
	}
	values(pkg.Consts)
	values(pkg.Vars)
	functions(pkg.Funcs)
	for _, typ := range pkg.Types {
		texts = append(texts, typ.Doc)
		values(typ.Consts)
		values(typ.Vars)
		functions(typ.Funcs)
		functions(typ.Methods)
	}
	unresolved := regexp.MustCompile(`\[\*?[A-Z]\w*(\.[A-Z]\w*)?\]`) // go doc prints a resolved name without brackets
	for _, text := range texts {
		for _, name := range unresolved.FindAllString(string(pkg.Text(text)), -1) {
			t.Errorf("there is no %s: %.60q", name, text)
		}
	}
	if links := strings.Count(pkg.Doc, "["); links < 60 {
		t.Errorf("the package's documentation has %d names in brackets", links)
	}
}

// TestHelloIsShort checks that hello takes at most 32 lines without blank ones, comments and imports.
func TestHelloIsShort(t *testing.T) {
	lines, imports := 0, false
	for line := range strings.Lines(string(must(os.ReadFile("../test/hello/main.go")))) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "import ("):
			imports = true
		case imports:
			imports = line != ")"
		case line != "" && !strings.HasPrefix(line, "//"):
			lines++
		}
	}
	if lines > 32 {
		t.Errorf("%d lines", lines)
	}
}
