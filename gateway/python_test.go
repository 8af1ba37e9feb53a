package gateway

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// python runs test/pyclient, which was written from docs/spec/protocol.md.
type python struct {
	t    *testing.T
	args []string
}

// pythonPath is Python with what the client needs; without it the test is skipped.
func pythonPath(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed: the client in another language is not run")
	}
	if out, err := exec.Command(path, "-c", "from cryptography.hazmat.primitives.asymmetric import ed25519").CombinedOutput(); err != nil {
		t.Skipf("Python's package cryptography is not installed (Debian: python3-cryptography): the client in another language is not run: %v: %.200s", err, out)
	}
	return path
}

func newPython(t *testing.T, w *world, d wire.DeviceID) *python {
	t.Helper()
	path := pythonPath(t)
	folder := t.TempDir()
	root := filepath.Join(folder, "root.pem")
	if err := os.WriteFile(root, w.rootPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	return &python{t: t, args: []string{path, "../test/pyclient/client.py", "--server", w.base, "--root", root,
		"--device", string(d), "--seed", filepath.Join(folder, "seed")}}
}

// run runs a command of the client and returns what it prints, a line each.
func (p *python) run(args ...string) ([]map[string]any, error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	all := append(p.args[1:len(p.args):len(p.args)], args...)
	c := exec.CommandContext(ctx, p.args[0], all...)
	var stderr strings.Builder
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		p.t.Logf("%v: %v: %s", args, err, stderr.String())
	}
	var lines []map[string]any
	for line := range strings.Lines(string(out)) {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			p.t.Fatalf("%v printed %q: %v", args, line, err)
		}
		lines = append(lines, v)
	}
	return lines, err
}

// mustRun is run for what must succeed and print n lines.
func (p *python) mustRun(n int, args ...string) []map[string]any {
	p.t.Helper()
	lines, err := p.run(args...)
	if err != nil || len(lines) != n {
		p.t.Fatalf("%v: %v, printed %v, wanted %d lines", args, err, lines, n)
	}
	return lines
}

// TestPythonExamples has the examples of the document made from its text, by code that shares nothing with ours.
func TestPythonExamples(t *testing.T) {
	if out, err := exec.Command(pythonPath(t), "../test/pyclient/examples.py", protocolFile).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestPythonClient has a client in another language enrol, log in, upload and claim a KeyPackage, and read
// a stream.
func TestPythonClient(t *testing.T) {
	const tablet = wire.DeviceID("mimi://a.example/d/alice/tablet")
	var mu sync.Mutex
	var uploaded []wire.UploadedKeyPackage
	w := newWorld(t, func(_ context.Context, r Request) (any, error) {
		mu.Lock()
		defer mu.Unlock()
		switch b := r.Body.(type) {
		case *wire.UploadRequest:
			uploaded = append(uploaded, b.KeyPackages...)
			return nil, nil
		case *wire.KeyMaterialRequest:
			if len(uploaded) == 0 || b.User != tablet.User() {
				return nil, wire.Errorf(wire.NoneLeft, "keyMaterial", "%s has none", b.User)
			}
			k := uploaded[0]
			uploaded = uploaded[1:]
			return &wire.KeyMaterialAnswer{Devices: []wire.KeyMaterial{{
				Device: tablet, Address: wire.Address{Organization: "a.example", Token: k.Token}, Message: k.Message,
			}}}, nil
		}
		return &wire.CountAnswer{Counts: []wire.KeyPackageCount{{Suite: 1, Left: uint32(len(uploaded))}}}, nil
	})
	p := newPython(t, w, tablet)

	if o := p.mustRun(1, "organization")[0]; o["domain"] != "a.example" || o["root"] != hex.EncodeToString([]byte("root certificate")) {
		t.Errorf("organization %v", o)
	}
	if _, err := p.run("count"); err == nil {
		t.Error("logged in before it was enrolled")
	}
	if _, err := p.run("enrol", "--code", "no-code"); err == nil {
		t.Error("enrolled without an invitation")
	}
	if chain, ok := p.mustRun(1, "enrol", "--code", "code-1")[0]["chain"].([]any); !ok || len(chain) != 2 {
		t.Errorf("chain %v", chain)
	}

	file := filepath.Join(t.TempDir(), "keypackage")
	content := strings.Repeat("a KeyPackage of 70 KB ", 3300) // a frame with a length of 64 bits
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	token := p.mustRun(1, "upload", file)[0]["token"]
	if c := p.mustRun(1, "count")[0]; c["left"] != 1.0 || c["suite"] != 1.0 {
		t.Errorf("count %v", c)
	}
	if m := p.mustRun(1, "claim", "mimi://a.example/u/alice")[0]; m["token"] != token || m["message"] != hex.EncodeToString([]byte(content)) || m["device"] != string(tablet) {
		t.Errorf("claimed of %v for %v, wanted %v", m["device"], m["token"], token)
	}
	if _, err := p.run("claim", "mimi://a.example/u/alice"); err == nil {
		t.Error("claimed twice")
	}

	for _, s := range []string{"one", "two", "three", "four"} {
		w.feeds.put(inbox, s)
	}
	w.feeds.put("conversation-one", "elsewhere")
	w.feeds.expire(inbox, 1)
	lines := p.mustRun(3, "read", "--items", "2")
	if g, ok := lines[0]["gap"].([]any); !ok || len(g) != 2 || g[0] != 1.0 || g[1] != 1.0 {
		t.Errorf("first %v, wanted a gap", lines[0])
	}
	if lines[1]["payload"] != hex.EncodeToString([]byte("two")) || lines[2]["sequence"] != 3.0 {
		t.Errorf("read %v", lines)
	}
	eventually(t, "cursor", func() bool { return w.feeds.cursor(inbox, tablet) == 3 })
	if again := p.mustRun(1, "read")[0]; again["sequence"] != 4.0 || again["kind"] != float64(wire.ItemMessage) {
		t.Errorf("went on with %v", again)
	}
	if one := p.mustRun(1, "read", "--conversation", hex.EncodeToString([]byte("conversation-one")))[0]; one["payload"] != hex.EncodeToString([]byte("elsewhere")) {
		t.Errorf("read %v", one)
	}
}
