// Command house measures how readable the tree is, and lists what breaks the
// rules of CONTRIBUTING.md for words and struct literals.
//
//	go run ./test/house            figures, and the count of each rule
//	go run ./test/house -list DIR  each place below DIR, as file:line: rule: sentence
//	go run ./test/house -measures  set the column "after" of docs/decisions/measures.md
//
// The flags -root DIR and -column before measure another checkout instead, for the other column.
//
// Run it in the root of the repository. The package's test holds the counts.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	list := flag.String("list", "", "print each `folder`'s places instead of figures; . for all")
	page := flag.Bool("measures", false, "set a column of "+filepath.ToSlash(measuresPath))
	root := flag.String("root", ".", "`folder` of the checkout that is measured")
	column := flag.String("column", "after", "`name` of the column that -measures sets")
	flag.Parse()
	var err error
	if *page {
		err = runMeasures(*root, *column)
	} else {
		err = run(*root, *list)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "house:", err)
		os.Exit(1)
	}
}

func runMeasures(root, column string) error {
	files, err := sources(os.DirFS(root))
	if err != nil {
		return err
	}
	rows, err := measures(files)
	if err != nil {
		return err
	}
	return writeMeasures(measuresPath, column, rows)
}

func run(root, list string) error {
	files, err := sources(os.DirFS(root))
	if err != nil {
		return err
	}
	hits, err := check(files)
	if err != nil {
		return err
	}
	named, err := checkIdentifiers(files)
	if err != nil {
		return err
	}
	figures, err := measure(files)
	if err != nil {
		return err
	}
	if list != "" {
		for _, h := range slices.Concat(hits, named, figures.literals) {
			if list == "." || strings.HasPrefix(h.file, strings.TrimSuffix(list, "/")+"/") || h.file == list {
				fmt.Printf("%s:%d: %s: %s\n", h.file, h.line, h.rule, h.text)
			}
		}
		return nil
	}
	figures.print(os.Stdout)
	tally(os.Stdout, "words, by rule", hits, byRule)
	tally(os.Stdout, "words, by folder", hits, byFolder)
	tally(os.Stdout, "words in identifiers, by folder", named, byFolder)
	return nil
}
