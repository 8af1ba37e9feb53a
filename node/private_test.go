//go:build unix

package node

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/federation/organization"
)

// openFolders returns a node's configuration whose folders and keys other users can read.
func openFolders(t *testing.T) *config.Config {
	t.Helper()
	cfg := config.Default()
	cfg.Domain, cfg.Node = "a.example", "n1.a.example"
	cfg.Gateway.Listen, cfg.Federation.Listen = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Data = filepath.Join(t.TempDir(), "data")
	cfg.Identity = filepath.Join(cfg.Data, "identity")
	cfg.Admin.Socket = filepath.Join(cfg.Data, "control.sock")
	if err := organization.Init(cfg.Identity, organization.InitOptions{Domain: cfg.Domain, Node: cfg.Node}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(cfg.Data, 0o755), os.Chmod(cfg.Identity, 0o750)); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// TestOpenFoldersAreNarrowed checks that a start removes the access of other users to data and identity, and reports
// it.
func TestOpenFoldersAreNarrowed(t *testing.T) {
	cfg := openFolders(t)
	key := filepath.Join(cfg.Identity, "root.key")
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	if open := CheckPrivate(cfg); len(open) != 3 {
		t.Errorf("found %v", open)
	}
	if n, err := New(cfg, Options{}); err == nil {
		_ = n.opened.close()
		t.Error("started with a root key that others may have read")
	}
	if err := errors.Join(os.Chmod(key, 0o600), os.Chmod(cfg.Data, 0o755), os.Chmod(cfg.Identity, 0o750)); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	n, err := New(cfg, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer n.opened.close()
	if open := CheckPrivate(cfg); len(open) != 0 {
		t.Errorf("still open: %v", open)
	}
	if got := strings.Count(log.String(), "was open to other users"); got != 2 {
		t.Errorf("%d lines of it in %s", got, log.String())
	}
	if info, err := os.Stat(cfg.Admin.Socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info, err)
	}
}

// TestFoldersOfOthersRefused checks that a node does not start on a folder that another user can change.
func TestFoldersOfOthersRefused(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may use what others own: private.TestForeignOwnerRefused tries it as another user")
	}
	cfg := openFolders(t)
	if err := os.Remove(cfg.Identity); err != nil {
		_ = os.RemoveAll(cfg.Identity)
	}
	cfg.Identity = "/etc" // root owns it, and it is open: its access cannot be narrowed
	if _, err := New(cfg, Options{}); err == nil || !strings.Contains(err.Error(), "is open to other users") {
		t.Errorf("started: %v", err)
	}
}
