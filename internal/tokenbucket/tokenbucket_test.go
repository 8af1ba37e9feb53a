package tokenbucket

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestRateProperty compares a bucket with counting: in no span of time does it give more tokens than the burst and what
// the span refills, and it refuses only then.
func TestRateProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Rate{Burst: rapid.IntRange(1, 5).Draw(t, "burst"), Every: time.Duration(rapid.IntRange(1, 10).Draw(t, "every"))}
		all := Rates[int]{Rate: r, Most: 10, Strict: rapid.Bool().Draw(t, "strict")}
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
				t.Fatalf("%v: gave a token at %v after %v", r, now.Sub(start), taken)
			}
			if got {
				taken = append(taken, now)
			} else if room && len(taken) < r.Burst {
				t.Fatalf("%v: refused at %v after only %d", r, now.Sub(start), len(taken))
			}
			if has, _ := all.State(2, now); !has {
				t.Fatal("another key has no token")
			}
		}
		if has, full := all.State(1, now.Add(time.Duration(r.Burst+1)*r.Every)); !has || !full {
			t.Fatal("the bucket is not full again")
		}
		all.Forget(1)
		if has, full := all.State(1, now); !has || !full {
			t.Fatal("the forgotten bucket is not full")
		}
	})
}

// TestMemoryIsBounded checks that a table keeps at most Most buckets, that it admits new keys all the same, and that
// the key that was charged last stays.
func TestMemoryIsBounded(t *testing.T) {
	now := time.Unix(1000, 0)
	r := Rates[int]{Rate: Rate{Burst: 1, Every: time.Minute}, Most: 8}
	for i := range 1000 {
		if !r.Take(i, now) {
			t.Fatalf("new key %d is refused", i)
		}
		if n := r.Len(); n > 8 {
			t.Fatalf("%d buckets in memory, at most 8", n)
		}
	}
	if r.Take(999, now) {
		t.Error("the last key is forgotten at once")
	}
	r.Take(1000, now.Add(2*time.Minute)) // all others are full
	if n := r.Len(); n != 1 {
		t.Errorf("%d buckets in memory, wanted one", n)
	}
}

// TestStrictTable checks that a strict table refuses a new key while no bucket is full, and drops no other one.
func TestStrictTable(t *testing.T) {
	now := time.Unix(1000, 0)
	r := Rates[int]{Rate: Rate{Burst: 2, Every: time.Minute}, Most: 8, Strict: true}
	for i := range 8 {
		if !r.Take(i, now) {
			t.Fatalf("key %d is refused", i)
		}
	}
	if r.Take(8, now) {
		t.Error("a ninth key has a bucket")
	}
	for i := range 8 {
		if !r.Take(i, now) {
			t.Errorf("key %d has lost a token", i)
		}
		if r.Take(i, now) {
			t.Errorf("key %d has won a token", i)
		}
	}
	if n := r.Len(); n != 8 {
		t.Errorf("%d buckets in memory, wanted 8", n)
	}
	if !r.Take(8, now.Add(2*time.Minute)) { // all others are full
		t.Error("a new key is refused although all buckets are full")
	}
	if n := r.Len(); n != 1 {
		t.Errorf("%d buckets in memory, wanted one", n)
	}
}

// TestRatesOfOneKey checks that a key with a higher rate of the same window has proportionally more tokens.
func TestRatesOfOneKey(t *testing.T) {
	now := time.Unix(1000, 0)
	const factor = 16
	low := Rate{Burst: 2, Every: factor * time.Second}
	high := Rate{Burst: low.Burst * factor, Every: low.Every / factor}
	r := Rates[int]{Most: 8}
	for i := range high.Burst {
		if !r.TakeAt(1, high, now) {
			t.Fatalf("token %d is refused", i)
		}
	}
	if r.TakeAt(1, high, now) || r.TakeAt(1, low, now) {
		t.Error("an empty bucket gives a token")
	}
	if now = now.Add(time.Second); r.TakeAt(1, low, now) || !r.TakeAt(1, high, now) {
		t.Error("after the time of one token at the high rate")
	}
}

func TestTakeReturnsTheWait(t *testing.T) {
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

// TestClockGoesBack checks that tokens which were taken while the clock was years ahead exclude nobody afterwards.
func TestClockGoesBack(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, strict := range []bool{false, true} {
		rates := Rates[int]{Rate: Rate{Burst: 2, Every: time.Second}, Most: 10, Strict: strict}
		for range 3 {
			rates.Take(1, now.Add(10*365*24*time.Hour))
		}
		for i := range 3 {
			if got := rates.Take(1, now); got != (i < 2) {
				t.Errorf("strict %v, take %d: %v", strict, i, got)
			}
		}
	}
}

// TestStoredBucket checks that a bucket which was stored by its time is the same one.
func TestStoredBucket(t *testing.T) {
	r, now := Rate{Burst: 2, Every: time.Second}, time.Unix(1000, 0)
	var b Bucket
	b.TryTake(r, now)
	again := FullAt(b.FullAt())
	if !again.TryTake(r, now) || again.TryTake(r, now) {
		t.Error("the stored bucket does not have one token")
	}
}
