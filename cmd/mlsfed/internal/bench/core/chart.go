package core

import (
	"cmp"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness"
)

// chartPoint is one group size, with a value for each of the lines of a chart.
type chartPoint struct {
	n     float64
	cost  []float64 // ms, in the order of costLines
	bytes []float64 // in the order of byteLines
}

// chartLine has the name and the style of a line.
type chartLine struct {
	name   string
	color  string
	dashed bool // computed, not measured
}

var costLines = []chartLine{
	{"commit", "#1b6ac9", false},
	{"floor of a commit", "#1b6ac9", true},
	{"process a commit", "#0f8a5f", false},
	{"floor of processing", "#0f8a5f", true},
	{"join, tree included", "#c2410c", false},
	{"floor of a join", "#c2410c", true},
	{"add a tenth in one commit", "#7c3aed", false},
	{"floor of adding a tenth", "#7c3aed", true},
	{"pairwise sessions: one renews", "#6b7280", true},
	{"sender keys: all renew", "#111827", true},
}

var byteLines = []chartLine{
	{"commit", "#1b6ac9", false},
	{"pairwise sessions: one renews", "#6b7280", true},
	{"sender keys: all renew", "#111827", true},
}

// The frame of a chart, in SVG units.
const (
	chartWidth             = 900.0
	chartLeft, chartRight  = 100.0, 660.0
	chartTop, chartPadding = 48.0, 64.0 // for the title, and for the text below
	costHeight, byteHeight = 440.0, 260.0
	labelGap               = 15.0
)

// chartNote returns the text that explains the lines.
func chartNote(suite string) []string {
	return []string{
		"Solid lines are measured, dashed ones computed from primitives measured in the same run.",
		"Cipher suite " + suite + ", one core, both axes logarithmic. A floor is the cryptography alone.",
		"Pairwise sessions: a member that renews its keys seals to each other one.",
		"Sender keys: after somebody has left, every member seals a new key to every other.",
	}
}

// chartPage returns a page with both charts.
func chartPage(suite string, points []chartPoint) string {
	return fmt.Sprintf(`<!doctype html>
<html lang="en"><meta charset="utf-8"><title>What a group costs</title>
<style>body{margin:2em auto;max-width:60em}svg{width:100%%;height:auto}</style>
%s</html>
`, chartImage(suite, points))
}

