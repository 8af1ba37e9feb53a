package core

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
)

// TestBenchCore runs the benchmark with small groups. It checks that every figure that docs/performance.md names is
// there, that the figures that do not depend on the machine are right, and that the chart is an image.
func TestBenchCore(t *testing.T) {
	chart := filepath.Join(t.TempDir(), "cost.svg")
	var out, log bytes.Buffer
	args := []string{"core", "--json", "--sizes", "10,100", "--bulk", "5", "--suites", "1,0xf001", "--suite-sizes", "100", "--chart", chart}
	if code := cli.Run(t.Context(), testRoot, args, &out, &log); code != 0 {
		t.Fatalf("code %d: %s", code, log.String())
	}
	type place struct {
		name     string
		suite, n int
	}
	rows := map[place][]harness.Row{}
	for d := json.NewDecoder(&out); ; {
		var r harness.Row
		if err := d.Decode(&r); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		at := place{r.Name, int(r.Suite), r.N}
		rows[at] = append(rows[at], r)
	}
	for _, name := range strings.Fields(`commit process join bulk-add commit-unmerged protect unprotect heap state-written commit-bytes
		commit/floor process/floor join/floor bulk-add/floor commit-unmerged/floor protect/floor unprotect/floor
		pairwise/computed sender-keys/computed pairwise-bytes/computed sender-keys-bytes/computed`) {
		for _, n := range []int{10, 100} {
			list := rows[place{name, 1, n}]
			if len(list) == 0 || slices.ContainsFunc(list, func(r harness.Row) bool {
				return r.Value <= 0 && name != "heap" || r.Unit == "" || (r.Against == "") != (r.Ratio == 0)
			}) {
				t.Errorf("%s of %d members: %+v", name, n, list)
			}
		}
	}
	for _, want := range []struct {
		place
		value float64
	}{
		{place{"commit-bytes", 1, 100}, 1183},
		{place{"commit-bytes", 0xf001, 100}, 18288},
		{place{"pairwise-bytes/computed", 1, 10}, 9 * 80},
		{place{"sender-keys-bytes/computed", 1, 10}, 10 * 9 * 80},
	} {
		if list := rows[want.place]; len(list) == 0 || list[0].Value != want.value {
			t.Errorf("%+v: %+v, want %v", want.place, list, want.value)
		}
	}
	for _, name := range strings.Fields("keypackage-bytes welcome-bytes tree-bytes commit process join protect unprotect") {
		if len(rows[place{name, 0xf001, 100}]) != 1 {
			t.Errorf("%s of 0xf001: %+v", name, rows[place{name, 0xf001, 100}])
		}
	}
	image, err := os.ReadFile(chart)
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for d := xml.NewDecoder(bytes.NewReader(image)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the chart: %v", err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "polyline" {
			lines++
		}
	}
	if want := len(costLines) + len(byteLines); lines != want || bytes.Contains(image, []byte("NaN")) {
		t.Errorf("the chart has %d lines, want %d", lines, want)
	}
}

// TestBenchCoreRefuses checks that flags which cannot be measured are a usage error before anything is measured.
func TestBenchCoreRefuses(t *testing.T) {
	for _, args := range [][]string{
		{"--sizes", "1"}, {"--sizes", "0", "--suites", "none", "--chart", "x.svg"}, {"--suites", "1,0x9999"}, {"--suite", "nothing"}, {"--suite-sizes", "1"},
	} {
		var out, log bytes.Buffer
		if code := cli.Run(t.Context(), testRoot, append([]string{"core"}, args...), &out, &log); code == 0 || out.Len() > 0 && strings.Contains(out.String(), " ms ") {
			t.Errorf("%v: code %d, %s", args, code, out.String())
		}
	}
}

// TestChartLabels checks that labels keep the order of their lines and a distance, and stay in the chart.
func TestChartLabels(t *testing.T) {
	y := func(v float64) float64 { return 100 - v }
	for _, values := range [][]float64{{1}, {50, 50, 50}, {0, 0, 1, 2}, {100, 99, 98, 0}, {3, 1, 2}} {
		at := apart(values, y, 0, 100)
		for i := range at {
			if at[i] < -1e-9 || at[i] > 100+1e-9 {
				t.Errorf("%v: %v is outside of the chart", values, at)
			}
			for k := range at {
				if values[i] > values[k] && at[i] > at[k]-labelGap+1e-9 {
					t.Errorf("%v: %v has labels too close, or in another order", values, at)
				}
			}
		}
	}
}

// testRoot returns this benchmark alone.
func testRoot() *cobra.Command { return cli.Root(Command()) }
