package harness

import "time"

var processStart = time.Now()

// ElapsedTime returns the wall-clock time since the start of the process.
func ElapsedTime() time.Duration { return time.Since(processStart) }
