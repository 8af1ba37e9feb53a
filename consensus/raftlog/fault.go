package raftlog

import (
	"fmt"
	"runtime/debug"
)

// damagedRead is a read that met damage below the records.
type damagedRead struct{ reason string }

func (e *damagedRead) Error() string { return "raftlog: " + e.reason }

// guarded runs fn and turns a panic, and a fault in mapped memory, into an error. Both backends panic if their files
// are damaged in ways that they do not expect, and one damaged page must not end a node with ten thousand
// conversations.
func guarded(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = &damagedRead{fmt.Sprintf("backend failed on it: %v", p)}
		}
	}()
	return fn()
}
