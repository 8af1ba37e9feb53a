package people

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/zalando/go-keyring"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

func TestErrorsAreInWords(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{wire.Errorf(wire.NotFound, "claim", "mimi://b.example/u/bob"), "not found: bob@b.example"},
		{wire.Errorf(wire.Denied, "enrol", "the invitation was used: ask for a new one"), "the invitation was used: ask for a new one"},
		{fmt.Errorf("keyMaterial: %w", wire.Errorf(wire.Busy, "claim", "mimi://a.example/d/alice/phone claims too fast")), "alice@a.example/phone claims too fast"},
		{&wire.Error{Code: wire.NoQuorum, Text: "no majority", Nodes: []wire.NodeID{"n1.a.example"}}, "too few nodes that vote on the conversation can be reached: it waits for a.example"},
		{wire.Errorf(wire.NoQuorum, "submit", "no majority (wake: node n1.a.example was restored from a backup and held the only vote of x)"), "the conversation is stopped: a.example, which votes on it, was restored from a backup. The operator of another organization in it brings it on, with 'mlsfed recover'"},
		{wire.Errorf(wire.Unavailable, "wake", "node n1.a.example was restored from a backup and held the only vote of x"), "the conversation is stopped: a.example, which votes on it, was restored from a backup. The operator of another organization in it brings it on, with 'mlsfed recover'"},
		{wire.Errorf(wire.Unavailable, "claim", "n1.b.example cannot be reached: dial tcp 127.0.0.1:7444: connect: connection refused"), "b.example cannot be reached now: try again later"},
		{wire.Errorf(wire.NotAdmitted, "claim", "z.example is not in the allow-list"), "your organization does not talk to z.example: ask its operator"},
		{wire.Errorf(wire.NotAdmitted, "claim", "n1.z.example: z.example is suspended"), "your organization does not talk to z.example: ask its operator"},
		{fmt.Errorf("proposal 0: refused by the application: mimi://b.example/d/bob/phone may not remove mimi://c.example/d/carol/phone [%w, RFC 9420 §12.2]", mlscore.ErrPolicy),
			"bob@b.example/phone may not remove carol@c.example/phone"},
		{wire.Errorf(wire.NoneLeft, "claim", "no device of mimi://b.example/u/bob has a KeyPackage of MLS_128"), "no device of bob@b.example can be added now: try again when one was online"},
		{wire.NoneLeft, wire.NoneLeft.Error()},
		{os.ErrNotExist, os.ErrNotExist.Error()},
	} {
		if got := cli.Plain(c.err).Error(); got != c.want {
			t.Errorf("%v: got %q, want %q", c.err, got, c.want)
		}
	}
	if err := cli.Plain(wire.Errorf(wire.NotFound, "claim", "x")); wire.CodeOf(err) != wire.NotFound {
		t.Errorf("the code is lost: %v", wire.CodeOf(err))
	}
}

// TestTextOfOthersCannotMoveTheCursor checks that text of others has no control characters left. It also checks that
// normal text is not changed.
func TestTextOfOthersCannotMoveTheCursor(t *testing.T) {
	for s, want := range map[string]string{
		"Grüße, 世界 👋\nsecond\tline": "Grüße, 世界 👋\nsecond\tline",
		"\x1b[2Jgone":               "�[2Jgone",
		"a\rb\x7f\u009b31m":         "a�b��31m",
		"\u202etxt.exe":             "�txt.exe",
	} {
		if got := cli.Clean(s); got != want {
			t.Errorf("clean(%q) = %q, want %q", s, got, want)
		}
	}
}

func TestNameOfAFileStaysInItsFolder(t *testing.T) {
	for s, want := range map[string]string{
		"menu.pdf": "menu.pdf", "../../etc/passwd": "passwd", `..\..\boot.ini`: "boot.ini", ".bashrc": "bashrc", "-rf": "rf",
		"..": "file", "": "file", "a\nb": "a_b", "C:x": "C_x", "a/": "a",
	} {
		if got := safeName(s); got != want || filepath.Base(got) != got {
			t.Errorf("safeName(%q) = %q, want %q", s, got, want)
		}
	}
}

func TestSinceIsATimeOrAnAge(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local)
	for s, want := range map[string]time.Time{
		"": {}, "90m": now.Add(-90 * time.Minute), "2026-02-28": time.Date(2026, 2, 28, 0, 0, 0, 0, time.Local),
		"2026-02-28 09:30": time.Date(2026, 2, 28, 9, 30, 0, 0, time.Local), "2026-02-28T09:30:00Z": time.Date(2026, 2, 28, 9, 30, 0, 0, time.UTC),
	} {
		if got, err := parseSince(s, now); err != nil || !got.Equal(want) {
			t.Errorf("parseSince(%q) = %v, %v, want %v", s, got, err, want)
		}
	}
	if _, err := parseSince("yesterday", now); err == nil {
		t.Error("yesterday was understood")
	}
}

