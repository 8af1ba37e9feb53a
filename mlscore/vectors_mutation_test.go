package mlscore

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// mutatedCase is the index of the case that TestVectorMutations changes in each file of the regression set, if it is
// not the first case: a case with more content.
var mutatedCase = map[string]int{
	"deserialization.json":        10,
	"passive-client-welcome.json": 5, // a PSK, and the tree outside of the Welcome
	"psk_secret.json":             2,
	"secret-tree.json":            1,
	"tree-math.json":              3,
	"tree-operations.json":        2, // an Update: the sender of an Add does not matter
	"tree-validation.json":        6, // blanks
	"treekem.json":                2,
}

// indifferent are mutations of those cases that change nothing.
var indifferent = map[string]*regexp.Regexp{
	// No commit of this walk uses the second PSK.
	"passive-client-random.json": regexp.MustCompile(`^\.external_psks\[1\]\.psk(_id)? (with|empty)`),
	// Only the first 32 bytes of a ciphertext are the sample.
	"secret-tree.json": regexp.MustCompile(`^\.sender_data\.ciphertext with (byte (39|78) changed|a byte more)$`),
}

// TestVectorMutations changes every value of a case of each kind, one at a time, and removes every field. It checks
// that every change is detected. Values that are only decoded and encoded again are cut short instead, since their
// content can be anything. With -short it makes a tenth of the changes.
func TestVectorMutations(t *testing.T) {
	for _, f := range vectorFiles {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			original := readCase(t, f.name, mutatedCase[f.name])
			requireOutcome(t, f.name, "as it is", original, true)
			n := 0
			for i, m := range mutationsOf(original, f.name == "messages.json") {
				if testing.Short() && i%10 > 0 {
					continue
				}
				without := indifferent[f.name]
				requireOutcome(t, f.name, m.what, m.data, without != nil && without.MatchString(m.what))
				n++
			}
			t.Logf("%d mutations", n)
		})
	}
}

func readCase(t *testing.T, file string, index int) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(regressionFolder, file))
	if err != nil {
		t.Fatal(err)
	}
	var cases []json.RawMessage
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	return cases[index]
}

func requireOutcome(t *testing.T, file, what string, data []byte, pass bool) {
	t.Helper()
	tallies, err := tallyVectors(file, slices.Concat([]byte("["), data, []byte("]")), nil)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if failed := tallies.failed(); (len(failed) == 0) != pass {
		t.Errorf("%s: passed is %v, %v", what, !pass, failed)
	}
}

type mutation struct {
	what string
	data []byte
}

// mutationsOf lists the changed versions of a JSON document.
func mutationsOf(data []byte, cut bool) []mutation {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var root any
	if err := d.Decode(&root); err != nil {
		panic(err)
	}
	w := &mutator{root: root, cut: cut}
	w.walk("", root, func(any) {})
	return w.list
}

// mutator changes the values of a document one after the other, and restores each.
type mutator struct {
	root any
	cut  bool
	list []mutation
}

func (w *mutator) record(what string) {
	data, err := json.Marshal(w.root)
	if err != nil {
		panic(err)
	}
	w.list = append(w.list, mutation{what, data})
}

// try records the document with v in a place that holds old.
func (w *mutator) try(what string, old, v any, set func(any)) {
	set(v)
	w.record(what)
	set(old)
}

func (w *mutator) walk(path string, v any, set func(any)) {
	switch v := v.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			field := v[name]
			delete(v, name)
			w.record(path + "." + name + " taken away")
			v[name] = field
			w.walk(path+"."+name, field, func(x any) { v[name] = x })
		}
		v["surplus"] = 1
		w.record(path + " with a field too many")
		delete(v, "surplus")
	case []any:
		for _, i := range places(len(v)) {
			w.walk(fmt.Sprintf("%s[%d]", path, i), v[i], func(x any) { v[i] = x })
		}
	case json.Number:
		other := plusOne(string(v))
		if path == ".cipher_suite" {
			other = "7" // has nothing in common with suite 1, unlike suite 2
		}
		w.try(path+" "+other, v, json.Number(other), set)
		for _, large := range []string{"65535", "4294967295", "18446744073709551615", "-1"} {
			w.try(path+" "+large, v, json.Number(large), set)
		}
		w.try(path+" null", v, nil, set)
	case nil:
		w.try(path+" no longer null", v, "00", set)
		w.try(path+" 0", v, 0, set)
	case string:
		w.mutateString(path, v, set)
	}
}

