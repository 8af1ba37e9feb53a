package operator

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli/clitest"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/federation/organization"
)

// TestAddNode adds nodes to an organization as an operator would, and checks their files.
func TestAddNode(t *testing.T) {
	dir := t.TempDir()
	must := func(args ...string) string {
		t.Helper()
		code, out, errs := clitest.Call(t, testRoot, args...)
		if code != 0 {
			t.Fatalf("mlsfed %v: exit code %d: %s", args, code, errs)
		}
		return out
	}
	refused := func(want string, code int, args ...string) {
		t.Helper()
		if got, _, errs := clitest.Call(t, testRoot, args...); got != code || !strings.Contains(errs, want) {
			t.Errorf("mlsfed %v: exit code %d, wanted %d; said %q, wanted %q", args, got, code, errs, want)
		}
	}
	a, b, n2 := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "n2")
	of := filepath.Join(a, "mlsfed.yaml")
	must("init", "--domain", "a.example", "--dir", a)
	must("init", "--domain", "b.example", "--dir", b)
	must("peer", "add", filepath.Join(b, "bundle.json"), "-c", of)
	must("add-node", "n2.a.example", "--dir", n2, "--advertise", "n2.a.example:7443", "-c", of)

	cfg, err := config.Load(filepath.Join(n2, "mlsfed.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !cfg.OrdersOnly || cfg.Node != "n2.a.example" || cfg.Domain != "a.example" || cfg.Federation.Advertise != "n2.a.example:7443" {
		t.Errorf("configuration %+v", cfg)
	}
	id, err := organization.LoadIdentity(cfg.Identity)
	if err != nil {
		t.Fatal(err)
	}
	if id.Node != "n2.a.example" || id.Authority != nil {
		t.Errorf("the node is %s, and has the root key: %v", id.Node, id.Authority != nil)
	}
	if list := must("peer", "list", "-c", filepath.Join(n2, "mlsfed.yaml")); !strings.Contains(list, "b.example") {
		t.Errorf("it has not admitted whom its organization has: %s", list)
	}

	refused("exists already", 1, "add-node", "n2.a.example", "--dir", n2, "-c", of)
	refused("is not a node of a.example", 2, "add-node", "n2.b.example", "--dir", filepath.Join(dir, "x"), "-c", of)
	refused("is not a node of a.example", 2, "add-node", "N2", "--dir", filepath.Join(dir, "x"), "-c", of)
	refused("already: choose another name", 1, "add-node", "n1.a.example", "--dir", filepath.Join(dir, "x"), "-c", of)
	refused("wanted host:port", 2, "add-node", "n3.a.example", "--dir", filepath.Join(dir, "x"), "--advertise", ":7443", "-c", of)
	refused("root key", 1, "add-node", "n3.a.example", "--dir", filepath.Join(dir, "x"), "-c", filepath.Join(n2, "mlsfed.yaml"))
	if _, err := os.Stat(filepath.Join(dir, "x")); err == nil {
		t.Error("a refused call has left a folder")
	}
}

// testRoot returns the commands for operators alone.
func testRoot() *cobra.Command { return cli.Root(Commands("test")...) }
