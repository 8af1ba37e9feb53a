package wire

import (
	"bytes"
	"runtime"
	"testing"
)

// TestForeignCBORRefused checks that encodings that no build writes are refused, at low cost.
func TestForeignCBORRefused(t *testing.T) {
	targets := map[string]func() any{"Envelope": func() any { return new(Envelope) }, "Message": func() any { return new(Message) }, "NotifyRequest": func() any { return new(NotifyRequest) }, "Frame": func() any { return new(Frame) }, "Entry": func() any { return new(Entry) }, "Error": func() any { return new(Error) }}
	big := func(b ...byte) []byte { return b }
	inputs := map[string][]byte{
		"deep arrays":       bytes.Repeat([]byte{0x81}, 1<<20),
		"deep maps":         bytes.Repeat([]byte{0xa1, 0x01}, 1<<19),
		"huge array":        append(big(0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), make([]byte, 1000)...),
		"huge map":          append(big(0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), make([]byte, 1000)...),
		"huge string":       big(0xa1, 0x01, 0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"array of 131072":   append(big(0xa1, 0x01, 0x9a, 0, 2, 0, 0), bytes.Repeat([]byte{0xa0}, 131072)...),
		"indefinite":        big(0xbf, 0x01, 0x01, 0xff),
		"duplicate":         big(0xa2, 0x01, 0x01, 0x01, 0x02),
		"NaN":               big(0xa1, 0x01, 0xf9, 0x7e, 0x00),
		"float":             big(0xa1, 0x01, 0xf9, 0x3c, 0x00),
		"bignum":            big(0xa1, 0x01, 0xc2, 0x49, 1, 0, 0, 0, 0, 0, 0, 0, 0),
		"negative":          big(0xa1, 0x01, 0x20),
		"overflow of uint8": big(0xa1, 0x01, 0x19, 0x01, 0x01),
		"long form":         big(0xa1, 0x18, 0x01, 0x01),
		"unknown key":       big(0xa1, 0x18, 0x63, 0x01),
		"undefined":         big(0xa1, 0x01, 0xf7),
		"trailing":          big(0xa0, 0xa0),
	}
	for name, in := range inputs {
		for what, make_ := range targets {
			var a, b runtime.MemStats
			runtime.ReadMemStats(&a)
			err := Decode(in, MaxSessionFrame, make_())
			runtime.ReadMemStats(&b)
			if err == nil {
				t.Errorf("%s as %s ACCEPTED", name, what)
			}
			if b.TotalAlloc-a.TotalAlloc > 1<<20+48*uint64(len(in)) {
				t.Errorf("%s as %s: %d MiB", name, what, (b.TotalAlloc-a.TotalAlloc)>>20)
			}
		}
	}
	for _, s := range []string{"A.example", "a.example.", ".a.example", "a..example", "a.example:80", "a%2eexample", "xn--\u0430", "a_b.example", "-a.example", "a-.example", "a.example\n"} {
		if Domain(s).Check() == nil {
			t.Errorf("domain %q ACCEPTED", s)
		}
	}
	for _, s := range []string{"mimi://a.example/d/..", "mimi://a.example/d/../x", "mimi://a.example/d/alice/.", "mimi://a.example/d/Alice/x", "mimi://a.example/d/alice/x/y", "mimi://a.example/d/alice%2fx/y", "mimi://a.example/d/al\u0456ce/x", "MIMI://a.example/d/alice/x", "mimi://a.example/d/alice/x?y", "mimi://a.example./d/alice/x"} {
		if _, err := ParseDeviceID(s); err == nil {
			t.Errorf("device %q ACCEPTED", s)
		}
	}
}
