package stats

import (
	"fmt"
	"math"
)

// Growth returns the power of n with which v grows: the slope of the line that fits both logarithms best (least
// squares). It fails with fewer than two sizes, and where a value is not positive and finite.
func Growth(n, v []float64) (float64, error) {
	if len(n) != len(v) || len(n) < 2 {
		return 0, fmt.Errorf("%d sizes with %d values: want the same number, at least 2", len(n), len(v))
	}
	var sumX, sumY, sumXX, sumXY float64
	for k := range n {
		for _, f := range []float64{n[k], v[k]} {
			if !(f > 0) || math.IsInf(f, 1) {
				return 0, fmt.Errorf("size %v has the value %v: a power needs positive numbers", n[k], v[k])
			}
		}
		x, y := math.Log(n[k]), math.Log(v[k])
		sumX, sumY, sumXX, sumXY = sumX+x, sumY+y, sumXX+x*x, sumXY+x*y
	}
	count := float64(len(n))
	spread := count*sumXX - sumX*sumX
	if spread < 1e-9*count*sumXX || spread == 0 {
		return 0, fmt.Errorf("all values are of size %v: want two sizes", n[0])
	}
	return (count*sumXY - sumX*sumY) / spread, nil
}
