package gateway

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// update rewrites the examples of the document instead of comparing them.
var update = flag.Bool("update", false, "rewrite the examples in docs/spec/protocol.md")

const protocolFile = "../docs/spec/protocol.md"

func protocol(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(protocolFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestProtocolExample holds that the example of a login is what this code sends and accepts.
func TestProtocolExample(t *testing.T) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	c := wire.Challenge{Version: 1, Domain: "a.example", Nonce: wire.Hash(bytes.Repeat([]byte{0xaa}, 32)), Time: 1_700_000_000_000}
	challenge, err := frameOf(wire.FrameChallenge, 0, &c)
	if err != nil {
		t.Fatal(err)
	}
	input, err := c.LoginInput(phone)
	if err != nil {
		t.Fatal(err)
	}
	login, err := frameOf(wire.FrameLogin, 0, &wire.Login{Device: phone, Signature: ed25519.Sign(key, input), Receive: true})
	if err != nil {
		t.Fatal(err)
	}
	m := wire.Message{Version: 1, Conversation: "conversation-one", ID: wire.SubmissionID(bytes.Repeat([]byte{1}, 16)), Epoch: 4, Content: []byte("ciphertext")}
	message, err := m.SigningInput()
	if err != nil {
		t.Fatal(err)
	}
	to := wire.Address{Organization: "a.example", Token: wire.Token(bytes.Repeat([]byte{2}, 16))}
	binding, err := (&wire.CommitBundle{Delivery: wire.DeliveryChange{Add: []wire.Address{to}}}).Binding()
	if err != nil {
		t.Fatal(err)
	}
	order := wire.NextOrder(wire.Hash{}, []byte("entry"))
	text := protocol(t)
	for name, b := range map[string][]byte{
		"challenge": challenge, "input": input, "login": login, "message": message, "binding": binding[:], "order": order[:],
		"enrol": wire.EnrolInput(phone, key.Public().(ed25519.PublicKey)),
	} {
		block := regexp.MustCompile("(?s)<!-- example: " + name + " -->\n```hex\n(.*?)```\n")
		at := block.FindStringSubmatchIndex(text)
		if at == nil {
			t.Fatalf("there is no example %q", name)
		}
		if *update {
			text = text[:at[2]] + hexLines(b) + text[at[3]:]
		} else if got := text[at[2]:at[3]]; got != hexLines(b) {
			t.Errorf("the example %q is\n%swanted\n%s(go test -run %s -update rewrites it)", name, got, hexLines(b), t.Name())
		}
	}
	if *update {
		if err := os.WriteFile(protocolFile, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// hexLines writes 32 bytes a line.
func hexLines(b []byte) string {
	var s strings.Builder
	for line := range slices.Chunk(b, 32) {
		s.WriteString(hex.EncodeToString(line) + "\n")
	}
	return s.String()
}

// wireSource parses the files of package wire, without its tests.
func wireSource(t *testing.T) map[string]*ast.File {
	t.Helper()
	names, err := filepath.Glob("../wire/*.go")
	if err != nil || len(names) == 0 {
		t.Fatalf("no source of package wire: %v", err)
	}
	files := make(map[string]*ast.File)
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(name)] = f
	}
	return files
}

// constants lists the values of the constants of a type, by name.
func constants(t *testing.T, typeName string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	for _, f := range wireSource(t) {
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			for _, s := range g.Specs {
				v := s.(*ast.ValueSpec)
				if id, ok := v.Type.(*ast.Ident); ok && id.Name == typeName && len(v.Values) == 1 {
					if lit, ok := v.Values[0].(*ast.BasicLit); ok {
						found[v.Names[0].Name] = strings.Trim(lit.Value, `"`)
					}
				}
			}
		}
	}
	if len(found) == 0 {
		t.Fatalf("no constant of type %s", typeName)
	}
	return found
}

// structures are those that cross a session, with their fields as CDDL has them: "? 3: bool".
func structures(t *testing.T) map[string][]string {
	t.Helper()
	all := make(map[string][]string)
	source := wireSource(t)
	for _, name := range []string{"session.go", "request.go", "message.go", "envelope.go", "entry.go", "error.go", "feature.go", "alarm.go", "standing.go", "limits.go", "issuer.go", "page.go"} {
		for _, d := range source[name].Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.TYPE {
				continue
			}
			for _, s := range g.Specs {
				if st, ok := s.(*ast.TypeSpec).Type.(*ast.StructType); ok {
					all[s.(*ast.TypeSpec).Name.Name] = fields(st)
				}
			}
		}
	}
	// Of calls between nodes, not of sessions.
	delete(all, "NotifyRequest")
	delete(all, "NotifyAnswer")
	return all
}

