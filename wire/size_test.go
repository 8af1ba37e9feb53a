package wire

import (
	"bytes"
	"sync"
	"testing"
)

// TestSizeIsThatOfTheEncoding checks that Size equals the length of the encoding, also for values that are too large
// for the kept buffers, and for many concurrent calls.
func TestSizeIsThatOfTheEncoding(t *testing.T) {
	var all sync.WaitGroup
	for _, n := range []int{0, 1, 4096, maxScratch, 8 * maxScratch, 10} {
		all.Go(func() {
			e := commitEnvelope()
			e.Commit.Commit = append([]byte{1}, make([]byte, n)...)
			raw, err := Encode(e)
			size, err2 := Size(e)
			input, err3 := e.SigningInput()
			if err != nil || err2 != nil || err3 != nil || size != len(raw) {
				t.Errorf("size %d of %d bytes (%v, %v, %v)", size, len(raw), err, err2, err3)
			}
			bare := *e
			bare.Signature = nil
			if raw, err := Encode(&bare); err != nil || !bytes.Equal(input, append([]byte("mlsfed submission 1\x00"), raw...)) {
				t.Errorf("signing input is not the encoding without the signature (%v)", err)
			}
		})
	}
	all.Wait()
	if _, err := Size(make(chan int)); err == nil {
		t.Error("a channel has a size")
	}
}
