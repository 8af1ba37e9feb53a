package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// measuresPath is the page with the table of measures, relative to the root of the repository.
var measuresPath = filepath.Join("docs", "decisions", "measures.md")

const module = "github.com/mlsfed/mlsfed/"

// perPackage begins the name of a measure of one package. These rows are the last of the table, in their order.
const perPackage = "exported identifiers: "

// A measured is one row of the table of measures.
type measured struct{ name, value string }

// measures returns the rows of the table for a tree.
func measures(files []source) ([]measured, error) {
	f, err := measure(files)
	if err != nil {
		return nil, err
	}
	hits, err := check(files)
	if err != nil {
		return nil, err
	}
	named, err := checkIdentifiers(files)
	if err != nil {
		return nil, err
	}
	p, err := parseProduction(files)
	if err != nil {
		return nil, err
	}
	number := strconv.Itoa
	rows := []measured{
		{"lines of a function: p50, p90, p99", fmt.Sprintf("%d, %d, %d", f.share(50), f.share(90), f.share(99))},
		{"lines of the longest function", number(f.share(100))},
		{"functions outside tests", number(len(f.functions))},
		{"struct literals of four values or more without names", number(len(f.literals))},
		{"places that break the rules for words", number(len(hits))},
		{"identifiers with a word that their package may not use", number(len(named))},
		{"Go files in cmd/mlsfed itself; with tests", fmt.Sprintf("%d; %d", f.command-f.tests, f.command)},
		{"packages below test/ that production code imports", list(p.belowTest())},
		{"packages of ours that the examples import", list(p.exampleImports())},
		{"packages of ours, other than client, in the exported declarations of client", list(p.inExported("client"))},
		{"files that name a request of a session, or its structures", p.spread("wire", "Method", "Method", "Request", "Answer")},
		{"files that name a proposal type of mlscore", p.spread("mlscore", "ProposalType", "Proposal")},
		{"files that name an extension type of mlscore", p.spread("mlscore", "ExtensionType", "Extension")},
	}
	for _, folder := range slices.Sorted(maps.Keys(f.exported)) {
		rows = append(rows, measured{perPackage + folder, number(f.exported[folder])})
	}
	return rows, nil
}

func list(names []string) string {
	if len(names) == 0 {
		return "0"
	}
	return fmt.Sprintf("%d: %s", len(names), strings.Join(names, ", "))
}

// production is the parsed code outside tests.
type production struct {
	files map[string]*ast.File // by name
}

