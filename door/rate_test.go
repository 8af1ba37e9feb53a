package door

import (
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestRateProperty holds a bucket against counting: in no span of time does it give more than the burst and
// what the span refills, and it refuses only then.
func TestRateProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Rate{Burst: rapid.IntRange(1, 5).Draw(t, "burst"), Every: time.Duration(rapid.IntRange(1, 10).Draw(t, "every"))}
		all := Rates[int]{Rate: r, Most: 10}
		start := time.Unix(1000, 0)
		now := start
		var taken []time.Time
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 12).Draw(t, "pass")))
			room := true
			for i := range taken { // counting this one, those since taken[i] must fit
				room = room && len(taken)-i+1 <= r.Burst+int(now.Sub(taken[i])/r.Every)
			}
			got := all.Take(1, now)
			if got && !room {
				t.Fatalf("%v: gave one at %v after %v", r, now.Sub(start), taken)
			}
			if got {
				taken = append(taken, now)
			} else if room && len(taken) < r.Burst {
				t.Fatalf("%v: refused at %v after only %d", r, now.Sub(start), len(taken))
			}
			if has, _ := all.State(2, now); !has {
				t.Fatal("another key has none")
			}
		}
		if has, full := all.State(1, now.Add(time.Duration(r.Burst+1)*r.Every)); !has || !full {
			t.Fatal("not full again")
		}
	})
}

// TestLimitOfAddresses holds that the memory for rates is bounded, and that who is remembered is not
// forgotten for those who have paid nothing.
func TestLimitOfAddresses(t *testing.T) {
	now := time.Unix(1000, 0)
	r := Rates[netip.Addr]{Rate: Rate{Burst: 1, Every: time.Minute}, Most: 8}
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }
	for i := range 1000 {
		if !r.Take(address(i), now) {
			t.Fatalf("newcomer %d is refused", i)
		}
		if len(r.of) > 8 {
			t.Fatalf("%d are remembered, at most 8", len(r.of))
		}
	}
	if r.Take(address(999), now) {
		t.Error("the last one is forgotten at once")
	}
	r.Take(address(1000), now.Add(2*time.Minute)) // all others are full
	if len(r.of) != 1 {
		t.Errorf("%d are remembered, wanted one", len(r.of))
	}
}

func TestRateWaits(t *testing.T) {
	r, now := Rate{Burst: 4, Every: time.Second}, time.Unix(1000, 0)
	var b Bucket
	for i, want := range []time.Duration{0, 0, 2 * time.Second, 4 * time.Second} {
		if got := b.Take(r, now, 2); got != want {
			t.Errorf("step %d: wait %v, wanted %v", i, got, want)
		}
	}
	if got := b.Take(r, now.Add(time.Hour), 4); got != 0 {
		t.Errorf("after an hour: wait %v", got)
	}
}
