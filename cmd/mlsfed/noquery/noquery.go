// Package noquery keeps a library from asking the terminal for its colours when a program starts.
//
// Package bubbletea v1 does so in its init function, for every program that it is linked into: a terminal that does not
// answer holds up each command for five seconds, and what the person has typed or pasted ahead is read and dropped.
// Package termenv, which asks, takes output for no terminal where the environment variable CI is set. Go initializes
// packages whose imports are initialized in the order of their paths, so this one, which imports only os, comes before
// github.com/muesli/termenv. A test of the command holds this.
package noquery

import "os"

const variable = "CI"

var hidden = hide()

// hide sets the variable, unless it is set.
func hide() bool {
	if _, set := os.LookupEnv(variable); set {
		return false
	}
	return os.Setenv(variable, "true") == nil
}

// Restore leaves the environment as it was. It reports whether it changed something.
func Restore() bool {
	if !hidden {
		return false
	}
	hidden = false
	return os.Unsetenv(variable) == nil
}
