//go:build !unix

package harness

import "time"

const HasProcessorTime = false

// ProcessorTime returns the elapsed time, since the processor time is not known on this system.
func ProcessorTime() time.Duration { return ElapsedTime() }
