package harness

import "github.com/mlsfed/mlsfed/internal/stats"

// pairing finds the rows of two builds that are the same figure. this and other hold the output of each build, a list
// for each round.
type pairing struct {
	this, other [][]Row
}

// figure identifies a row in the output of a benchmark. n is 0 for a name that occurs once in an output: the size of
// such a row may be a number of samples, which differs from run to run.
type figure struct {
	name  string
	suite uint16
	n     int
	nth   int // among otherwise equal rows
}

// figured returns the rows of one output by their figures, and the figures in the order of the rows.
func figured(rows []Row) (map[figure]Row, []figure) {
	type kind struct {
		name  string
		suite uint16
	}
	times := make(map[kind]int)
	for _, r := range rows {
		times[kind{r.Name, r.Suite}]++
	}
	by := make(map[figure]Row, len(rows))
	order := make([]figure, 0, len(rows))
	for _, r := range rows {
		f := figure{name: r.Name, suite: r.Suite}
		if times[kind{r.Name, r.Suite}] > 1 {
			f.n = r.N
		}
		for _, taken := by[f]; taken; _, taken = by[f] {
			f.nth++
		}
		by[f] = r
		order = append(order, f)
	}
	return by, order
}

// gathered holds the values of one figure in all rounds, and one of its rows.
type gathered struct {
	row    Row
	values []float64
}

// gather collects the figures of a build. A figure that a round lacks has fewer values than rounds.
func gather(rounds [][]Row) (map[figure]*gathered, []figure) {
	all := make(map[figure]*gathered)
	var order []figure
	for _, rows := range rounds {
		by, list := figured(rows)
		for _, f := range list {
			if all[f] == nil {
				all[f] = &gathered{row: by[f]}
				order = append(order, f)
			}
			all[f].values = append(all[f].values, by[f].Value)
		}
	}
	return all, order
}

// rows compares all figures, those of this build first and in its order.
func (p *pairing) rows(bound float64) []comparedRow {
	this, order := gather(p.this)
	other, otherOrder := gather(p.other)
	var list []comparedRow
	for _, f := range order {
		list = append(list, compareFigure(this[f], other[f], bound))
	}
	for _, f := range otherOrder {
		if this[f] == nil {
			list = append(list, compareFigure(nil, other[f], bound))
		}
	}
	return list
}

// compareFigure compares the values of a figure. A build that lacks it has nil.
func compareFigure(this, other *gathered, bound float64) comparedRow {
	some := this
	if some == nil {
		some = other
	}
	r := comparedRow{Name: some.row.Name, Suite: some.row.Suite, N: some.row.N, Unit: some.row.Unit}
	if this != nil {
		r.This = stats.Median(this.values)
	}
	if other != nil {
		r.Other = stats.Median(other.values)
	}
	switch {
	case other == nil:
		r.Verdict = verdictOnlyThis
		return r
	case this == nil:
		r.Verdict = verdictOnlyOther
		return r
	}
	better := stats.Lower
	if r.Unit == UnitRate {
		better = stats.Higher
	}
	spread, err := stats.Ratios(this.values, other.values)
	if err == nil {
		r.Verdict, err = spread.Verdict(bound, better)
	}
	if err != nil {
		r.Verdict = verdictNoRatio
		return r
	}
	r.Rounds, r.Ratio, r.Min, r.Max = spread.Rounds, spread.Median, spread.Min, spread.Max
	return r
}
