//go:build !linux

package main

import "github.com/rogpeppe/go-internal/testscript"

func (s *scripts) terminal(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Fatalf("no terminal is made on this system: guard the line with [linux]")
}
