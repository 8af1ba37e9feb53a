package streams

// positions counts cursors by sequence number and knows the lowest and the highest one.
type positions struct {
	at    map[uint64]int
	count int
	low   uint64
	high  uint64
	stale bool // high is to be looked for: that reader has gone
}

func (p *positions) add(at uint64) {
	if p.at == nil {
		p.at = make(map[uint64]int)
	}
	if p.count == 0 || at < p.low {
		p.low = at
	}
	p.high = max(p.high, at)
	p.at[at]++
	p.count++
}

func (p *positions) remove(at, last uint64) {
	if p.at[at]--; p.at[at] == 0 {
		delete(p.at, at)
		p.stale = p.stale || at == p.high
	}
	p.count--
	p.settle(last)
}

func (p *positions) move(from, to, last uint64) {
	p.add(to)
	p.remove(from, last)
}

// highest is the highest cursor, 0 for none.
func (p *positions) highest() uint64 {
	if p.stale && p.at[p.high] == 0 {
		p.high = 0
		for at := range p.at {
			p.high = max(p.high, at)
		}
	}
	p.stale = false
	return p.high
}

// settle raises low to the lowest cursor. It looks one step after the other first, which is the usual
// case, and at all positions if that takes more steps than there are positions.
func (p *positions) settle(last uint64) {
	if p.count == 0 {
		p.low = last
		return
	}
	for range len(p.at) {
		if p.at[p.low] > 0 {
			return
		}
		p.low++
	}
	first := true
	for at := range p.at {
		if first || at < p.low {
			p.low, first = at, false
		}
	}
}
