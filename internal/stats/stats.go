// Package stats holds the statistics of the benchmarks: the middle and the tail of a sample, and the
// comparison of two builds that were measured in turns. All benchmarks use it, so that one word has
// one meaning in all their outputs.
package stats

import (
	"fmt"
	"math"
	"slices"
)

// Median returns the middle of a sample in any order, the mean of the two middle values if their
// number is even, and 0 for an empty sample. It does not change v.
func Median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	half := len(s) / 2
	if len(s)%2 == 1 {
		return s[half]
	}
	return s[half-1]/2 + s[half]/2
}

// Percentile returns the smallest value of a sample in any order that at least the share p of the
// sample, from 0 to 1, does not exceed (nearest rank). It returns 0 for an empty sample and does not
// change v.
func Percentile(v []float64, p float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	rank := int(math.Ceil(p * float64(len(s))))
	return s[min(max(rank, 1), len(s))-1]
}

// MinRounds is the smallest number of rounds from which a verdict follows. If both builds were equal,
// all of 7 ratios would lie on the one given side by chance once in 128 comparisons.
const MinRounds = 7

// Spread is the median of some values, and how far they reach.
type Spread struct {
	Median, Min, Max float64
	Rounds           int
}

// Ratios compares two builds round by round: the k-th ratio is this[k] over other[k]. It fails if the
// numbers of rounds differ or are 0, or if a value is not positive and finite, for which no ratio
// exists.
func Ratios(this, other []float64) (Spread, error) {
	if len(this) != len(other) || len(this) == 0 {
		return Spread{}, fmt.Errorf("%d rounds of this build and %d of the other: want the same number, at least 1", len(this), len(other))
	}
	list := make([]float64, len(this))
	for k := range this {
		for _, v := range []float64{this[k], other[k]} {
			if !(v > 0) || math.IsInf(v, 1) {
				return Spread{}, fmt.Errorf("round %d has the value %v: a ratio needs positive values", k+1, v)
			}
		}
		list[k] = this[k] / other[k]
	}
	return Spread{Median: Median(list), Min: slices.Min(list), Max: slices.Max(list), Rounds: len(list)}, nil
}

// Better says which direction of a figure is an improvement.
type Better uint8

// The directions.
const (
	Lower  Better = iota // times, bytes
	Higher               // rates
)

// Verdict is the result of a comparison with a bound.
type Verdict string

// The verdicts. A row is Missed only if the whole spread lies beyond the bound: the worst rounds of a
// shared machine do not decide. Gained is the mirror image.
const (
	Within Verdict = "within"
	Missed Verdict = "missed"
	Gained Verdict = "gained"
)

// Verdict compares a spread of ratios (this build over the other one) with a bound, such as 0.05 for 5%.
// It fails for fewer than MinRounds rounds and for a negative bound. A rate misses the bound where the
// other build is faster by more than the bound, so that rates and times have the same limits.
func (s Spread) Verdict(bound float64, better Better) (Verdict, error) {
	if s.Rounds < MinRounds {
		return "", fmt.Errorf("%d rounds: a verdict needs at least %d", s.Rounds, MinRounds)
	}
	if !(bound >= 0) {
		return "", fmt.Errorf("bound %v: want 0 or more", bound)
	}
	low, high := s.Min, s.Max // how many times as costly this build is
	if better == Higher {
		low, high = 1/s.Max, 1/s.Min
	}
	switch {
	case low > 1+bound:
		return Missed, nil
	case high < 1/(1+bound):
		return Gained, nil
	}
	return Within, nil
}
