package mlscore

import (
	"math"
	"testing"
)

func TestPaddingNone(t *testing.T) {
	for _, p := range []Padding{{}, NoPadding(), PadToMultiple(1), PadToMultiple(0), PadToMultiple(-5)} {
		if p != NoPadding() {
			t.Errorf("%v is not NoPadding", p)
		}
		for _, n := range []int{0, 1, 17, 1 << 20, math.MaxInt} {
			if got := p.padded(n); got != n {
				t.Errorf("%v pads %d to %d", p, n, got)
			}
		}
	}
}

func TestPaddingToMultiple(t *testing.T) {
	for _, m := range []int{2, 3, 64, 100, 4096} {
		p := PadToMultiple(m)
		for n := range 3 * m {
			got := p.padded(n)
			if got < n || got >= n+m || got%m != 0 {
				t.Fatalf("%v pads %d to %d", p, n, got)
			}
		}
	}
}

// TestPadmeKnownLengths compares with lengths that were computed by hand from the paper's definition.
func TestPadmeKnownLengths(t *testing.T) {
	for n, want := range map[int]int{
		0: 0, 1: 1, 2: 2, 7: 7, 8: 8, 9: 10, 10: 10, 15: 16, 16: 16, 17: 18, 33: 36, 65: 72, 100: 104, 129: 144,
		257: 272, 1000: 1024, 1025: 1088, 65537: 65536 + 2048, 1_000_000: 1_015_808, 1<<30 + 1: 1<<30 + 1<<25,
	} {
		if got := Padme().padded(n); got != want {
			t.Errorf("%d padded to %d, want %d", n, got, want)
		}
	}
}

// TestPadmeBounds checks the documented bounds: the overhead, the number of distinguishable lengths, and that padding
// a padded length changes nothing.
func TestPadmeBounds(t *testing.T) {
	p := Padme()
	previous := 0
	lengths := make(map[int]bool)
	worst := map[int]float64{0: 0, 256: 0, 64 << 10: 0}
	for n := 1; n <= 1<<20; n++ {
		got := p.padded(n)
		if got < n || got < previous || p.padded(got) != got {
			t.Fatalf("%d is padded to %d, then to %d; the length before to %d", n, got, p.padded(got), previous)
		}
		previous = got
		lengths[got] = true
		for from := range worst {
			if n >= from {
				worst[from] = max(worst[from], float64(got-n)/float64(n))
			}
		}
	}
	for from, limit := range map[int]float64{0: 0.12, 256: 0.063, 64 << 10: 0.032} {
		if worst[from] > limit || worst[from] == 0 {
			t.Errorf("from %d bytes on up to %.2f%% are added, want at most %.2f%%", from, 100*worst[from], 100*limit)
		}
	}
	if len(lengths) > 512 { // 9 bits identify any padded length up to a mebibyte; without padding it takes 20
		t.Errorf("%d different lengths up to 1 MiB", len(lengths))
	}
}

func TestPaddingOverflow(t *testing.T) {
	for _, p := range []Padding{Padme(), PadToMultiple(4096), PadToMultiple(math.MaxInt - 1)} {
		for _, n := range []int{math.MaxInt, math.MaxInt - 1, math.MaxInt - 5000, math.MaxInt/2 + 2, math.MinInt, -1} {
			if got := p.padded(n); got < n {
				t.Errorf("%v pads %d to %d", p, n, got)
			}
		}
	}
}

func TestPaddingString(t *testing.T) {
	for p, want := range map[Padding]string{
		NoPadding(): "none", Padme(): "padmé", PadToMultiple(64): "to a multiple of 64 bytes",
	} {
		if p.String() != want {
			t.Errorf("%q, want %q", p.String(), want)
		}
	}
}
