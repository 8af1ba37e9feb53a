package directory

import (
	"bytes"
	"testing"
)

func FuzzCode(f *testing.F) {
	f.Add(formatCode([]byte("0123456789abcdef")))
	f.Fuzz(func(t *testing.T, s string) {
		b, err := parseCode(s)
		if err != nil {
			return
		}
		again, err := parseCode(formatCode(b))
		if err != nil || !bytes.Equal(again, b) || len(b) != codeSize {
			t.Fatalf("%q is %x, and then %x, %v", s, b, again, err)
		}
	})
}
