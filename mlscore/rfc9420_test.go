package mlscore

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// source is what the Go files of this package and those below it declare.
type source struct {
	declared map[string]bool            // "file.go: Name", "file.go: Type.Method"
	tests    map[string]map[string]bool // test function → the strings in it
	clauses  map[string]string          // a subtest that bears a clause → its test function, of rules_*_test.go
}

// readSource parses what a table can refer to.
func readSource(t *testing.T) *source {
	t.Helper()
	s := &source{map[string]bool{}, map[string]map[string]bool{}, map[string]string{}}
	for _, pattern := range []string{"*.go", "codec/*.go", "boltstore/*.go"} {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(paths), err)
		}
		for _, path := range paths {
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			s.add(filepath.ToSlash(path), file)
		}
	}
	return s
}

func (s *source) add(path string, file *ast.File) {
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			s.declared[path+": "+functionName(d)] = true
			if strings.HasSuffix(path, "_test.go") && d.Recv == nil {
				s.addTest(path, d)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if spec, ok := spec.(*ast.TypeSpec); ok {
					s.addType(path, spec)
				}
			}
		}
	}
}

// functionName is "Name", or "Type.Name" for a method.
func functionName(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return d.Name.Name
	}
	recv := d.Recv.List[0].Type
	if star, ok := recv.(*ast.StarExpr); ok {
		recv = star.X
	}
	if id, ok := recv.(*ast.Ident); ok {
		return id.Name + "." + d.Name.Name
	}
	return d.Name.Name
}

// addType declares a type, and the methods that it demands if it is an interface.
func (s *source) addType(path string, spec *ast.TypeSpec) {
	s.declared[path+": "+spec.Name.Name] = true
	if i, ok := spec.Type.(*ast.InterfaceType); ok {
		for _, m := range i.Methods.List {
			for _, name := range m.Names {
				s.declared[path+": "+spec.Name.Name+"."+name.Name] = true
			}
		}
	}
}

var bearsClause = regexp.MustCompile(`^§[0-9.]+ `)

// addTest collects the strings of a test function: the names of its subtests are among them.
func (s *source) addTest(path string, d *ast.FuncDecl) {
	name := d.Name.Name
	if !strings.HasPrefix(name, "Test") && !strings.HasPrefix(name, "Fuzz") && !strings.HasPrefix(name, "Benchmark") {
		return
	}
	s.tests[name] = map[string]bool{}
	ast.Inspect(d.Body, func(n ast.Node) bool {
		lit, ok := n.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return true
		}
		text, err := strconv.Unquote(lit.Value)
		if err != nil {
			return true
		}
		s.tests[name][text] = true
		if strings.HasPrefix(path, "rules_") && bearsClause.MatchString(text) {
			s.clauses[text] = name
		}
		return true
	})
}

var (
	placeInCell = regexp.MustCompile("`([a-z0-9_/]+\\.go: [A-Za-z0-9_.]+)`")
	testInCell  = regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Za-z0-9_]*)`")
	codeInCell  = regexp.MustCompile("`([^`]*)`")
	quoted      = regexp.MustCompile(`"([^"]*)"`)
	askedCell   = regexp.MustCompile(`^(receiver|maker|application|ours: .{20,}|as above)(; .+|: .+)?$`)
	clauseCell  = regexp.MustCompile(`^§[0-9]+(\.[0-9]+)*$`)
)

// TestRuleTable holds docs/rfc9420.md to the source: what its tables name exists, and every subtest that
// bears a clause stands in them.
func TestRuleTable(t *testing.T) {
	doc, err := os.ReadFile("../docs/rfc9420.md")
	if err != nil {
		t.Fatal(err)
	}
	s := readSource(t)
	named := map[string]bool{}
	rules, traps := 0, 0
	for at, line := range strings.Split(string(doc), "\n") {
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| ---") || cells[0] == "clause" || cells[0] == "trap" {
			continue
		}
		row := &tableRow{t, s, at + 1, named}
		switch len(cells) {
		case 5:
			rules++
			if !clauseCell.MatchString(cells[0]) {
				row.fail("%q is no clause", cells[0])
			}
			row.places(cells[2])
			row.tests(cells[3])
			row.asked(cells[4])
		case 2:
			traps++
			row.tests(cells[1])
		default:
			row.fail("%d cells", len(cells))
		}
	}
	if rules < 150 || traps < 40 {
		t.Errorf("%d rules and %d traps were read: the tables have another form", rules, traps)
	}
	for name, test := range s.clauses {
		if !named[test+"/"+name] {
			t.Errorf("%s/%s stands in no row of docs/rfc9420.md", test, name)
		}
	}
}

// tableRow is one row of a table.
type tableRow struct {
	t     *testing.T
	s     *source
	line  int
	named map[string]bool
}

