package config

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// spelled returns the ways in which documents write a default.
func spelled(v reflect.Value) []string {
	switch x := v.Interface().(type) {
	case Size:
		s := x.String()
		return []string{strings.Replace(s, s[max(len(s)-3, 0):], " "+s[max(len(s)-3, 0):], 1), s}
	case Duration:
		d := x.Std()
		list := []string{d.String(), fmt.Sprintf("%g s", d.Seconds())}
		for unit, name := range map[time.Duration]string{time.Minute: "min", time.Hour: "h", 24 * time.Hour: "days"} {
			if d%unit == 0 {
				list = append(list, fmt.Sprintf("%d %s", d/unit, name))
			}
		}
		return list
	case Rate:
		list := []string{fmt.Sprintf("%s and %s a minute", group(x.Burst), group(int(x.PerMinute)))}
		if second := int(x.PerMinute) / 60; second == 1 {
			list = append(list, group(x.Burst)+" and one a second")
		} else if second > 0 {
			list = append(list, fmt.Sprintf("%s and %s a second", group(x.Burst), group(second)))
		}
		return list
	case float64:
		return []string{strconv.FormatFloat(x, 'g', -1, 64)}
	case bool:
		return []string{strconv.FormatBool(x)}
	}
	if v.CanInt() {
		return []string{group(int(v.Int()))}
	}
	if v.CanUint() {
		return []string{group(int(v.Uint()))}
	}
	return []string{v.String()}
}

// group formats 25001 as "25,001".
func group(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

var (
	keyName   = regexp.MustCompile("`([a-z_]+(?:\\.[a-z_]+)+)`")
	keyInline = regexp.MustCompile("`([a-z_]+(?:\\.[a-z_]+)+)` \\((\\d[^)]*)\\)")
	keySet    = regexp.MustCompile("`([a-z_]+(?:\\.[a-z_]+)+)`[^.`]{0,20}, ([a-z0-9]+) by default")
)

// TestDocumentsHaveTheDefaults compares the defaults in the documents with what 'mlsfed init' writes: in tables with
// a column "default", and in texts as "`key` (value".
func TestDocumentsHaveTheDefaults(t *testing.T) {
	values := make(map[string]reflect.Value)
	d := Default()
	leaves(d, func(key string, v reflect.Value) { values[key] = v })
	rates := reflect.ValueOf(d.Rates)
	for i := range rates.NumField() {
		values["rates."+rates.Type().Field(i).Tag.Get("yaml")] = rates.Field(i)
	}
	var files []string
	err := filepath.WalkDir("../docs", func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".md" {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatalf("documents %v, %v", files, err)
	}
	compared := 0
	check := func(file, key, text string) {
		v, ok := values[key]
		if !ok {
			t.Errorf("%s: %s is no key of the configuration", file, key)
			return
		}
		compared++
		if strings.HasSuffix(key, "_percent") {
			text = strings.TrimSuffix(text, "%")
		}
		if list := spelled(v); !slices.ContainsFunc(list, func(s string) bool {
			return text == s || strings.HasPrefix(text, s+" ") || strings.HasPrefix(text, s+",") || strings.HasPrefix(text, s+":")
		}) {
			t.Errorf("%s: %s is %q, the default is %q", file, key, text, list)
		}
	}
	for _, file := range append(files, "../README.md") {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		column := -1
		for line := range strings.Lines(string(raw)) {
			for _, m := range keyInline.FindAllStringSubmatch(line, -1) {
				check(file, m[1], m[2])
			}
			for _, m := range keySet.FindAllStringSubmatch(line, -1) {
				check(file, m[1], m[2])
			}
			if !strings.HasPrefix(line, "|") {
				column = -1
				continue
			}
			cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			if i := slices.Index(cells, "default"); i > 0 {
				column = i
			}
			keys := keyName.FindAllStringSubmatch(cells[0], -1)
			if column < 0 || column >= len(cells) || len(keys) == 0 {
				continue
			}
			sep := ", "
			if strings.Contains(cells[column], ";") {
				sep = "; "
			}
			parts := strings.Split(cells[column], sep)
			if len(keys) == 1 {
				parts = []string{cells[column]}
			}
			if len(parts) != len(keys) {
				t.Errorf("%s: %d keys and the defaults %q", file, len(keys), cells[column])
				continue
			}
			for i, k := range keys {
				check(file, k[1], strings.TrimSpace(parts[i]))
			}
		}
	}
	if compared < 20 {
		t.Errorf("%d values were compared", compared)
	}
}
