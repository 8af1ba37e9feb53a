package config

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mlsfed.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestExampleHasEveryKey(t *testing.T) {
	c, err := Load(write(t, string(Example)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Domain != "a.example" || c.Gateway.Listen != ":8443" || c.Mailbox.Age.Std() != 30*24*time.Hour || c.Gateway.MaxFrame != 1152<<10 {
		t.Fatalf("loaded %+v", c)
	}
	var tree map[string]any
	if err := yaml.Unmarshal(Example, &tree); err != nil {
		t.Fatal(err)
	}
	keys := variables(c)
	have := make(map[string]bool)
	flatten(have, "MLSFED", tree)
	for name := range keys {
		if !have[name] {
			t.Errorf("the example lacks the key of %s", name)
		}
	}
	if len(have) != len(keys) {
		t.Errorf("%d keys in the example, %d in the structure", len(have), len(keys))
	}
}

func flatten(have map[string]bool, path string, tree map[string]any) {
	for key, v := range tree {
		name := path + "_" + strings.ToUpper(key)
		if sub, ok := v.(map[string]any); ok {
			flatten(have, name, sub)
		} else {
			have[name] = true
		}
	}
}

const least = "domain: b.example\nnode: n1.b.example\n"

func TestDefaultsAndPaths(t *testing.T) {
	path := write(t, least)
	c, err := Load(path, []string{"PATH=/bin", "MLSFED_LONG=short"})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(path)
	want := Default()
	want.Domain, want.Node = "b.example", "n1.b.example"
	want.Data, want.Identity, want.Admin.Socket = filepath.Join(dir, "data"), filepath.Join(dir, "data/identity"), filepath.Join(dir, "data/control.sock")
	want.Audit.Dir = filepath.Join(dir, "data/audit")
	if !reflect.DeepEqual(c, want) {
		t.Fatalf("loaded %+v, wanted %+v", c, want)
	}
}

func TestEnvironmentOverrides(t *testing.T) {
	c, err := Load(write(t, least+"gateway: {listen: ':1'}\n"), []string{
		"MLSFED_GATEWAY_LISTEN=127.0.0.1:2", "MLSFED_MAILBOX_AGE=2d", "MLSFED_FILES_TOTAL=2GiB", "MLSFED_MAILBOX_DROP_OLDEST=true",
		"MLSFED_GATEWAY_ORIGINS=https://a.example, https://b.example", "MLSFED_GATEWAY_FRAMES_PER_SECOND=2.5", "MLSFED_NODE=n2.b.example",
		"MLSFED_FEDERATION_ALLOW_NETWORKS=10.0.0.0/8,fd00:1::/32",
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.Gateway.Listen != "127.0.0.1:2" || c.Mailbox.Age != Duration(48*time.Hour) || c.Files.Total != 2<<30 || !c.Mailbox.DropOldest ||
		len(c.Gateway.Origins) != 2 || c.Gateway.FramesPerSecond != 2.5 || c.Node != "n2.b.example" ||
		fmt.Sprint(c.Federation.Networks()) != "[10.0.0.0/8 fd00:1::/32]" {
		t.Fatalf("loaded %+v", c)
	}
}

// TestVariablesOfOtherCommands: what 'read --exec' sets, and commands for people read, is no fault of a node's environment.
func TestVariablesOfOtherCommands(t *testing.T) {
	name := regexp.MustCompile(`"(MLSFED_[A-Z_]+)["=]`)
	met := 0
	err := filepath.WalkDir("../cmd/mlsfed", func(file string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") {
			return err
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for _, m := range name.FindAllStringSubmatch(string(text), -1) {
			met++
			if _, err := Load(write(t, least), []string{m[1] + "=" + "x"}); err != nil {
				t.Errorf("%s has %s: %v", file, m[1], err)
			}
		}
		return nil
	})
	if err != nil || met < 5 {
		t.Errorf("%d variables were found: %v", met, err)
	}
}

func TestFaultsAreNamed(t *testing.T) {
	cases := map[string]struct{ file, env, want string }{
		"unknown key with its line":   {least + "gateway:\n  lisen: ':1'\n", "", "line 4: lisen is no key"},
		"unknown variable":            {least, "MLSFED_GATEWAY_LISEN=:1", "MLSFED_GATEWAY_LISEN is the name of no key"},
		"bad value of a variable":     {least, "MLSFED_MAILBOX_AGE=soon", `MLSFED_MAILBOX_AGE: line 1: "soon" is not a duration`},
		"no domain":                   {"node: n1.b.example\n", "", "domain:"},
		"node of another":             {"domain: b.example\nnode: n1.c.example\n", "", "n1.c.example is not a node of b.example"},
		"bad duration with its line":  {least + "mailbox:\n  age: 5 minutes\n", "", `line 4: "5 minutes" is not a duration`},
		"negative duration":           {least + "mailbox: {age: -5m}\n", "", "is not a duration"},
		"bad size":                    {least + "mailbox: {bytes: 1TB}\n", "", `"1TB" is not a size`},
		"overflowing size":            {least + "mailbox: {bytes: 99999999999GiB}\n", "", "is not a size"},
		"list for a value":            {least + "mailbox: {bytes: [1]}\n", "", "wanted one value"},
		"bad address":                 {least + "gateway: {listen: '8443'}\n", "", `gateway.listen: "8443" is not an address`},
		"half a certificate":          {least + "gateway: {tls: {key: k.pem}}\n", "", "gateway.tls: wanted certificate and key"},
		"unknown log":                 {least + "consensus: {log: sqlite}\n", "", "wanted bolt or pebble"},
		"issuer without audience":     {least + "oidc: {url: 'https://i.example'}\n", "", "oidc.audience"},
		"unknown level":               {least + "log: {level: loud}\n", "", "log.level"},
		"unknown format":              {least + "log: {format: xml}\n", "", "log.format"},
		"frame smaller than an entry": {least + "gateway: {max_frame: 1KiB}\n", "", "gateway.max_frame: 1KiB, wanted 1MiB to 64MiB"},
		"negative number":             {least + "gateway: {window: -1}\n", "", "gateway.window: -1"},
		"a clock too far ahead":       {least + "consensus: {ahead: 25h}\n", "", "consensus.ahead: 25h0m0s, wanted 1s to 24h"},
		"no past epochs":              {least + "mailbox: {past_epochs: 1}\n", "", "mailbox.past_epochs: 1, wanted 2 to 65536"},
		"too many past epochs":        {least + "mailbox: {past_epochs: 65537}\n", "", "mailbox.past_epochs: 65537, wanted 2 to 65536"},
		"too many claims at once":     {least + "directory: {claim_pair_burst: 1048577}\n", "", "directory.claim_pair_burst: 1048577, wanted 1 to 1048576"},
		"claims that come too late":   {least + "directory: {claim_user_every: 61m}\n", "", "directory.claim_user_every: 1h1m0s, wanted 1ms to 1h"},
		"no network":                  {least + "federation: {allow_networks: [10.0.0.1]}\n", "", `federation.allow_networks: "10.0.0.1" is not a network`},
		"bits after a network":        {least + "federation: {allow_networks: [10.0.0.1/8]}\n", "", `federation.allow_networks: "10.0.0.1/8" is not a network`},
		"a network mapped into IPv6":  {least + "federation: {allow_networks: ['::ffff:10.0.0.0/104']}\n", "", "is not a network"},
		"too many networks":           {least + "federation: {allow_networks: [" + strings.Repeat("10.0.0.0/8, ", 257) + "]}\n", "", "federation.allow_networks: 257 networks, wanted at most 256"},
		"uploads below a file":        {least + "quota: {uploads: 1MiB}\n", "", "quota.uploads: 1MiB, wanted at least files.file, 256MiB"},
		"user below a device":         {least + "quota: {device: 2GiB, user: 1GiB}\n", "", "quota.user: 1GiB, wanted at least quota.device, 2GiB"},
		"reserve of the whole disk":   {least + "quota: {reserve_percent: 90.1}\n", "", "quota.reserve_percent: 90.1, wanted 0 to 90"},
		"negative reserve":            {least + "quota: {reserve_percent: -1}\n", "", "quota.reserve_percent: -1"},
		"negative founders":           {least + "quota: {conversations_per_user: -1}\n", "", "quota.conversations_per_user: -1"},
		"burst without a rate":        {least + "rates: {codes: {burst: 1, per_minute: 0}}\n", "", "rates.codes: burst 1 and none a minute"},
		"negative burst":              {least + "rates: {invitations: {burst: -1}}\n", "", "rates.invitations.burst: -1"},
		"keeps less than a policy":    {least + "consensus: {recent_bytes: 2047KiB}\n", "", "consensus.recent_bytes: 2047KiB, wanted 2MiB to 1GiB"},
		"keeps fewer than a policy":   {least + "consensus: {recent_entries: 255}\n", "", "consensus.recent_entries: 255, wanted 256 to"},
		"too many organizations":      {least + "consensus: {organizations: 257}\n", "", "consensus.organizations: 257, wanted 1 to 256"},
		"two documents":               {least + "---\n" + least, "", "more than one document"},
		"not YAML":                    {"{", "", "yaml"},
		"no data":                     {least + "data: ''\n", "", "data: wanted a folder"},
	}
	for name, c := range cases {
		_, err := Load(write(t, c.file), []string{c.env})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, wanted %q", name, err, c.want)
		}
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none"), nil); err == nil || !strings.Contains(err.Error(), "mlsfed init") {
		t.Errorf("no file: %v", err)
	}
	if _, err := Load(write(t, strings.Repeat("#\n", maxFile)), nil); err == nil {
		t.Error("a file over the limit is accepted")
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	err := (&Config{}).Validate()
	for _, key := range []string{"domain", "node", "data", "gateway.listen", "federation.listen", "consensus.log", "log.level", "log.format"} {
		if err == nil || !strings.Contains(err.Error(), key+":") {
			t.Errorf("%s is not among %v", key, err)
		}
	}
}

// TestWarnings checks that settings that weaken the node are reported, and that the default has none.
func TestWarnings(t *testing.T) {
	for file, want := range map[string]int{
		least: 0,
		least + "oidc: {url: 'https://i.example', audience: x}\n":                  0,
		least + "oidc: {bind_key: false}\n":                                        0, // there is no issuer
		least + "oidc: {url: 'https://i.example', audience: x, bind_key: false}\n": 1,
		least + "federation: {allow_networks: [10.0.0.0/8]}\n":                     0,
		least + "federation: {allow_networks: [0.0.0.0/0, '::/0']}\n":              2,
	} {
		c, err := Load(write(t, file), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Warnings(); len(got) != want {
			t.Errorf("%q: %v", file, got)
		}
	}
	c, err := Load(write(t, least+"directory: {claim_burst: 1048576, claim_every: 1h}\n"), nil)
	if err != nil {
		t.Errorf("claims at their bounds: %v (%+v)", err, c)
	}
}

func TestValuesRoundTrip(t *testing.T) {
	for _, s := range []Size{0, 1, 1023, 64 << 10, 1 << 20, 3 << 30} {
		var back Size
		if err := back.parse(s.String()); err != nil || back != s {
			t.Errorf("%d became %q, then %d (%v)", uint64(s), s, uint64(back), err)
		}
	}
	out, err := yaml.Marshal(Default())
	if err != nil {
		t.Fatal(err)
	}
	again := new(Config)
	if err := decode(out, again); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(again, Default()) {
		t.Fatalf("%+v came back as %+v", Default(), again)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(least))
	f.Add(Example)
	f.Fuzz(func(t *testing.T, b []byte) {
		c := Default()
		if len(b) > 1<<16 || decode(b, c) != nil {
			return
		}
		_ = c.Validate() // must not panic
	})
}
