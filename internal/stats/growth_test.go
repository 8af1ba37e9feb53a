package stats

import (
	"math"
	"testing"
)

func TestGrowth(t *testing.T) {
	n := []float64{10, 30, 100, 200}
	for _, power := range []float64{-1, 0, 0.5, 1, 2.7} {
		v := make([]float64, len(n))
		for k := range n {
			v[k] = 3 * math.Pow(n[k], power)
		}
		if got, err := Growth(n, v); err != nil || math.Abs(got-power) > 1e-9 {
			t.Errorf("grows with the power %v, %v, wanted %v", got, err, power)
		}
	}
	for name, c := range map[string][2][]float64{
		"one size":          {{10}, {1}},
		"one size twice":    {{10, 10}, {1, 2}},
		"the size 1 twice":  {{1, 1}, {1, 2}},
		"a value too few":   {{10, 20}, {1}},
		"a value of 0":      {{10, 20}, {1, 0}},
		"an infinite value": {{10, 20}, {1, math.Inf(1)}},
		"no number":         {{10, 20}, {1, math.NaN()}},
	} {
		if got, err := Growth(c[0], c[1]); err == nil {
			t.Errorf("%s: %v, wanted an error", name, got)
		}
	}
}
