package mlscore

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// inParallel calls work for every i below n, on as many goroutines as there are processors, and returns
// when all calls have. work writes its result to a place of its own for i, so that the outcome does not
// depend on who was first.
func inParallel(n int, work func(i int)) {
	workers := min(runtime.GOMAXPROCS(0), n)
	if workers <= 1 {
		for i := range n {
			work(i)
		}
		return
	}
	var next atomic.Int64
	var done sync.WaitGroup
	done.Add(workers)
	for range workers {
		go func() {
			defer done.Done()
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				work(i)
			}
		}()
	}
	done.Wait()
}