func fields(st *ast.StructType) []string {
	var list []string
	for _, f := range st.Fields.List {
		if f.Tag == nil {
			continue
		}
		key, options, _ := strings.Cut(reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("cbor"), ",")
		mark := ""
		if strings.Contains(options, "omitempty") {
			mark = "? "
		}
		list = append(list, fmt.Sprintf("%s%s: %s", mark, key, cddlType(f.Type)))
	}
	return list
}

func cddlType(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return cddlType(e.X)
	case *ast.ArrayType:
		if id, ok := e.Elt.(*ast.Ident); ok && id.Name == "byte" {
			return "bstr"
		}
		return "[* " + cddlType(e.Elt) + "]"
	case *ast.Ident:
		switch e.Name {
		case "string":
			return "tstr"
		case "uint8", "uint16", "uint32", "uint64":
			return "uint"
		}
		return e.Name
	}
	return fmt.Sprintf("%T", e)
}

// TestProtocolCDDL holds that the document defines every structure of a session with the fields, types and
// options that the source has, and every type that these use.
func TestProtocolCDDL(t *testing.T) {
	text := protocol(t)
	defined := make(map[string][]string)
	for _, m := range regexp.MustCompile(`(?ms)^(\w+) = \{\n(.*?)^\}$`).FindAllStringSubmatch(text, -1) {
		list := []string{}
		for line := range strings.Lines(m[2]) {
			field, _, _ := strings.Cut(line, ";")
			list = append(list, strings.TrimSuffix(strings.TrimSpace(field), ","))
		}
		if defined[m[1]] != nil {
			t.Errorf("%s is defined twice", m[1])
		}
		defined[m[1]] = list
	}
	wanted := structures(t)
	for name, fields := range wanted {
		if got := defined[name]; !slices.Equal(got, fields) {
			t.Errorf("%s is\n\t%s\nwanted\n\t%s", name, strings.Join(got, "\n\t"), strings.Join(fields, "\n\t"))
		}
		for _, f := range fields {
			_, kind, _ := strings.Cut(f, ": ")
			kind = strings.TrimSuffix(strings.TrimPrefix(kind, "[* "), "]")
			known := slices.Contains([]string{"uint", "int", "tstr", "bstr", "bool"}, kind) || defined[kind] != nil ||
				regexp.MustCompile(`(?m)^`+kind+` = `).MatchString(text)
			if !known {
				t.Errorf("%s uses %s, which is not defined", name, kind)
			}
		}
	}
	for name := range defined {
		if wanted[name] == nil {
			t.Errorf("%s is defined, but there is no such structure", name)
		}
	}
}

