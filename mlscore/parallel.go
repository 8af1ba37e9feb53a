package mlscore

import (
	"bytes"
	"cmp"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
)

// inParallel calls work for every i below n, on as many goroutines as there are processors, and returns when all
// calls have returned. work writes its result to a separate place for each i, so that the outcome does not depend on
// the order of the calls.
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

// sealing is one HPKE encryption to be done.
type sealing struct {
	name      string // of the recipient, for errors
	key       []byte
	info      *hpkeInfo
	plaintext []byte
}

// sealAll encrypts on all processors. The randomness of each encryption depends only on its index in list.
func (s *suite) sealAll(rand io.Reader, list []sealing) ([]hpkeCiphertext, error) {
	size := s.kem.seedLen()
	seeds, err := readSeed(rand, size*len(list))
	if err != nil {
		return nil, err
	}
	defer clear(seeds)
	out := make([]hpkeCiphertext, len(list))
	errs := make([]error, len(list))
	inParallel(len(list), func(i int) {
		l := &list[i]
		kem, ct, err := s.encryptTo(bytes.NewReader(seeds[i*size:(i+1)*size]), l.key, l.info, l.plaintext)
		out[i], errs[i] = hpkeCiphertext{kem, ct}, within(l.name, ErrInvalid, err)
	})
	return out, cmp.Or(errs...)
}