// chartImage returns an SVG image of two charts, one above the other.
func chartImage(suite string, points []chartPoint) string {
	second := chartTop + costHeight + chartPadding
	notes := second + chartTop + byteHeight + chartPadding
	note := chartNote(suite)
	height := notes + 20*float64(len(note)) + 10
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" font-family="system-ui,Helvetica,Arial,sans-serif" font-size="13" fill="#111827" role="img">`,
		chartWidth, height)
	fmt.Fprintf(&b, "<title>What a group costs, by the number of its members</title>\n<rect width=\"%.0f\" height=\"%.0f\" fill=\"#ffffff\"/>\n", chartWidth, height)
	logChart{
		title: "Time, by the number of members", unit: "ms", at: 0, height: costHeight, lines: costLines,
		of: func(p chartPoint) []float64 { return p.cost },
	}.draw(&b, points)
	logChart{
		title: "Bytes sent so that all have new keys", unit: "B", at: second, height: byteHeight, lines: byteLines,
		of: func(p chartPoint) []float64 { return p.bytes },
	}.draw(&b, points)
	for k, line := range note {
		fmt.Fprintf(&b, "<text x=\"16\" y=\"%.0f\" font-size=\"12\" fill=\"#4b5563\">%s</text>\n", notes+20*float64(k), html.EscapeString(line))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// logChart is a chart with logarithmic axes, whose lines have their names at their ends.
type logChart struct {
	title  string
	unit   string
	at     float64 // its upper edge
	height float64 // of the part with the lines
	lines  []chartLine
	of     func(chartPoint) []float64
}

func (c logChart) draw(b *strings.Builder, points []chartPoint) {
	low, high := math.Inf(1), math.Inf(-1)
	for _, p := range points {
		low, high = min(low, slices.Min(c.of(p))), max(high, slices.Max(c.of(p)))
	}
	bottom, top := math.Floor(math.Log10(low)), math.Ceil(math.Log10(high))
	first, last := math.Log10(points[0].n), math.Log10(points[len(points)-1].n)
	upper, lower := c.at+chartTop, c.at+chartTop+c.height
	x := func(n float64) float64 {
		return chartLeft + (math.Log10(n)-first)/(last-first)*(chartRight-chartLeft)
	}
	y := func(v float64) float64 { return lower - (math.Log10(v)-bottom)/(top-bottom)*c.height }

	fmt.Fprintf(b, "<text x=\"16\" y=\"%.0f\" font-size=\"16\" font-weight=\"600\">%s</text>\n", upper-22, html.EscapeString(c.title))
	for d := bottom; d <= top; d++ {
		at := y(math.Pow(10, d))
		fmt.Fprintf(b, `<line x1="%.0f" x2="%.0f" y1="%.1f" y2="%.1f" stroke="#e5e7eb"/>`, chartLeft, chartRight, at, at)
		fmt.Fprintf(b, "<text x=\"%.0f\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", chartLeft-8, at+4, power(d, c.unit))
	}
	for _, p := range points {
		fmt.Fprintf(b, `<line x1="%.1f" x2="%.1f" y1="%.0f" y2="%.0f" stroke="#e5e7eb"/>`, x(p.n), x(p.n), upper, lower)
		fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%.0f\" text-anchor=\"middle\">%s</text>\n", x(p.n), lower+20, harness.Thousands(p.n))
	}
	fmt.Fprintf(b, "<text x=\"%.0f\" y=\"%.0f\" text-anchor=\"middle\">members</text>\n", (chartLeft+chartRight)/2, lower+40)
	end := c.of(points[len(points)-1])
	labels := apart(end, y, upper, lower)
	for k, line := range c.lines {
		var path []string
		for _, p := range points {
			path = append(path, fmt.Sprintf("%.1f,%.1f", x(p.n), y(c.of(p)[k])))
		}
		style := fmt.Sprintf(`stroke="%s" stroke-width="2"`, line.color)
		if line.dashed {
			style = fmt.Sprintf(`stroke="%s" stroke-width="1.5" stroke-dasharray="5 4"`, line.color)
		}
		fmt.Fprintf(b, `<polyline fill="none" %s points="%s"/>`, style, strings.Join(path, " "))
		fmt.Fprintf(b, `<line x1="%.0f" x2="%.0f" y1="%.1f" y2="%.1f" stroke="%s" stroke-width="0.7"/>`, chartRight+2, chartRight+14, y(end[k]), labels[k], line.color)
		fmt.Fprintf(b, "<text x=\"%.0f\" y=\"%.1f\" font-size=\"12\" fill=\"%s\">%s</text>\n", chartRight+18, labels[k]+4, line.color, html.EscapeString(line.name))
	}
}

// apart returns places for labels at the ends of lines, in their order and so far apart that they can be read.
func apart(values []float64, y func(float64) float64, upper, lower float64) []float64 {
	order := make([]int, len(values))
	at := make([]float64, len(values))
	for k, v := range values {
		order[k], at[k] = k, y(v)
	}
	// Lines of one height keep the order in which they are named.
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(at[a], at[b]) })
	previous := upper - labelGap
	for _, k := range order {
		at[k] = max(at[k], previous+labelGap)
		previous = at[k]
	}
	next := lower + labelGap
	for _, k := range slices.Backward(order) {
		at[k] = min(at[k], next-labelGap)
		next = at[k]
	}
	return at
}

// scales holds the units of labels, each with its power of ten above the unit of the chart.
var scales = map[string][]struct {
	power float64
	unit  string
}{
	"ms": {{3, "s"}, {0, "ms"}, {-3, "µs"}},
	"B":  {{12, "TB"}, {9, "GB"}, {6, "MB"}, {3, "kB"}, {0, "B"}},
}

// power writes 10^d of a unit for a label.
func power(d float64, unit string) string {
	for _, s := range scales[unit] {
		if d >= s.power {
			return harness.Thousands(math.Pow(10, d-s.power)) + " " + s.unit
		}
	}
	return fmt.Sprintf("%g %s", math.Pow(10, d), unit)
}