// table returns the rows under a heading, without those of the head, as trimmed cells.
func table(t *testing.T, heading string) [][]string {
	t.Helper()
	_, rest, ok := strings.Cut(protocol(t), "\n"+heading+"\n")
	if !ok {
		t.Fatalf("there is no heading %q", heading)
	}
	var rows [][]string
	for line := range strings.Lines(rest) {
		if strings.HasPrefix(line, "#") {
			break
		}
		if !strings.HasPrefix(line, "|") {
			continue
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	if len(rows) < 3 {
		t.Fatalf("no table under %q", heading)
	}
	return rows[2:]
}

// exactly complains unless the first cells of rows are the values of constants.
func exactly(t *testing.T, what string, rows [][]string, constants map[string]string) {
	t.Helper()
	var got, want []string
	for _, r := range rows {
		got = append(got, strings.Trim(r[0], "`"))
	}
	for _, v := range constants {
		want = append(want, v)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s in the document:\n%v\nin the source:\n%v", what, got, want)
	}
}

// TestProtocolTables holds the tables of methods, limits, errors and close codes against the source: each
// constant has a row, and the test that a row names exists.
func TestProtocolTables(t *testing.T) {
	codes, closes := table(t, "## Errors"), table(t, "## Close codes")
	exactly(t, "codes", codes, constants(t, "Code"))
	exactly(t, "close codes", closes, constants(t, "CloseCode"))
	methods := constants(t, "Method")
	for name := range methods {
		if strings.HasPrefix(name, "Call") { // between nodes
			delete(methods, name)
		}
	}
	exactly(t, "methods", table(t, "### Requests"), methods)
	for _, m := range methods {
		if !wire.Method(m).Known() {
			t.Errorf("method %s has no row in wire's table of methods", m)
		}
	}
	for _, f := range constants(t, "Feature") {
		if row := regexp.MustCompile("(?m)^\\|[^|\n]*`" + regexp.QuoteMeta(f) + "`[^|\n]*\\|"); !row.MatchString(protocol(t)) {
			t.Errorf("no row for the feature %q", f)
		}
	}
	exactly(t, "frames", table(t, "## A session")[:9], constants(t, "FrameType"))
	for _, r := range slices.Concat(table(t, "## Limits"), codes, closes) {
		if len(r) != 4 || slices.Contains(r[:2], "") {
			t.Errorf("row %q is not whole", r)
			continue
		}
		folder, name, _ := strings.Cut(r[3], ".")
		if !hasTest(t, folder, name) {
			t.Errorf("row %q: package %s has no test %s", r[0], folder, name)
		}
	}
}

func hasTest(t *testing.T, folder, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", filepath.FromSlash(folder), "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(file string) bool {
		b, err := os.ReadFile(file)
		return err == nil && bytes.Contains(b, []byte("\nfunc "+name+"("))
	})
}

// limitRows says which row of the document has the default of a field.
var limitRows = map[string]string{
	"MaxFrame": "frame", "MaxLogin": "login frame", "LoginFrames": "WebSocket frames until the login has come, pings and fragments too",
	"Fragments": "WebSocket frames of one message", "HTTPRate": "HTTP requests of a client address, after the first of each connection", "Window": "pushes that are not acknowledged (`Window`)",
	"Requests": "requests under way (`Requests`)", "MaxHeld": "bytes of requests under way, and of their answers", "MaxHeldOfUser": "the same, and pages of pushes that are being sent, of all sessions of a user", "PageItems": "pushes read from a stream in its turn",
	"PageBytes": "pushes read from a stream in its turn", "LoginWait": "time from challenge to login",
	"RequestWait": "time for a request to be served", "WriteWait": "time for a frame to be taken by a device",
	"FrameWait": "time for the rest of a frame that has begun", "PingEvery": "silence, pings unanswered; a ping comes each 45 s",
	"IdleWait": "silence, pings unanswered; a ping comes each 45 s", "DrainWait": "time for requests under way when the node stops",
	"CloseWait": "time for a device to close after the node has", "FrameRate": "requests, pings, pongs, fragments of less than 1 KiB after a message's first, and acks that make no room",
	"ByteRate": "bytes from a device, with the headers of WebSocket frames", "MaxOverloads": "requests over either in a row", "MaxOfDevice": "sessions of a device; one of them receives",
	"MaxSessions": "sessions of a node", "MaxOfAddress": "sessions of a client address (IPv6: /64)", "MaxSockets": "connections of a node",
	"ConnectRate": "new connections of a client address", "LoginRate": "failed logins of a device", "LoginDelay": "answer to a failed login",
	"EnrolRate": "enrolments of a client address", "MaxEnrol": "request to enrol", "MaxAddresses": "addresses whose rates are remembered",
	"HeaderWait": "time for a TLS handshake, or for headers", "MaxHeader": "headers of an HTTP request",
	"KeepAliveWait": "time for the next HTTP request of a connection",
}

// TestProtocolLimits holds that the document lists every limit of Config with its default.
func TestProtocolLimits(t *testing.T) {
	rows := make(map[string]string)
	for _, r := range table(t, "## Limits") {
		rows[r[0]] = r[0] + " " + r[1]
	}
	c := reflect.ValueOf(Config{}.withDefaults())
	for i := range c.NumField() {
		name, value := c.Type().Field(i).Name, c.Field(i).Interface()
		var spelled []string
		switch v := value.(type) {
		case int:
			spelled = []string{thousands(v), thousands(v>>10) + " KiB", thousands(v>>20) + " MiB"}
		case time.Duration:
			spelled = []string{fmt.Sprintf("%d s", v/time.Second), fmt.Sprintf("%d min", v/time.Minute), fmt.Sprintf("%d ms", v/time.Millisecond)}
		case Rate:
			spelled = []string{thousands(v.Burst) + " at once, " + pace(v.Every, 1), thousands(v.Burst>>10) + " MiB at once, " + pace(v.Every, 1<<10)}
		default:
			continue
		}
		row, ok := rows[limitRows[name]]
		if !ok || !slices.ContainsFunc(spelled, func(s string) bool { return strings.Contains(row, s) }) {
			t.Errorf("%s: no row of the limits has its default, %q", name, spelled)
		}
	}
}

// pace writes one in a time, as a table does.
func pace(every time.Duration, unit int) string {
	switch n := int(time.Second / every); {
	case n == 0:
		return fmt.Sprintf("one in %d s", every/time.Second)
	case unit > 1:
		return thousands(n/unit) + " MiB a second"
	case n == 1:
		return "one a second"
	default:
		return thousands(n) + " a second"
	}
}

// thousands writes 25001 as "25,001".
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
