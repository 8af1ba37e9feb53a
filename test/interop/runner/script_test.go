package runner

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const folder = "../scenarios"

// TestParse checks that a script file with an unknown part is refused.
func TestParse(t *testing.T) {
	for name, c := range map[string]struct{ file, say string }{
		"no JSON":              {`scripts`, "invalid character"},
		"no scripts":           {`{"scripts":{}}`, "no scripts"},
		"nothing":              {`{}`, "no scripts"},
		"an unknown field":     {`{"scripts":{"a":[{"action":"commit","actr":"ann"}]}}`, "actr"},
		"an unknown action":    {`{"scripts":{"a":[{"action":"dance","actor":"ann"}]}}`, `"dance" is not known`},
		"no steps":             {`{"scripts":{"a":[]}}`, "no steps"},
		"a step to come":       {`{"scripts":{"a":[{"action":"unprotect","actor":"ann","ciphertext":1}]}}`, "refers to step 1"},
		"a step before":        {`{"scripts":{"a":[{"action":"commit","actor":"ann","byReference":[-1]}]}}`, "refers to step -1"},
		"a proposal's step":    {`{"scripts":{"a":[{"action":"commit","actor":"ann","byValue":[{"proposalType":"add","keyPackage":7}]}]}}`, "refers to step 7"},
		"something behind":     {`{"scripts":{"a":[{"action":"commit","actor":"ann"}]}} {}`, "follows"},
		"a description's step": {`{"scripts":{"a":[{"action":"externalSignerProposal","actor":"ann","description":{"pskID":3}}]}}`, "refers to step 3"},
	} {
		if _, err := Parse([]byte(c.file)); err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: %v, want %q", name, err, c.say)
		}
	}
}

// TestScriptsCoverActions checks that our own scripts have steps of every kind.
func TestScriptsCoverActions(t *testing.T) {
	used := map[string]bool{}
	files, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		scripts, err := ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range scripts {
			for _, step := range s.Steps {
				used[step.Action] = true
			}
		}
	}
	for action := range actions {
		if !used[action] {
			t.Errorf("no script has a step %q", action)
		}
	}
}

// TestActors checks that every actor that a step names has a role.
func TestActors(t *testing.T) {
	list, err := Parse([]byte(`{"scripts":{"a":[{"action":"reinit","actor":"a","members":["b","a"],"joiner":"c","joiners":["d"],"clients":["e"],
		"signer":"f","member":"g","proposer":"h","committer":"i","welcomer":"j"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := list[0].Actors(); !slices.Equal(got, strings.Split("a b c d e f g h i j", " ")) {
		t.Errorf("actors %v", got)
	}
}

// FuzzParse checks that a script file is read or refused, and that a file that was read has only steps that can be
// played.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil || len(files) == 0 {
		f.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := Parse(data)
		if err != nil {
			return
		}
		for _, s := range list {
			for _, name := range s.Actors() {
				if name == "" {
					t.Fatal("an actor without a name")
				}
			}
			for at, step := range s.Steps {
				if actions[step.Action] == nil || step.Ciphertext > at || step.Ciphertext < 0 {
					t.Fatalf("step %d cannot be played: %+v", at, step)
				}
			}
		}
	})
}
