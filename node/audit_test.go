package node

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/internal/audit"
	"github.com/mlsfed/mlsfed/wire"
)

// TestLinksFillNoAuditLog checks that an organization that closes and opens its link without end gets a bounded
// number of records, and takes no records from another organization.
func TestLinksFillNoAuditLog(t *testing.T) {
	cfg := config.Default()
	cfg.Data = t.TempDir()
	a, err := newAuditor(cfg, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	const flaps = 200
	for range flaps {
		a.link("n1.a.example", "n1.b.example", true, "")
		a.link("n1.a.example", "n1.b.example", false, "closed")
	}
	a.link("n1.a.example", "n1.c.example", true, "")
	a.flush()
	by := make(map[string]int)
	if _, err := audit.Verify(AuditFolder(cfg), func(r *audit.Record) error { by[r.On]++; return nil }); err != nil {
		t.Fatal(err)
	}
	if by["n1.b.example"] < linkRate.Burst || by["n1.b.example"] > linkRate.Burst+2 || by["n1.c.example"] != 1 {
		t.Errorf("records %v, wanted about %d of b and 1 of c", by, linkRate.Burst)
	}
	// With a full bucket again, the next record counts the records that were left out.
	a.links["b.example"].rate = linkRecords{}.rate
	a.link("n1.a.example", "n1.b.example", true, "")
	a.flush()
	var last *audit.Record
	if _, err := audit.Verify(AuditFolder(cfg), func(r *audit.Record) error { last = r; return nil }); err != nil {
		t.Fatal(err)
	}
	if last.With["left_out_before"] == "" {
		t.Errorf("%+v does not count what was left out", last)
	}
}

// TestUnwrittenActIsCounted checks that an act that cannot be recorded is counted, and does not fail.
func TestUnwrittenActIsCounted(t *testing.T) {
	cfg := config.Default()
	cfg.Data = t.TempDir()
	a, err := newAuditor(cfg, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.Data, auditFolder), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a.note(audit.UserInvited, byDevice(wire.DeviceID("mimi://a.example/d/alice/phone")), "x", nil)
	if a.failed.Load() != 1 || a.head.Load() != nil {
		t.Errorf("%d failures, head %v", a.failed.Load(), a.head.Load())
	}
}
