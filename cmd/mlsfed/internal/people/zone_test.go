package people

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
)

// TestZoneIsThatOfTheVariable checks that TZ is read as package time reads it for its own process.
func TestZoneIsThatOfTheVariable(t *testing.T) {
	at := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte("no zone"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"": "12:00", "UTC": "12:00", "Asia/Tokyo": "21:00", ":Asia/Kathmandu": "17:45", "America/New_York": "08:00",
		"Nowhere/City": "12:00", "../../etc/passwd": "12:00", bad: "12:00", dir: "12:00", "/dev/zero": "12:00",
	} {
		if got := at.In(zoneOf(name, true)).Format("15:04"); got != want {
			t.Errorf("TZ=%s: %s, wanted %s", name, got, want)
		}
	}
	if got, want := at.In(zoneOf("", false)).Format("15:04"), at.In(zoneIn(zoneFile, "Local")).Format("15:04"); got != want {
		t.Errorf("without TZ: %s, wanted %s", got, want)
	}
}

// serveGuest runs a command in the holder and returns all of its output.
func serveGuest(t *testing.T, conn *agentConn, zone string, args ...string) string {
	t.Helper()
	f := command(args...)
	f.Request.Zone, f.Request.HasZone = []byte(zone), true
	if f = asked(t, conn, f); f.Kind != agentTaken {
		t.Fatalf("%q: %+v", args, f)
	}
	var printed strings.Builder
	for {
		f, err := conn.readWithin(time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		switch f.Kind {
		case agentOut, agentErr:
			printed.Write(f.Data)
		case agentFlush:
			if err := conn.write(&agentFrame{Kind: agentFlushed}); err != nil {
				t.Fatal(err)
			}
		case agentEnded:
			return printed.String()
		}
	}
}

// TestGuestSeesTimesInItsOwnZone checks that a guest's output and arguments use the guest's own zone, for any zone of
// the process that runs its commands.
func TestGuestSeesTimesInItsOwnZone(t *testing.T) {
	p, id, dial := held(t)
	if _, err := p.SendText(t.Context(), id, "hello"); err != nil {
		t.Fatal(err)
	}
	page, err := p.History(t.Context(), id, client.Query{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	m := page.Messages[0]
	shown := make(map[string]bool)
	for _, zone := range []string{"Asia/Tokyo", "America/New_York", "UTC"} {
		there := zoneOf(zone, true)
		want := m.Time.In(there).Format("2006-01-02 15:04")
		if got := serveGuest(t, dial(), zone, "read", id.String(), "--offline"); !strings.HasPrefix(got, want) {
			t.Errorf("in %s %q is printed, wanted %s", zone, got, want)
		}
		shown[want] = true
		since := m.Stored.In(there).Add(-2 * time.Minute).Format("2006-01-02 15:04")
		if got := serveGuest(t, dial(), zone, "read", id.String(), "--offline", "--since", since); !strings.Contains(got, "hello") {
			t.Errorf("in %s, since %s: %q", zone, since, got)
		}
		later := m.Stored.In(there).Add(2 * time.Minute).Format("2006-01-02 15:04")
		if got := serveGuest(t, dial(), zone, "read", id.String(), "--offline", "--since", later); strings.Contains(got, "hello") {
			t.Errorf("in %s, since %s: %q", zone, later, got)
		}
	}
	if len(shown) != 3 {
		t.Errorf("three zones show %v", shown)
	}
}

// TestGuestsTerminalIsItsOwn checks that the height of a guest's terminal decides where a QR code stays, and that its
// ~ is the guest's home folder.
func TestGuestsTerminalIsItsOwn(t *testing.T) {
	g := &guest{request: &agentRequest{Height: 12, Home: []byte("/home/guest")}, zone: time.UTC}
	p := &Person{guest: g}
	if p.height() != 12 || p.HomePath("~/a") != "/home/guest/a" {
		t.Errorf("height %d, %s", p.height(), p.HomePath("~/a"))
	}
}
