package clock

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"
)

// machine is a machine whose clock is moved by hand.
type machine struct {
	elapsed time.Duration // monotonic
	ahead   time.Duration // of the machine's clock
	reports []Jump
}

var birth = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (m *machine) start(t testing.TB, stored []byte) *Clock {
	t.Helper()
	c, err := New(Config{
		Wall:   func() time.Time { return birth.Add(m.elapsed + m.ahead) },
		Elapse: func() time.Duration { return m.elapsed },
		Stored: stored, Report: func(j Jump) { m.reports = append(m.reports, j) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// pass lets time pass in steps in which the clock is read.
func (m *machine) pass(c *Clock, d, step time.Duration) {
	for end := m.elapsed + d; m.elapsed < end; {
		m.elapsed += min(step, end-m.elapsed)
		c.Now()
	}
}

const year = 365 * 24 * time.Hour

// TestShortJumpIsNotTaken: a clock that is years ahead, or behind, for a second leaves no trace.
func TestShortJumpIsNotTaken(t *testing.T) {
	for _, by := range []time.Duration{10 * year, -10 * year, 30 * 24 * time.Hour, 2 * time.Minute} {
		m := &machine{}
		c := m.start(t, nil)
		m.pass(c, time.Hour, time.Minute)
		m.ahead = by
		m.pass(c, time.Second, time.Second)
		if off, _ := c.Off(); off != by {
			t.Errorf("%v: off by %v", by, off)
		}
		m.ahead = 0
		m.pass(c, time.Hour, time.Minute)
		want := birth.Add(m.elapsed)
		if off, n := c.Off(); !c.Now().Equal(want) || !c.Count().Equal(want) || off != 0 || n != 0 {
			t.Errorf("%v: now %v, count %v, want %v; %v, %d", by, c.Now(), c.Count(), want, off, n)
		}
		if len(m.reports) != 2 || m.reports[0] != (Jump{by, Seen}) || m.reports[1] != (Jump{by, Ended}) {
			t.Errorf("%v: reported %v", by, m.reports)
		}
	}
}

// TestConfirmedJumpMovesTheDay: a jump that lasts is believed after an hour, to the moment; Count does not take it
// over.
func TestConfirmedJumpMovesTheDay(t *testing.T) {
	for _, by := range []time.Duration{30 * 24 * time.Hour, -30 * 24 * time.Hour} {
		m := &machine{}
		c := m.start(t, nil)
		before := c.Count()
		m.ahead = by
		c.Now()
		m.pass(c, time.Hour-time.Second, time.Minute)
		if got := c.Now(); !got.Equal(birth.Add(m.elapsed)) {
			t.Errorf("believed too early: %v", got)
		}
		m.pass(c, time.Second, time.Second)
		if got := c.Now(); !got.Equal(birth.Add(m.elapsed + by)) {
			t.Errorf("%v: now %v", by, got)
		}
		if got := c.Count(); !got.Equal(birth.Add(m.elapsed)) {
			t.Errorf("%v: count %v", by, got)
		}
		if c.Shown(before) != before || !c.Shown(c.Count()).Equal(c.Now()) {
			t.Errorf("%v: shown %v and %v", by, c.Shown(before), c.Shown(c.Count()))
		}
		if off, n := c.Off(); off != 0 || n != 1 {
			t.Errorf("%v: off %v, believed %d", by, off, n)
		}
	}
}

// TestClockFollowsSmallSteps: a clock within the tolerance is followed, slowly, and Count never goes back.
func TestClockFollowsSmallSteps(t *testing.T) {
	m := &machine{}
	c := m.start(t, nil)
	for _, by := range []time.Duration{time.Minute, -time.Minute} {
		m.ahead += by
		last := c.Count()
		for range 40 {
			m.pass(c, time.Minute, time.Second)
			if now := c.Count(); now.Sub(last) < time.Minute*19/20-time.Millisecond || now.Sub(last) > time.Minute*21/20+time.Millisecond {
				t.Fatalf("a minute counts %v", now.Sub(last))
			} else {
				last = now
			}
		}
		if got := c.Now().Sub(birth.Add(m.elapsed + m.ahead)).Abs(); got > time.Millisecond {
			t.Errorf("%v behind", got)
		}
	}
	if len(m.reports) != 0 {
		t.Errorf("reported %v", m.reports)
	}
}

// TestPauseCounts: a pause between two runs counts up to a day; the rest of it is a jump, which is shown right in the
// end.
func TestPauseCounts(t *testing.T) {
	for pause, counts := range map[time.Duration]time.Duration{
		0: 0, time.Hour: time.Hour, 24 * time.Hour: 24 * time.Hour, 72 * time.Hour: 24 * time.Hour, -time.Hour: 0,
	} {
		m := &machine{}
		c := m.start(t, nil)
		m.pass(c, time.Hour, time.Minute)
		before := c.Count()
		stored := c.State()
		m.ahead += pause // the monotonic clock begins again
		m.elapsed = 0
		m.ahead += time.Hour
		c = m.start(t, stored)
		if got := c.Count().Sub(before); got != counts {
			t.Errorf("a pause of %v counts %v, want %v", pause, got, counts)
		}
		m.pass(c, 2*time.Hour, time.Minute)
		if got := c.Now().Sub(birth.Add(m.elapsed + m.ahead)).Abs(); got > time.Minute {
			t.Errorf("after a pause of %v: %v off", pause, got)
		}
	}
}

// TestWhatIsStoredLives: for any sequence of jumps, what is stored with a Count is old when its life has passed by the
// monotonic clock: not before, and not much later.
func TestWhatIsStoredLives(t *testing.T) {
	const life = 30 * 24 * time.Hour
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		m := &machine{}
		c := m.start(t, nil)
		type item struct {
			stored time.Time
			born   time.Duration
		}
		var items []item
		last := c.Count()
		for range 400 {
			switch r.IntN(5) {
			case 0: // a jump, small or large
				m.ahead += time.Duration(r.NormFloat64() * float64([]time.Duration{time.Second, time.Minute, 24 * time.Hour, year}[r.IntN(4)]))
			case 1:
				m.ahead = 0
			case 2: // a short one
				ahead := m.ahead
				m.ahead = time.Duration(r.Int64N(int64(50 * year)))
				c.Now()
				items = append(items, item{c.Count(), m.elapsed})
				m.ahead = ahead
			case 3:
				items = append(items, item{c.Count(), m.elapsed})
			}
			m.pass(c, time.Duration(r.Int64N(int64(12*time.Hour))), time.Hour)
			now := c.Count()
			if now.Before(last) {
				t.Fatalf("seed %d: the count went back", seed)
			}
			last = now
			kept := items[:0]
			for _, it := range items {
				age, old := m.elapsed-it.born, now.Sub(it.stored) >= life
				if old && age < life*95/100 {
					t.Fatalf("seed %d: lost after %v", seed, age)
				}
				if !old && age > life*106/100 {
					t.Fatalf("seed %d: alive after %v", seed, age)
				}
				if !old {
					kept = append(kept, it)
				}
			}
			items = kept
		}
	}
}

// TestManyJumps: jumps that are remembered are bounded, and the day stays right.
func TestManyJumps(t *testing.T) {
	m := &machine{}
	c := m.start(t, nil)
	for range 3 * maxJumps {
		m.ahead += time.Hour
		c.Now()
		m.pass(c, 2*time.Hour, time.Hour)
	}
	if got := c.Now(); !got.Equal(birth.Add(m.elapsed + m.ahead)) {
		t.Errorf("now %v", got)
	}
	if b := c.State(); len(b) > 17+16*maxJumps {
		t.Errorf("%d bytes of state", len(b))
	}
}

// FuzzState: what is read as a state is written as the same, and anything else is refused.
func FuzzState(f *testing.F) {
	m := &machine{}
	f.Add(m.start(f, nil).State())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		count, wall, _, err := decode(b)
		if err != nil {
			return
		}
		c, err := New(Config{Stored: b, Wall: func() time.Time { return time.Unix(0, wall) }, Elapse: func() time.Duration { return 0 }})
		if err != nil || c.count != count {
			t.Fatalf("%v, %d", err, c.count)
		}
		c.mu.Lock()
		jumps := len(c.jumps)
		c.mu.Unlock()
		if got := c.State(); len(c.jumps) == jumps && c.count == count && !bytes.Equal(got, b) {
			t.Fatalf("%x became %x", b, got)
		}
	})
}

// TestLateStart: a machine whose clock was beyond all years at its first start starts again.
func TestLateStart(t *testing.T) {
	m := &machine{ahead: 280 * year}
	c := m.start(t, nil)
	m.pass(c, 48*time.Hour, time.Hour)
	m.start(t, c.State())
}
