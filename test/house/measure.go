package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
)

// figures are what the house is measured by.
type figures struct {
	functions []int          // lines of each function outside tests, sorted
	exported  map[string]int // exported identifiers by package, without those of main packages
	literals  []hit          // struct literals of four fields or more without names
	command   int            // Go files in cmd/mlsfed itself
	tests     int            // those of command that are tests
}

// measure reads the production code of the tree.
func measure(files []source) (figures, error) {
	f := figures{exported: make(map[string]int)}
	set := token.NewFileSet()
	packages := make(map[string][]*ast.File)
	for _, file := range files {
		if !strings.HasSuffix(file.name, ".go") {
			continue
		}
		if file.folder() == "cmd/mlsfed" {
			f.command++
		}
		if strings.HasSuffix(file.name, "_test.go") {
			if file.folder() == "cmd/mlsfed" {
				f.tests++
			}
			continue
		}
		tree, err := parser.ParseFile(set, file.name, file.body, parser.SkipObjectResolution)
		if err != nil {
			return f, err
		}
		packages[file.folder()] = append(packages[file.folder()], tree)
	}
	for folder, trees := range packages {
		for _, tree := range trees {
			for _, declaration := range tree.Decls {
				if function, ok := declaration.(*ast.FuncDecl); ok && function.Body != nil {
					f.functions = append(f.functions, lines(set, function))
				}
				if tree.Name.Name != "main" && !strings.HasPrefix(folder, "test/") {
					f.exported[folder] += exported(declaration)
				}
			}
		}
		f.literals = append(f.literals, positional(set, trees)...)
	}
	slices.Sort(f.functions)
	return f, nil
}

func lines(set *token.FileSet, function *ast.FuncDecl) int {
	return set.Position(function.End()).Line - set.Position(function.Pos()).Line + 1
}

// exported counts the exported names of a declaration: functions, methods of
// exported types, types, constants and variables.
func exported(declaration ast.Decl) int {
	switch declaration := declaration.(type) {
	case *ast.FuncDecl:
		if !declaration.Name.IsExported() {
			return 0
		}
		if declaration.Recv != nil && !ast.IsExported(receiver(declaration.Recv.List[0].Type)) {
			return 0
		}
		return 1
	case *ast.GenDecl:
		count := 0
		for _, spec := range declaration.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				if spec.Name.IsExported() {
					count++
				}
			case *ast.ValueSpec:
				for _, name := range spec.Names {
					if name.IsExported() {
						count++
					}
				}
			}
		}
		return count
	}
	return 0
}

// receiver returns the name of a receiver's type.
func receiver(expression ast.Expr) string {
	switch expression := expression.(type) {
	case *ast.StarExpr:
		return receiver(expression.X)
	case *ast.IndexExpr:
		return receiver(expression.X)
	case *ast.IndexListExpr:
		return receiver(expression.X)
	case *ast.Ident:
		return expression.Name
	}
	return ""
}

// positional returns the struct literals of a package that give four values or
// more without names. It knows the package's own types and anonymous structs:
// go vet refuses positional literals of other packages' structs.
func positional(set *token.FileSet, trees []*ast.File) []hit {
	types := make(map[string]ast.Expr)
	for _, tree := range trees {
		ast.Inspect(tree, func(node ast.Node) bool {
			if spec, ok := node.(*ast.TypeSpec); ok {
				types[spec.Name.Name] = spec.Type
			}
			return true
		})
	}
	var hits []hit
	var inspect func(node ast.Node, elided ast.Expr)
	inspect = func(node ast.Node, elided ast.Expr) {
		literal, ok := node.(*ast.CompositeLit)
		if !ok {
			ast.Inspect(node, func(inner ast.Node) bool {
				if inner != node {
					if found, ok := inner.(*ast.CompositeLit); ok {
						inspect(found, nil)
						return false
					}
				}
				return true
			})
			return
		}
		kind := literal.Type
		if kind == nil {
			kind = elided
		}
		kind = resolve(kind, types)
		var element ast.Expr
		switch kind := kind.(type) {
		case *ast.StructType:
			if len(literal.Elts) >= 4 && !keyed(literal) {
				at := set.Position(literal.Pos())
				hits = append(hits, hit{file: at.Filename, line: at.Line, rule: "struct literal without names"})
			}
		case *ast.ArrayType:
			element = kind.Elt
		case *ast.MapType:
			element = kind.Value
		}
		for _, value := range literal.Elts {
			if pair, ok := value.(*ast.KeyValueExpr); ok {
				value = pair.Value
			}
			inspect(value, element)
		}
	}
	for _, tree := range trees {
		inspect(tree, nil)
	}
	return hits
}

func keyed(literal *ast.CompositeLit) bool {
	_, ok := literal.Elts[0].(*ast.KeyValueExpr)
	return ok
}

// resolve follows the names of types within the package, and pointers.
func resolve(expression ast.Expr, types map[string]ast.Expr) ast.Expr {
	for range 8 { // types may name each other
		switch named := expression.(type) {
		case *ast.StarExpr:
			expression = named.X
		case *ast.Ident:
			expression = types[named.Name]
		default:
			return expression
		}
	}
	return expression
}

// share returns the lines that so many percent of the functions have at most.
func (f figures) share(percent int) int {
	if len(f.functions) == 0 {
		return 0
	}
	return f.functions[min(len(f.functions)-1, len(f.functions)*percent/100)]
}

// print writes the figures as a table.
func (f figures) print(out io.Writer) {
	fmt.Fprintf(out, "functions                     %d; lines p50 %d, p90 %d, p99 %d, longest %d\n",
		len(f.functions), f.share(50), f.share(90), f.share(99), f.share(100))
	fmt.Fprintf(out, "Go files in cmd/mlsfed        %d\n", f.command)
	fmt.Fprintf(out, "struct literals without names %d\n", len(f.literals))
	fmt.Fprintln(out, "exported identifiers")
	for _, folder := range slices.Sorted(maps.Keys(f.exported)) {
		fmt.Fprintf(out, "  %-27s %d\n", folder, f.exported[folder])
	}
}

// tally counts hits by a key and prints them, most frequent first.
func tally(out io.Writer, title string, hits []hit, key func(hit) string) {
	counts := make(map[string]int)
	for _, h := range hits {
		counts[key(h)]++
	}
	keys := slices.Collect(maps.Keys(counts))
	slices.SortFunc(keys, func(a, b string) int {
		if d := counts[b] - counts[a]; d != 0 {
			return d
		}
		return bytes.Compare([]byte(a), []byte(b))
	})
	fmt.Fprintf(out, "%s: %d\n", title, len(hits))
	for _, k := range keys {
		fmt.Fprintf(out, "  %-27s %d\n", k, counts[k])
	}
}

func byRule(h hit) string   { return h.rule }
func byFolder(h hit) string { return path.Dir(h.file) }
