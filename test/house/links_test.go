package main

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

var (
	linkTarget = regexp.MustCompile(`\]\(([^)\s]+)(?: "[^"]*")?\)`)
	linkLine   = regexp.MustCompile(`^\[[^\]]+\]:\s+(\S+)`) // [name]: target
	scheme     = regexp.MustCompile(`^[a-z][a-z0-9+.-]*:`)
	heading    = regexp.MustCompile(`^#{1,6} +(.*)$`)
	linkText   = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	explicitID = regexp.MustCompile(`<a (?:id|name)="([^"]+)"`)
	pageInText = regexp.MustCompile(`(?:^|[^\w/.-])((?:\.\./)*docs/[\w/-]+\.(?:md|svg))`)
	audience   = regexp.MustCompile(`^For [a-z].*[.:]`)
)

// proseLines returns the lines of a document; those of code blocks are empty.
func proseLines(body []byte) []string {
	var all []string
	fenced := false
	for line := range strings.Lines(string(body)) {
		line = strings.TrimRight(line, "\r\n")
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
			line = ""
		}
		if fenced {
			line = ""
		}
		all = append(all, line)
	}
	return all
}

// anchors returns the anchors of a document as GitHub makes them: the letters of a heading in lower case, a dash for
// each blank, a number for a heading that repeats.
func anchors(body []byte) map[string]bool {
	found := make(map[string]bool)
	times := make(map[string]int)
	for _, line := range proseLines(body) {
		for _, id := range explicitID.FindAllStringSubmatch(line, -1) {
			found[id[1]] = true
		}
		h := heading.FindStringSubmatch(line)
		if h == nil {
			continue
		}
		text := strings.TrimRight(linkText.ReplaceAllString(h[1], "$1"), "# ")
		var b strings.Builder
		for _, r := range strings.ToLower(text) {
			switch {
			case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
				b.WriteRune(r)
			case r == ' ':
				b.WriteByte('-')
			}
		}
		name := b.String()
		if n := times[name]; n > 0 {
			found[name+"-"+strconv.Itoa(n)] = true
		} else {
			found[name] = true
		}
		times[name]++
	}
	return found
}

// brokenLinks returns the relative links of the documents of a tree that name no file, or no anchor of a document,
// and the number of relative links.
func brokenLinks(tree fs.FS) (broken []string, links int, err error) {
	files, err := sources(tree)
	if err != nil {
		return nil, 0, err
	}
	known := make(map[string]map[string]bool) // documents and their anchors
	for _, file := range files {
		if strings.HasSuffix(file.name, ".md") {
			known[file.name] = anchors(file.body)
		}
	}
	for _, file := range files {
		if known[file.name] == nil {
			continue
		}
		for i, line := range proseLines(file.body) {
			line = code.ReplaceAllString(line, "code")
			targets := linkTarget.FindAllStringSubmatch(line, -1)
			targets = append(targets, linkLine.FindAllStringSubmatch(line, -1)...)
			for _, target := range targets {
				if scheme.MatchString(target[1]) {
					continue
				}
				links++
				if why := follow(tree, known, file.name, target[1]); why != "" {
					broken = append(broken, fmt.Sprintf("%s:%d: %s: %s", file.name, i+1, target[1], why))
				}
			}
		}
	}
	return broken, links, nil
}

// follow says why a link of a document leads nowhere.
func follow(tree fs.FS, known map[string]map[string]bool, from, target string) string {
	name, anchor, _ := strings.Cut(target, "#")
	to := from
	if name != "" {
		to = path.Join(path.Dir(from), name)
		if _, err := fs.Stat(tree, to); err != nil {
			return "there is no such file"
		}
	}
	if anchor == "" {
		return ""
	}
	if known[to] == nil {
		return "the anchor is in no document"
	}
	if !known[to][anchor] {
		return "there is no such heading"
	}
	return ""
}