func TestProfilesAreFoundAndChosen(t *testing.T) {
	home := t.TempDir()
	t.Setenv("MLSFED_HOME", home)
	make := func(user, device string, enrolled bool) string {
		u, err := wire.NewUserID("a.example", user)
		if err != nil {
			t.Fatal(err)
		}
		id, err := wire.NewDeviceID(u, device)
		if err != nil {
			t.Fatal(err)
		}
		dir, err := profileDir(id)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		p := &profile{dir: dir, profileSettings: profileSettings{Version: profileVersion, Device: id, Key: keyPlace{In: keyInFile}, Enrolled: enrolled}}
		if err := p.write(); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	find := func(named, want, wantErr string) {
		t.Helper()
		p, err := findProfile(named)
		switch {
		case wantErr != "" && (err == nil || !strings.Contains(err.Error(), wantErr)):
			t.Errorf("findProfile(%q): got %v, want an error with %q", named, err, wantErr)
		case wantErr == "" && (err != nil || p.dir != want):
			t.Errorf("findProfile(%q) = %v, %v, want %s", named, p, err, want)
		}
	}
	find("", "", "mlsfed login LINK")
	phone := make("alice", "phone", true)
	tried := make("alice", "tablet", false)
	find("", phone, "")
	find("alice@a.example", phone, "")
	find(phone, phone, "")
	find(tried, "", "was never enrolled")
	find("bob@a.example", "", "no device is enrolled in bob@a.example")
	laptop := make("alice", "laptop", true)
	find("", "", "2 devices are enrolled here: choose one with --profile: alice@a.example/laptop, alice@a.example/phone")
	find("alice@a.example/laptop", laptop, "")
	if err := os.WriteFile(filepath.Join(laptop, profileFile), []byte(`{"version": 99}`), 0o600); err != nil {
		t.Fatal(err)
	}
	find(laptop, "", "version 99")
}

func TestKeyOfAStoreIsInTheKeyringOrAFile(t *testing.T) {
	keyring.MockInit()
	for _, c := range []struct{ wanted, bus, in string }{
		{"", "unix:path=/run/bus", keyInKeyring}, {keyInKeyring, "unix:path=/run/bus", keyInKeyring}, {keyInFile, "unix:path=/run/bus", keyInFile},
	} {
		t.Setenv("DBUS_SESSION_BUS_ADDRESS", c.bus)
		p := &profile{dir: t.TempDir(), profileSettings: profileSettings{Version: profileVersion, Device: "mimi://a.example/d/alice/phone"}}
		if err := choosePlace(p, c.wanted, ""); err != nil || p.Key.In != c.in {
			t.Fatalf("--key %q: the key is in %q, %v, want %q", c.wanted, p.Key.In, err, c.in)
		}
		for _, enrolled := range []bool{false, true} { // the second pass opens what the first has created
			p.Enrolled = enrolled
			store, err := openStore(p, "")
			if err != nil {
				t.Fatalf("--key %q: %v", c.wanted, err)
			}
			if _, err := openStore(p, ""); err == nil || !strings.Contains(err.Error(), "is in use by another mlsfed") {
				t.Errorf("a second process: got %v, want an error that says that the profile is in use", err)
			}
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if c.in == keyInFile {
			if info, err := os.Stat(p.keyFile()); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the key's file: %v, %v, want mode 0600", info, err)
			}
			if err := os.Remove(p.keyFile()); err != nil {
				t.Fatal(err)
			}
		} else if err := p.forgetKey(); err != nil {
			t.Fatal(err)
		}
		if _, err := openStore(p, ""); err == nil || !strings.Contains(err.Error(), "key") {
			t.Errorf("--key %q, without the key: got %v, want an error that names it", c.wanted, err)
		}
	}
}

func TestKeyringThatRefusesIsReported(t *testing.T) {
	keyring.MockInitWithError(keyring.ErrUnsupportedPlatform)
	t.Cleanup(keyring.MockInit)
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/run/bus")
	p := &profile{dir: t.TempDir(), profileSettings: profileSettings{Device: "mimi://a.example/d/alice/phone"}}
	if err := choosePlace(p, keyInKeyring, ""); err == nil || !strings.Contains(err.Error(), "--key file") {
		t.Errorf("got %v, want an error that names --key file", err)
	}
	if err := choosePlace(p, "", ""); err != nil || p.Key.In != keyInFile {
		t.Errorf("without a wish: the key is in %q, %v, want a file", p.Key.In, err)
	}
}

// TestTwoOrganizationsAreNamed checks the remark on a conversation of two organizations.
func TestTwoOrganizationsAreNamed(t *testing.T) {
	members := func(domains ...wire.Domain) (list []client.Member) {
		for _, d := range domains {
			list = append(list, client.Member{Organization: d})
		}
		return list
	}
	for _, c := range []struct {
		members []client.Member
		witness wire.Domain
		named   bool
	}{
		{members("a.example"), "", false}, {members("a.example", "b.example", "b.example"), "", true},
		{members("a.example", "b.example"), "w.example", false}, {members("a.example", "b.example", "c.example"), "", false},
	} {
		if got := oneVote(c.members, c.witness, "a.example"); (got != "") != c.named {
			t.Errorf("%v with witness %q: %q", c.members, c.witness, got)
		}
	}
}

// testRoot returns the commands for people alone.
func testRoot() *cobra.Command { return cli.Root(Commands()...) }