// places returns indices of a list: for a long list, those at its ends and some in the middle.
func places(n int) []int {
	var list []int
	for i := range n {
		if i < 3 || i >= n-3 || i == n/2 {
			list = append(list, i)
		}
	}
	return list
}

func plusOne(number string) string {
	var n uint64
	if _, err := fmt.Sscan(number, &n); err != nil {
		panic(err)
	}
	return fmt.Sprint(n + 1)
}

func (w *mutator) mutateString(path, v string, set func(any)) {
	w.try(path+" null", v, nil, set)
	w.try(path+" no string", v, 5, set)
	if v != "" {
		w.try(path+" empty", v, "", set)
	}
	b, err := hex.DecodeString(v)
	switch {
	case err != nil || len(b) == 0:
		w.try(path+" longer", v, v+"x", set)
	case w.cut:
		w.try(path+" cut short", v, v[:len(v)-2], set)
		w.try(path+" with a byte more", v, v+"00", set)
		w.try(path+" with half a byte more", v, v+"0", set)
	default:
		for _, at := range slices.Compact([]int{0, len(b) / 4, len(b) / 2, len(b) - 1}) {
			changed := bytes.Clone(b)
			changed[at] ^= 0x10
			w.try(fmt.Sprintf("%s with byte %d changed", path, at), v, hex.EncodeToString(changed), set)
		}
		w.try(path+" with a byte more", v, v+"01", set) // HMAC pads keys with zeros
	}
}

// TestVerifyVectorsErrors checks that a file that cannot be read as test vectors gives an error and never passes.
func TestVerifyVectorsErrors(t *testing.T) {
	for _, c := range []struct {
		name, data string
		kind       error
	}{
		{"unknown.json", "[{}]", ErrUnsupported},
		{"", "[{}]", ErrUnsupported},
		{"/some/folder/treekem/x.json", "[{}]", ErrUnsupported},
		{"treekem.json", "", ErrMalformed},
		{"treekem.json", "{}", ErrMalformed},
		{"treekem.json", "[]", ErrMalformed},
		{"treekem.json", "null", ErrMalformed},
		{"treekem.json", "[{}", ErrMalformed},
		{"treekem.json", "[{}] x", ErrMalformed},
	} {
		_, err := tallyVectors(c.name, []byte(c.data), nil)
		requireKind(t, err, c.kind)
	}
	for _, c := range []struct{ name, data string }{
		{"welcome.json", `{"cipher_suite": 8}`},
		{"welcome.json", `{"cipher_suite": 65537}`},
		{"welcome.json", `{"cipher_suite": "1"}`},
		{"welcome.json", `{"cipher_suite": null}`},
		{"welcome.json", `{"cipher_suite": 1}`},
		{"welcome.json", `{}`},
		{"welcome.json", `1`},
		{"welcome.json", `null`},
		{"messages.json", `{}`},
		{"messages.json", `null`},
		{"tree-math.json", `{"n_leaves": 4294967295, "n_nodes": 1, "root": 0, "left": [], "right": [], "parent": [], "sibling": []}`},
		{"tree-math.json", `{"n_leaves": 0, "n_nodes": 1, "root": 0, "left": [null], "right": [null], "parent": [null], "sibling": [null]}`},
	} {
		requireOutcome(t, c.name, c.name+" "+c.data, []byte(c.data), false)
	}
}

// FuzzVerifyVectors checks that no file of test vectors makes the verifier panic.
func FuzzVerifyVectors(f *testing.F) {
	for i, file := range vectorFiles {
		data, err := os.ReadFile(filepath.Join(regressionFolder, file.name))
		if err != nil {
			f.Fatal(err)
		}
		var cases []json.RawMessage
		if err := json.Unmarshal(data, &cases); err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), []byte(cases[0]))
	}
	f.Fuzz(func(t *testing.T, file uint8, data []byte) {
		name := vectorFiles[int(file)%len(vectorFiles)].name
		tallies, err := tallyVectors(name, slices.Concat([]byte("["), data, []byte("]")), nil)
		if err == nil && len(tallies) == 0 {
			t.Error("neither an error nor a case")
		}
	})
}
