package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// chartPoint is one group size, with a value for each of the lines of a chart.
type chartPoint struct {
	n     float64
	cost  []float64 // ms, in the order of costLines
	bytes []float64 // in the order of byteLines
}

// chartLine names a line and says how it is drawn.
type chartLine struct {
	name   string
	color  string
	dashed bool // computed, not measured
}

var costLines = []chartLine{
	{"commit", "#1b6ac9", false},
	{"commit, floor from primitives", "#1b6ac9", true},
	{"process a commit", "#159a6c", false},
	{"join, tree included", "#c2410c", false},
	{"join, floor from primitives", "#c2410c", true},
	{"add a tenth in one commit", "#7c3aed", false},
	{"re-key with pairwise sessions (computed)", "#6b7280", true},
	{"re-key with sender keys, whole group (computed)", "#111827", true},
}

var byteLines = []chartLine{
	{"commit", "#1b6ac9", false},
	{"re-key with pairwise sessions (computed)", "#6b7280", true},
	{"re-key with sender keys, whole group (computed)", "#111827", true},
}

// coreChart is a page with two charts, both axes logarithmic.
func coreChart(suite string, points []chartPoint) string {
	cost := func(p chartPoint) []float64 { return p.cost }
	bytes := func(p chartPoint) []float64 { return p.bytes }
	return fmt.Sprintf(`<!doctype html>
<html lang="en"><meta charset="utf-8"><title>What a group costs</title>
<style>body{font:15px/1.4 system-ui,sans-serif;margin:2em auto;max-width:60em;color:#111827}svg{width:100%%;height:auto}</style>
<h1>What a group costs, from %s to %s members</h1>
<p>%s, one core, one run. Solid lines are measured; dashed ones are computed from the primitives
measured in the same run.</p>
<h2>Time</h2>
%s
<h2>Bytes to re-key</h2>
%s
</html>
`, thousands(points[0].n), thousands(points[len(points)-1].n), html.EscapeString(suite),
		logChart(points, costLines, cost, "ms"), logChart(points, byteLines, bytes, "B"))
}

// The frame of a chart, in SVG units.
const (
	chartLeft, chartRight  = 90.0, 620.0
	chartTop, chartBottom  = 20.0, 420.0
	chartWidth, chartHight = 1010.0, 470.0
)

// logChart draws lines over logarithmic axes.
func logChart(points []chartPoint, lines []chartLine, of func(chartPoint) []float64, unit string) string {
	low, high := math.Inf(1), math.Inf(-1)
	for _, p := range points {
		for _, v := range of(p) {
			low, high = min(low, v), max(high, v)
		}
	}
	bottom, top := math.Floor(math.Log10(low)), math.Ceil(math.Log10(high))
	first, last := math.Log10(points[0].n), math.Log10(points[len(points)-1].n)
	x := func(n float64) float64 {
		if last == first {
			return chartLeft
		}
		return chartLeft + (math.Log10(n)-first)/(last-first)*(chartRight-chartLeft)
	}
	y := func(v float64) float64 {
		return chartBottom - (math.Log10(v)-bottom)/(top-bottom)*(chartBottom-chartTop)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %.0f %.0f" font-size="13" role="img">`, chartWidth, chartHight)
	for d := bottom; d <= top; d++ {
		at := y(math.Pow(10, d))
		fmt.Fprintf(&b, `<line x1="%.0f" x2="%.0f" y1="%.1f" y2="%.1f" stroke="#e5e7eb"/><text x="%.0f" y="%.1f" text-anchor="end">%s</text>`,
			chartLeft, chartRight, at, at, chartLeft-8, at+4, power(d, unit))
	}
	for _, p := range points {
		fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%.0f" y2="%.0f" stroke="#e5e7eb"/><text x="%.1f" y="%.0f" text-anchor="middle">%s</text>`,
			x(p.n), x(p.n), chartTop, chartBottom, x(p.n), chartBottom+20, thousands(p.n))
	}
	fmt.Fprintf(&b, `<text x="%.0f" y="%.0f" text-anchor="middle">members</text>`, (chartLeft+chartRight)/2, chartBottom+42)
	for k, line := range lines {
		var path []string
		for _, p := range points {
			path = append(path, fmt.Sprintf("%.1f,%.1f", x(p.n), y(of(p)[k])))
		}
		dash := ""
		if line.dashed {
			dash = ` stroke-dasharray="5 4"`
		}
		at := chartTop + 10 + 22*float64(k)
		fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" stroke-width="2"%s points="%s"/>`, line.color, dash, strings.Join(path, " "))
		fmt.Fprintf(&b, `<line x1="%.0f" x2="%.0f" y1="%.1f" y2="%.1f" stroke="%s" stroke-width="2"%s/><text x="%.0f" y="%.1f">%s</text>`,
			chartRight+20, chartRight+44, at, at, line.color, dash, chartRight+52, at+4, html.EscapeString(line.name))
	}
	b.WriteString(`</svg>`)
	return b.String()
}

// scales are the units of a label, each so many powers of ten above the one of the chart.
var scales = map[string][]struct {
	power float64
	unit  string
}{
	"ms": {{3, "s"}, {0, "ms"}, {-3, "µs"}},
	"B":  {{9, "GB"}, {6, "MB"}, {3, "kB"}, {0, "B"}},
}

// power writes 10^d of a unit for a label.
func power(d float64, unit string) string {
	for _, s := range scales[unit] {
		if d >= s.power {
			return thousands(math.Pow(10, d-s.power)) + " " + s.unit
		}
	}
	return fmt.Sprintf("%g %s", math.Pow(10, d), unit)
}

// thousands writes a whole number with commas.
func thousands(v float64) string {
	digits := fmt.Sprintf("%.0f", v)
	for at := len(digits) - 3; at > 0; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return digits
}
