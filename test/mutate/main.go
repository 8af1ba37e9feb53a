// Command mutate switches off the checks of mlscore, one at a time, and reports whether a test fails.
//
//	go run ./test/mutate                 run what has changed, record the findings; list what survives without a
//	                                     reason in test/mutate/survivors.txt, and in how many tests it would matter
//	go run ./test/mutate -for 5m         the same, but stop after a while; run it again to go on
//	go run ./test/mutate -report         run nothing, forget old mutants; print the findings as a document: for each
//	                                     rule of test/rfc9420/rules.json a check without which one of the rule's tests
//	                                     fails, and the survivors with their reasons
//
// Every refusal in mlscore and mlscore/codec is a mutant. The record is test/mutate/findings.json; no document is
// kept, because the record and the sources give it. All mutants are compiled at once into one build of the
// tests, by an overlay, so that only the results are written to the repository. An environment variable activates one
// mutant. A first run of every test, without an active mutant, records which mutants would have changed something in
// which test: only those tests can fail, so only those are run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

func main() {
	root := flag.String("root", ".", "the repository")
	limit := flag.Duration("for", 12*time.Hour, "stop after this time; what was found is kept")
	work := flag.String("work", filepath.Join(os.TempDir(), "mlsfed-mutate"), "folder for builds and for what is known so far")
	still := flag.Bool("report", false, "run nothing: print the findings as a document")
	only := flag.String("only", "", "only mutants whose name contains this")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	if err := run(ctx, *root, *work, *still, *only); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

// parallel is how many mutants are active at a time, each in a process of its own.
const parallel = 2

func run(ctx context.Context, root, work string, still bool, only string) error {
	rules, err := readRules(filepath.Join(root, rulesPath))
	if err != nil {
		return err
	}
	sources, err := findMutants(filepath.Join(root, "mlscore"), checkedAt(rules))
	if err != nil {
		return err
	}
	found, err := readFindings(filepath.Join(root, findingsPath))
	if err != nil {
		return err
	}
	reasons, err := readReasons(filepath.Join(root, reasonsPath))
	if err != nil {
		return err
	}
	r := &report{rules: rules, found: found, reasons: reasons}
	for _, s := range sources {
		r.mutants = append(r.mutants, s.mutants...)
	}
	if still {
		r.forget()
		if err := writeFindings(filepath.Join(root, findingsPath), r.found); err != nil {
			return err
		}
		_, err := os.Stdout.Write(r.document())
		return err
	}
	if err := os.MkdirAll(work, 0o700); err != nil {
		return err
	}
	b, err := build(ctx, root, work, sources)
	if err != nil {
		return err
	}
	err = r.findOut(ctx, b, filepath.Join(work, "survey.json"), only)
	if !errors.Is(err, context.DeadlineExceeded) && err != nil {
		return err
	}
	if err := writeFindings(filepath.Join(root, findingsPath), r.found); err != nil {
		return err
	}
	r.listSurvivors(os.Stdout)
	return nil
}

// findOut surveys the tests and tries every mutant without a finding.
func (r *report) findOut(ctx context.Context, b *bench, surveyPath, only string) error {
	s, err := readSurvey(surveyPath, b.root)
	if err != nil {
		return err
	}
	err = b.look(ctx, s, func(t unit, ok bool) {
		note := s.Took[t].String()
		if !ok {
			note = "LEFT OUT: it fails without any mutant"
		}
		fmt.Printf("looked at %s: %s (%d of %d)\n", t, note, len(s.Done), len(b.tests))
		if err := writeJSON(surveyPath, s); err != nil {
			fmt.Println(err)
		}
	})
	if err != nil {
		return err
	}
	r.forget()
	named := r.namedFor()
	var mu sync.Mutex
	var todo sync.WaitGroup
	var first error
	next := make(chan int)
	for range parallel {
		todo.Go(func() {
			for i := range next {
				m := b.mutants[i]
				f, err := b.try(ctx, i+1, s, named[m.place()])
				mu.Lock()
				if err == nil {
					r.found[m.id] = f
					fmt.Printf("%d of %d: %s: %v\n", i+1, len(b.mutants), m.id, f.Killed)
					err = writeFindings(filepath.Join(b.root, findingsPath), r.found)
				}
				if first == nil {
					first = err
				}
				mu.Unlock()
			}
		})
	}
	for _, again := range []bool{false, true} { // mutants that were never tried come first
		for i, m := range b.mutants {
			mu.Lock()
			_, tried := r.found[m.id]
			skip := ctx.Err() != nil || tried != again || !strings.Contains(m.id, only) || r.known(m, s)
			mu.Unlock()
			if !skip {
				next <- i
			}
		}
	}
	close(next)
	todo.Wait()
	return first
}
