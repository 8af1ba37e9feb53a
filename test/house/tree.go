package main

import (
	"io/fs"
	"path"
	"strings"
)

// A source is one file of the tree.
type source struct {
	name string // slash-separated, relative to the root of the repository
	body []byte
}

// folder is the folder of a source, the unit of the ledger.
func (s source) folder() string { return path.Dir(s.name) }

// generated reports whether a program wrote the file.
func (s source) generated() bool {
	head, _, _ := strings.Cut(string(s.body), "\n")
	return strings.HasPrefix(head, "// Code generated ")
}

// sources returns the Go files and the documents of the tree, without what is
// hidden, generated, or test data.
func sources(root fs.FS) ([]source, error) {
	var all []source
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := path.Base(name)
		if entry.IsDir() {
			if name != "." && (strings.HasPrefix(base, ".") || base == "testdata" || base == "node_modules") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(base, ".go") && !strings.HasSuffix(base, ".md") {
			return nil
		}
		body, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		file := source{name: name, body: body}
		if !file.generated() {
			all = append(all, file)
		}
		return nil
	})
	return all, err
}

// check returns the hits of all files, in their order.
func check(files []source) ([]hit, error) {
	var hits []hit
	for _, file := range files {
		if strings.HasPrefix(file.name, "test/house/") { // the list itself, and its examples
			continue
		}
		if strings.HasSuffix(file.name, ".md") {
			hits = append(hits, markdown(file.name, file.body)...)
			continue
		}
		found, err := goProse(file.name, file.body)
		if err != nil {
			return nil, err
		}
		hits = append(hits, found...)
	}
	return hits, nil
}
