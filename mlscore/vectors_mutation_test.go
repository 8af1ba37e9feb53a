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
	"strings"
	"testing"
)

// mutatedCase is the case of each file of the regression set that TestVectorMutations changes, where it
// is not the first: one with more in it.
var mutatedCase = map[string]int{
	"deserialization.json":        10,
	"passive-client-welcome.json": 5, // a PSK, and the tree beside the Welcome
	"psk_secret.json":             2,
	"secret-tree.json":            1,
	"tree-math.json":              3,
	"tree-operations.json":        2, // an Update: of an Add it does not matter who sent it
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

// TestVectorMutations changes every value of a case of each kind, one at a time, and takes every field
// away: no change may go unnoticed. What is only decoded and encoded again is cut short instead, since
// it may say anything. With -short a tenth of the changes is made.
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
	r, err := VerifyVectors(file, slices.Concat([]byte("["), data, []byte("]")), nil)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if passed := r.Failed() == 0; passed != pass {
		t.Errorf("%s: passed is %v, %v", what, passed, r.Suites)
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

// mutator changes one place of a document after the other, and puts each back.
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

// try records the document with v in a place, which held old.
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
			other = "7" // has nothing in common with suite 1, where 2 has
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

// places takes a long list's ends and some of its middle.
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

// TestVerifyVectorsErrors: what cannot be read as test vectors is an error, never a pass.
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
		_, err := VerifyVectors(c.name, []byte(c.data), nil)
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

// TestVerifyVectorsReport: a report counts by suite, quotes three failures, and progress hears of all.
func TestVerifyVectorsReport(t *testing.T) {
	good := string(readCase(t, "psk_secret.json", 0))
	bad := strings.Replace(good, `"psks":[]`, `"psks":[{"psk_id":"","psk":"","psk_nonce":""}]`, 1)
	if good == bad {
		t.Fatal("the case is not without PSKs")
	}
	other := strings.Replace(bad, `"cipher_suite":1`, `"cipher_suite":9`, 1)
	var heard []int
	cases := "[" + strings.Join([]string{other, bad, good, bad, bad, good, bad}, ",") + "]"
	r, err := VerifyVectors("folder/psk_secret-x.json", []byte(cases), func(c VectorCase) {
		if c.Err != nil {
			heard = append(heard, c.Index)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Format != "psk_secret" || r.Passed() != 2 || r.Failed() != 5 || len(r.Suites) != 2 {
		t.Errorf("%+v", r)
	}
	if s := r.Suites[0]; s.Suite != 1 || s.Passed != 2 || s.Failed != 4 || len(s.First) != 3 || s.First[2].Index != 4 {
		t.Errorf("suite 1: %+v", s)
	}
	if s := r.Suites[1]; s.Suite != 9 || s.Failed != 1 {
		t.Errorf("suite 9: %+v", s)
	}
	if !slices.Equal(heard, []int{0, 1, 3, 4, 6}) {
		t.Errorf("progress heard of failures %v", heard)
	}
}

// FuzzVerifyVectors: no file of test vectors makes the verifier panic.
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
		r, err := VerifyVectors(name, slices.Concat([]byte("["), data, []byte("]")), nil)
		if err == nil && r.Passed()+r.Failed() == 0 {
			t.Error("neither an error nor a case")
		}
	})
}
