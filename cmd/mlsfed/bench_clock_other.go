//go:build !unix

package main

import "time"

const hasProcessorTime = false

// processorTime is not known here, and the elapsed time stands for it.
func processorTime() time.Duration { return elapsedTime() }
