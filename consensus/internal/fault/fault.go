// Package fault breaks a state machine on purpose, so that the tests of consensus can show that such a fault is found.
// Nothing outside of consensus can import it.
package fault

// DisableEpochCheck makes a *machine.Machine accept commits for ended epochs. Package machine sets it.
var DisableEpochCheck func(machine any)
