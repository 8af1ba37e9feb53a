// Package noquery keeps a library from asking the terminal for its colours when a program starts.
//
// Package bubbletea v1 asks in its init function, in every program that links it. A terminal that does not answer
// delays each command by five seconds, and text that the person has typed or pasted ahead is read and dropped.
// Package termenv, which sends the query, treats output as no terminal if the environment variable CI is set. Go
// initializes packages whose imports are initialized in the order of their paths, so this package, which imports only
// os, comes before github.com/muesli/termenv. A test of the command checks this.
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

// Restore restores the environment. It reports whether it changed something.
func Restore() bool {
	if !hidden {
		return false
	}
	hidden = false
	return os.Unsetenv(variable) == nil
}