func parseProduction(files []source) (*production, error) {
	p := &production{files: make(map[string]*ast.File)}
	set := token.NewFileSet()
	for _, file := range files {
		if !strings.HasSuffix(file.name, ".go") || strings.HasSuffix(file.name, "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(set, file.name, file.body, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		p.files[file.name] = tree
	}
	return p, nil
}

// imports returns the packages of ours that a file imports, with the name that the file uses for each.
func imports(file *ast.File) map[string]string {
	found := make(map[string]string)
	for _, spec := range file.Imports {
		text, err := strconv.Unquote(spec.Path.Value)
		if err != nil || !strings.HasPrefix(text, module) {
			continue
		}
		folder := strings.TrimPrefix(text, module)
		name := path.Base(folder)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		found[folder] = name
	}
	return found
}

// belowTest returns the packages below test/ that production code elsewhere imports.
func (p *production) belowTest() []string {
	found := make(map[string]bool)
	for name, file := range p.files {
		for folder := range imports(file) {
			if strings.HasPrefix(folder, "test/") && !strings.HasPrefix(name, "test/") {
				found[folder] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// exampleImports returns the packages that the examples import, without those below examples/.
func (p *production) exampleImports() []string {
	found := make(map[string]bool)
	for name, file := range p.files {
		if !strings.HasPrefix(name, "examples/") {
			continue
		}
		for folder := range imports(file) {
			if !strings.HasPrefix(folder, "examples/") {
				found[folder] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// inExported returns the other packages of ours that the exported declarations of a package name.
func (p *production) inExported(folder string) []string {
	found := make(map[string]bool)
	for name, file := range p.files {
		if path.Dir(name) != folder {
			continue
		}
		known := make(map[string]string) // name in this file → package
		for folder, name := range imports(file) {
			known[name] = folder
		}
		see := func(node ast.Node) {
			ast.Inspect(node, func(node ast.Node) bool {
				switch node := node.(type) {
				case *ast.Field:
					if len(node.Names) > 0 && !slices.ContainsFunc(node.Names, (*ast.Ident).IsExported) {
						return false // a private field, or a named parameter: see signature
					}
				case *ast.SelectorExpr:
					if from, ok := node.X.(*ast.Ident); ok && known[from.Name] != "" {
						found[known[from.Name]] = true
					}
				}
				return true
			})
		}
		for _, declaration := range file.Decls {
			if exported(declaration) == 0 {
				continue
			}
			switch declaration := declaration.(type) {
			case *ast.FuncDecl:
				signature(declaration.Type, see)
			case *ast.GenDecl:
				for _, spec := range declaration.Specs {
					switch spec := spec.(type) {
					case *ast.TypeSpec:
						if function, ok := spec.Type.(*ast.FuncType); ok {
							signature(function, see)
						} else if spec.Name.IsExported() {
							see(spec.Type)
							methods(spec.Type, see)
						}
					case *ast.ValueSpec:
						if spec.Type != nil && spec.Names[0].IsExported() {
							see(spec.Type)
						}
					}
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// signature shows the types of a function's parameters and results.
func signature(function *ast.FuncType, see func(ast.Node)) {
	for _, fields := range []*ast.FieldList{function.Params, function.Results} {
		if fields == nil {
			continue
		}
		for _, field := range fields.List {
			see(field.Type)
		}
	}
}

// methods shows the types in the methods of an interface, and in the exported fields of a struct that are functions.
func methods(expression ast.Expr, see func(ast.Node)) {
	var fields *ast.FieldList
	switch expression := expression.(type) {
	case *ast.InterfaceType:
		fields = expression.Methods
	case *ast.StructType:
		fields = expression.Fields
	default:
		return
	}
	for _, field := range fields.List {
		if function, ok := field.Type.(*ast.FuncType); ok && slices.ContainsFunc(field.Names, (*ast.Ident).IsExported) {
			signature(function, see)
		}
	}
}

// spread counts, for each constant of a type of a package, the files that name it: the least, the median and the most.
// A constant is prefix and a name; the name with each of the suffixes is a structure that belongs to it. The makers and
// readers of test vectors do not count.
func (p *production) spread(folder, kind, prefix string, suffixes ...string) string {
	var constants []string
	for name, file := range p.files {
		if path.Dir(name) != folder {
			continue
		}
		for _, declaration := range file.Decls {
			group, ok := declaration.(*ast.GenDecl)
			if !ok || group.Tok != token.CONST {
				continue
			}
			for _, spec := range group.Specs {
				value := spec.(*ast.ValueSpec)
				if of, ok := value.Type.(*ast.Ident); !ok || of.Name != kind {
					continue
				}
				for _, id := range value.Names {
					if id.IsExported() && strings.HasPrefix(id.Name, prefix) {
						constants = append(constants, id.Name)
					}
				}
			}
		}
	}
	named := make(map[string]map[string]bool) // identifier → files
	for name, file := range p.files {
		if strings.HasPrefix(path.Base(name), "vector") {
			continue
		}
		ast.Inspect(file, func(node ast.Node) bool {
			if id, ok := node.(*ast.Ident); ok {
				if named[id.Name] == nil {
					named[id.Name] = make(map[string]bool)
				}
				named[id.Name][name] = true
			}
			return true
		})
	}
	var counts []int
	for _, constant := range constants {
		all := maps.Clone(named[constant])
		for _, suffix := range suffixes {
			maps.Copy(all, named[strings.TrimPrefix(constant, prefix)+suffix])
		}
		counts = append(counts, len(all))
	}
	if len(counts) == 0 {
		return "0"
	}
	slices.Sort(counts)
	return fmt.Sprintf("least %d, median %d, most %d", counts[0], counts[len(counts)/2], counts[len(counts)-1])
}

// writeMeasures sets a column of the table of measures: a row of the table without a measure gets a dash, or is removed
// if it has no other value, and new rows follow the last one. Rows of packages are sorted; the others keep their order.
func writeMeasures(page, column string, rows []measured) error {
	raw, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	text, err := setColumn(string(raw), column, rows)
	if err != nil {
		return fmt.Errorf("%s: %w", page, err)
	}
	return os.WriteFile(page, []byte(text), 0o644)
}

// setColumn is writeMeasures for the text of a page.
func setColumn(text, column string, rows []measured) (string, error) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	start := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, "| measure |") })
	if start < 0 {
		return "", fmt.Errorf(`there is no table with the heading "measure"`)
	}
	at := slices.Index(cells(lines[start]), column)
	if at < 1 {
		return "", fmt.Errorf("the table has no column %q", column)
	}
	end := start + 2
	values := make(map[string]string)
	for _, row := range rows {
		values[row.name] = row.value
	}
	for ; end < len(lines) && strings.HasPrefix(lines[end], "|"); end++ {
		row := cells(lines[end])
		if len(row) <= at {
			return "", fmt.Errorf("line %d has %d cells", end+1, len(row))
		}
		value, ok := values[row[0]]
		if !ok {
			value = "–"
		}
		row[at] = value
		delete(values, row[0])
		lines[end] = "| " + strings.Join(row, " | ") + " |"
	}
	var added []string
	for _, row := range rows {
		if _, ok := values[row.name]; !ok {
			continue
		}
		fresh := slices.Repeat([]string{"–"}, len(cells(lines[start])))
		fresh[0], fresh[at] = row.name, row.value
		added = append(added, "| "+strings.Join(fresh, " | ")+" |")
	}
	table := slices.DeleteFunc(slices.Concat(lines[start+2:end], added), func(line string) bool {
		return !slices.ContainsFunc(cells(line)[1:], func(value string) bool { return value != "–" })
	})
	packages := slices.IndexFunc(table, func(line string) bool { return strings.HasPrefix(line, "| "+perPackage) })
	if packages >= 0 {
		slices.SortStableFunc(table[packages:], func(a, b string) int { return strings.Compare(cells(a)[0], cells(b)[0]) })
	}
	return strings.Join(slices.Concat(lines[:start+2], table, lines[end:]), "\n") + "\n", nil
}

// cells splits a line of a table.
func cells(line string) []string {
	all := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
	for i := range all {
		all[i] = strings.TrimSpace(all[i])
	}
	return all
}