func (r *tableRow) fail(format string, args ...any) {
	r.t.Helper()
	r.t.Errorf("docs/rfc9420.md:%d: "+format, append([]any{r.line}, args...)...)
}

// places checks where a rule is said to be checked.
func (r *tableRow) places(cell string) {
	r.t.Helper()
	found := placeInCell.FindAllStringSubmatch(cell, -1)
	if len(found) == 0 {
		r.fail("says nowhere where the rule is checked: %q", cell)
	}
	for _, m := range found {
		if !r.s.declared[m[1]] {
			r.fail("there is no %s", m[1])
		}
	}
	if codes := codeInCell.FindAllString(cell, -1); len(codes) != len(found) {
		r.fail("has code that is no place: %q", cell)
	}
}

// asked checks of whom a rule is asked; a rule of ours has a reason.
func (r *tableRow) asked(cell string) {
	r.t.Helper()
	if !askedCell.MatchString(cell) {
		r.fail("does not say of whom the rule is asked, or not why it is ours: %q", cell)
	}
}

// tests checks the tests of a rule; a row without one says why behind a dash.
func (r *tableRow) tests(cell string) {
	r.t.Helper()
	at := testInCell.FindAllStringSubmatchIndex(cell, -1)
	if len(at) == 0 && !strings.HasPrefix(cell, "— ") {
		r.fail("names no test and no reason: %q", cell)
	}
	for k, m := range at {
		test := cell[m[2]:m[3]]
		strings := r.s.tests[test]
		if strings == nil {
			r.fail("there is no %s", test)
			continue
		}
		end := len(cell)
		if k+1 < len(at) {
			end = at[k+1][0]
		}
		for _, q := range quoted.FindAllStringSubmatch(cell[m[1]:end], -1) {
			if !strings[q[1]] {
				r.fail("%s has no subtest %q", test, q[1])
			}
			r.named[test+"/"+q[1]] = true
		}
	}
}

// TestCodePoints: the numbers of the registries (§17.2 to §17.5), which no test between our own clients
// would miss.
func TestCodePoints(t *testing.T) {
	for name, got := range map[string][]uint16{
		"extension types":  {uint16(ExtensionApplicationID), uint16(ExtensionRatchetTree), uint16(ExtensionRequiredCapabilities), uint16(ExtensionExternalPub), uint16(ExtensionExternalSenders)},
		"proposal types":   {uint16(ProposalAdd), uint16(ProposalUpdate), uint16(ProposalRemove), uint16(ProposalPSK), uint16(ProposalReInit), uint16(ProposalExternalInit), uint16(ProposalGroupContextExtensions)},
		"credential types": {uint16(CredentialBasic), uint16(CredentialX509)},
		"wire formats":     {uint16(WireFormatPublicMessage), uint16(WireFormatPrivateMessage), uint16(WireFormatWelcome), uint16(WireFormatGroupInfo), uint16(WireFormatKeyPackage)},
		"content types":    {uint16(ContentApplication), uint16(ContentProposal), uint16(ContentCommit)},
		"sender types":     {uint16(SenderMember), uint16(SenderExternal), uint16(SenderNewMemberProposal), uint16(SenderNewMemberCommit)},
		"leaf sources":     {uint16(SourceKeyPackage), uint16(SourceUpdate), uint16(SourceCommit)},
		"PSK types":        {uint16(PSKExternal), uint16(PSKResumption)},
		"PSK usages":       {uint16(UsageApplication), uint16(UsageReInit), uint16(UsageBranch)},
	} {
		for i, v := range got {
			if int(v) != i+1 {
				t.Errorf("%s: number %d stands for %d", name, v, i+1)
			}
		}
	}
	for v := range uint16(8) {
		if got := ExtensionType(v).isDefault(); got != (v >= 1 && v <= 5) {
			t.Errorf("extension type %d is default: %v", v, got)
		}
		if got := ProposalType(v).isDefault(); got != (v >= 1) {
			t.Errorf("proposal type %d is default: %v", v, got)
		}
	}
	grease := 0
	for v := range 1 << 16 {
		if isGREASE(uint16(v)) {
			grease++
		}
	}
	for _, v := range []uint16{0x0a0a, 0x1a1a, 0x2a2a, 0x3a3a, 0x4a4a, 0x5a5a, 0x6a6a, 0x7a7a, 0x8a8a, 0x9a9a, 0xaaaa, 0xbaba, 0xcaca, 0xdada, 0xeaea} {
		if !isGREASE(v) {
			t.Errorf("%#x is not taken for GREASE", v)
		}
	}
	if grease != 15 {
		t.Errorf("%d code points are taken for GREASE, 15 are", grease)
	}
}
