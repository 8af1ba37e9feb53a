package stats

import (
	"math"
	"slices"
	"testing"
)

func TestMedianAndPercentile(t *testing.T) {
	ten := []float64{10, 9, 8, 7, 6, 5, 4, 3, 2, 1}
	for _, c := range []struct {
		v                     []float64
		median, p0, p99, p100 float64
	}{
		{nil, 0, 0, 0, 0},
		{[]float64{3}, 3, 3, 3, 3},
		{[]float64{5, 1}, 3, 1, 5, 5},
		{[]float64{9, 1, 2}, 2, 1, 9, 9},
		{ten, 5.5, 1, 10, 10},
		{[]float64{math.MaxFloat64, math.MaxFloat64}, math.MaxFloat64, math.MaxFloat64, math.MaxFloat64, math.MaxFloat64},
	} {
		before := slices.Clone(c.v)
		got := []float64{Median(c.v), Percentile(c.v, 0), Percentile(c.v, 0.99), Percentile(c.v, 1)}
		if want := []float64{c.median, c.p0, c.p99, c.p100}; !slices.Equal(got, want) {
			t.Errorf("%v: median, p0, p99 and p100 are %v, want %v", c.v, got, want)
		}
		if !slices.Equal(before, c.v) {
			t.Errorf("%v was changed to %v", before, c.v)
		}
	}
	if got := Percentile(ten, 0.5); got != 5 {
		t.Errorf("p50 of 1 to 10 is %v, want 5", got)
	}
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(i + 1)
	}
	if got := Percentile(hundred, 0.99); got != 99 {
		t.Errorf("p99 of 1 to 100 is %v, want 99", got)
	}
}

func TestRatios(t *testing.T) {
	got, err := Ratios([]float64{2, 9, 4}, []float64{1, 3, 4})
	if want := (Spread{Median: 2, Min: 1, Max: 3, Rounds: 3}); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for _, c := range [][2][]float64{
		{nil, nil}, {{1}, {1, 2}}, {{0}, {1}}, {{1}, {0}}, {{-1}, {1}}, {{math.NaN()}, {1}}, {{1}, {math.Inf(1)}},
	} {
		if got, err := Ratios(c[0], c[1]); err == nil {
			t.Errorf("%v over %v: %+v, want an error", c[0], c[1], got)
		}
	}
}

// TestVerdict: a row is missed only if the whole spread lies beyond the bound, in either direction of
// what is better.
func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		min, max float64
		better   Better
		want     Verdict
	}{
		{1, 1, Lower, Within},
		{1.05, 1.2, Lower, Within}, // the bound itself belongs to it
		{1.051, 1.2, Lower, Missed},
		{0.5, 9, Lower, Within}, // wide: nothing is known
		{0.8, 0.95, Lower, Gained},
		{0.8, 0.953, Lower, Within},
		{1.06, 1.2, Higher, Gained},
		{1.04, 1.2, Higher, Within},
		{0.8, 0.952, Higher, Missed},
		{0.8, 0.953, Higher, Within},
	} {
		s := Spread{Median: (c.min + c.max) / 2, Min: c.min, Max: c.max, Rounds: MinRounds}
		if got, err := s.Verdict(0.05, c.better); err != nil || got != c.want {
			t.Errorf("%v to %v, better %d: %q, %v, want %q", c.min, c.max, c.better, got, err, c.want)
		}
	}
	if got, err := (Spread{Median: 1.001, Min: 1.0001, Max: 1.01, Rounds: MinRounds}).Verdict(0, Lower); err != nil || got != Missed {
		t.Errorf("with a bound of 0: %q, %v", got, err)
	}
	one := Spread{Median: 2, Min: 2, Max: 2, Rounds: MinRounds - 1}
	if got, err := one.Verdict(0.05, Lower); err == nil {
		t.Errorf("%d rounds: %q, want an error", one.Rounds, got)
	}
	one.Rounds = MinRounds
	for _, bound := range []float64{-0.01, math.NaN()} {
		if got, err := one.Verdict(bound, Lower); err == nil {
			t.Errorf("bound %v: %q, want an error", bound, got)
		}
	}
}
