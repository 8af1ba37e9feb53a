package node

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"
)

// TestEveryActIsRecorded checks that every change an operator can make through the control socket has a record in the
// audit log. The test reads the source: a function behind a POST that notes nothing was forgotten.
func TestEveryActIsRecorded(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "control.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	notes, acts := make(map[string]bool), make(map[string]string)
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if s, ok := call.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "note" {
				notes[f.Name.Name] = true
			}
			if name, ok := call.Fun.(*ast.Ident); ok && name.Name == "handle" && len(call.Args) == 3 {
				pattern, isText := call.Args[1].(*ast.BasicLit)
				to, isMethod := call.Args[2].(*ast.SelectorExpr)
				if isText && isMethod && strings.Contains(pattern.Value, "POST ") {
					acts[to.Sel.Name] = pattern.Value
				}
			}
			return true
		})
	}
	if len(acts) < 5 {
		t.Fatalf("acts %v", acts)
	}
	for name, pattern := range acts {
		if !notes[name] {
			t.Errorf("%s: %s writes nothing into the audit log", pattern, name)
		}
	}
}