// TestLinks follows every relative link of every document, with its anchor.
func TestLinks(t *testing.T) {
	broken, links, err := brokenLinks(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range broken {
		t.Error(b)
	}
	if links < 100 {
		t.Errorf("%d links were followed: the documents have more", links)
	}
}

// TestBrokenLinks checks that each kind of broken link is found, and that no other is.
func TestBrokenLinks(t *testing.T) {
	folder := t.TempDir()
	for name, body := range map[string]string{
		"a.md": "# One: a `b`\n\n[ok](b/c.md) [ok](b/c.md#two-words) [ok](#one-a-b) [ok](b) [web](https://example.org/x)\n" +
			"[gone](d.md)\n[gone](b/c.md#three)\n[gone](#two-words)\n`[code](d.md)`\n```\n[code](d.md)\n```\n",
		"b/c.md": "## Two words\n\n## Two words\n\n[ok](../a.md#one-a-b) [ok](#two-words-1) [gone](#two-words-2)\n[gone]: ../x.png\n",
	} {
		file := filepath.Join(folder, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	broken, links, err := brokenLinks(os.DirFS(folder))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"a.md:4: d.md: there is no such file",
		"a.md:5: b/c.md#three: there is no such heading",
		"a.md:6: #two-words: there is no such heading",
		"b/c.md:5: #two-words-2: there is no such heading",
		"b/c.md:6: ../x.png: there is no such file",
	}
	if got := strings.Join(broken, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("found\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
	if links != 11 {
		t.Errorf("%d relative links, want 11", links)
	}
}

// TestNamedPages checks that each page of docs that a source names exists.
func TestNamedPages(t *testing.T) {
	named := 0
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if base := entry.Name(); base == ".git" || base == "fuzz" {
				return filepath.SkipDir
			}
			return nil
		}
		switch filepath.Ext(file) {
		case ".go", ".md", ".py", ".yml", ".yaml", ".sh", ".txt", ".txtar", ".service", "":
		default:
			return nil
		}
		if strings.HasSuffix(filepath.ToSlash(file), "test/house/links_test.go") {
			return nil
		}
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		body, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for _, m := range pageInText.FindAllSubmatch(body, -1) {
			named++
			page := strings.TrimLeft(string(m[1]), "./")
			if _, err := os.Stat(filepath.Join(root, filepath.FromSlash(page))); err != nil {
				t.Errorf("%s names %s, which does not exist", file, page)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if named < 80 {
		t.Errorf("%d names of pages were found: the tree has more", named)
	}
}

// TestAudience checks that the first line of each page of docs names its readers, and that the index or the index of
// its folder links to the page.
func TestAudience(t *testing.T) {
	tree := os.DirFS(root)
	pages := 0
	err := fs.WalkDir(tree, "docs", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || path.Ext(name) != ".md" {
			return err
		}
		pages++
		body, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		lines := proseLines(body)
		if len(lines) < 3 || !strings.HasPrefix(lines[0], "# ") || !audience.MatchString(lines[2]) {
			t.Errorf("%s: the first line below the title must name the readers: \"For …\"", name)
		}
		if name == "docs/README.md" {
			return nil
		}
		for _, index := range []string{path.Join(path.Dir(name), "README.md"), "docs/README.md"} {
			list, err := fs.ReadFile(tree, index)
			if err != nil {
				continue
			}
			for _, m := range linkTarget.FindAllStringSubmatch(string(list), -1) {
				target, _, _ := strings.Cut(m[1], "#")
				if path.Join(path.Dir(index), target) == name {
					return nil
				}
			}
		}
		t.Errorf("%s: no index links to this page", name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if pages < 40 {
		t.Errorf("%d pages were read: docs has more", pages)
	}
}

// pathInText matches a path that a document names; the first element must be a folder of the root.
var pathInText = regexp.MustCompile(`(?:^|[^\w/.-])(?:\./)?(\w+/[\w/.-]*\w)`)

// TestNamedPaths checks that the files and packages that the documents name exist, in code too. A name such as
// client.TestCrash is that of a test of a package; other tests check that the test exists. The change log and the
// decisions name what was there before.
func TestNamedPaths(t *testing.T) {
	files, err := sources(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	top := make(map[string]bool)
	for _, entry := range entries {
		top[entry.Name()] = entry.IsDir()
	}
	named := 0
	for _, file := range files {
		if !strings.HasSuffix(file.name, ".md") || file.name == "CHANGELOG.md" || strings.HasPrefix(file.name, "docs/decisions/") {
			continue
		}
		for i, line := range strings.Split(string(file.body), "\n") {
			for _, m := range pathInText.FindAllStringSubmatch(line, -1) {
				first, _, _ := strings.Cut(m[1], "/")
				if !top[first] {
					continue
				}
				named++
				name, _, _ := strings.Cut(m[1], ".Test")
				name = strings.TrimSuffix(name, "/...")
				if _, err := os.Stat(filepath.Join(root, filepath.FromSlash(name))); err != nil {
					t.Errorf("%s:%d names %s, which does not exist", file.name, i+1, m[1])
				}
			}
		}
	}
	if named < 100 {
		t.Errorf("%d paths were found: the documents have more", named)
	}
}
