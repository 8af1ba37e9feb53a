package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestReadmeWalk types the commands of the README under 'Two organizations in five minutes', line for line. The test
// adds free ports, links for the places that the README leaves open, and the expected output.
func TestReadmeWalk(t *testing.T) {
	raw, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(raw), "\n## Two organizations in five minutes\n")
	_, text, _ = strings.Cut(text, "\n```\n")
	text, _, found := strings.Cut(text, "\n```\n")
	if !found {
		t.Fatal("the README has no such walk")
	}
	script := []string{"ports A_DEVICES A_NODES B_DEVICES B_NODES"}
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), " #")
		if line = strings.TrimSpace(line); line != "" {
			script = append(script, readmeLine(line)...)
		}
	}
	file := filepath.Join(t.TempDir(), "readme.txtar")
	if err := os.WriteFile(file, []byte(strings.Join(script, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := scriptParams()
	p.Files = []string{file}
	testscript.Run(t, p)
}

// readmeLine returns a line of the README in the form of a script.
func readmeLine(line string) []string {
	link := regexp.MustCompile(`'mlsfed://…(\w+)…'`)
	words := strings.Fields(line)
	switch command := strings.Join(words[:2], " "); {
	case command == "mlsfed init" && strings.Contains(line, "a.example"):
		return []string{"exec " + line + " --gateway $A_DEVICES --federation $A_NODES", "stdout 'a.example is made'"}
	case command == "mlsfed init": // of two flags the last one counts
		return []string{"exec " + line + " --gateway $B_DEVICES --federation $B_NODES", "stdout 'b.example is made'"}
	case command == "mlsfed serve":
		return []string{"serve " + words[len(words)-1]}
	case command == "mlsfed user":
		return []string{"exec " + line, "keep " + words[3]}
	case command == "mlsfed login":
		return []string{"exec " + link.ReplaceAllString(line, "$$$1") + " --key file", "stdout 'This device is'"}
	case command == "mlsfed read":
		return []string{"exec " + line, `stdout 'alice@a.example/\S+  Soup\?'`}
	case command == "mlsfed chat":
		return []string{"exits 1 " + line, "stderr 'chat needs a terminal'"}
	}
	return []string{"exec " + line}
}
