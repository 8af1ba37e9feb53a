package config

import "testing"

func TestSizeForPeople(t *testing.T) {
	for size, want := range map[Size]string{
		0: "0 B", 1023: "1023 B", 1 << 10: "1.0 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1024.0 KiB", 5 << 30: "5.0 GiB", 65396891648: "60.9 GiB",
	} {
		if got := size.About(); got != want {
			t.Errorf("%d: %q, wanted %q", uint64(size), got, want)
		}
	}
}
