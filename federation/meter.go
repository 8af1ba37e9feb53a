package federation

import (
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/mlsfed/mlsfed/wire"
)

// Sizes and types of frames of HTTP/2 (RFC 9113 §4.1).
const (
	h2Preface = 24 // bytes that the side that has dialed sends first
	h2Header  = 9
	h2Data    = 0
)

const (
	// fullData is the payload of a DATA frame from which the frame is paid for by its bytes alone, in bytes.
	fullData = 1 << 10
	// maxCredit bounds the frames that an answer lets the other side send, which is to say WINDOW_UPDATEs.
	maxCredit = 1 << 16
	// maxMeterWait bounds one wait for the rate of bytes, so that a connection that is closed ends.
	maxMeterWait = time.Second
)

// meter is a connection of calls that counts the frames of HTTP/2 before anything is done for them. HTTP/2 itself
// bounds streams and headers, but neither PING, SETTINGS, RST_STREAM and empty DATA frames nor bytes of streams that
// were refused. Frames with little in them are taken from the budget of the organization; over it, the connection is
// cut. Over the budget of bytes, reading waits. Bytes that this node writes give credit: each KiB of an answer may be
// acknowledged with a WINDOW_UPDATE. One goroutine reads, others write.
type meter struct {
	net.Conn
	budget *budget
	node   wire.NodeID
	f      *Federation

	skip   int            // bytes of the input before the next header
	part   [h2Header]byte // of a header that is not complete
	have   int            // bytes of part
	credit atomic.Int64   // frames that are free
	left   int            // bytes written that have given no credit yet; of writers, which HTTP/2 serializes
}

func newMeter(f *Federation, s *peerConn, dialed bool) *meter {
	m := &meter{Conn: s.Conn, budget: f.budgets.of(s.node.Organization()), node: s.node, f: f}
	if !dialed {
		m.skip = h2Preface
	}
	return m
}

// Read implements net.Conn.
func (m *meter) Read(b []byte) (int, error) {
	n, err := m.Conn.Read(b)
	if cut := m.parse(b[:n]); cut != nil {
		m.f.metrics.cut.WithLabelValues(cutFrames).Inc()
		m.f.lines.warn("connection cut", "node", m.node, "reason", cutFrames, "error", cut)
		_ = m.Conn.Close()
		return 0, cut
	}
	m.wait(n)
	return n, err
}

// wait waits until the rate of bytes allows n more.
func (m *meter) wait(n int) {
	now := time.Now()
	r := m.budget.raw.ReserveN(now, n)
	if d := r.DelayFrom(now); r.OK() && d > 0 {
		m.f.metrics.slowed.Inc()
		time.Sleep(min(d, maxMeterWait))
	}
}

// Write implements net.Conn.
func (m *meter) Write(b []byte) (int, error) {
	m.left += len(b)
	if n := int64(m.left >> 10); n > 0 {
		m.left &= 1<<10 - 1
		if m.credit.Load() < maxCredit {
			m.credit.Add(n)
		}
	}
	return m.Conn.Write(b)
}

// parse goes through the bytes, which begin where the last ones ended.
func (m *meter) parse(b []byte) error {
	for len(b) > 0 {
		if m.skip > 0 {
			n := min(m.skip, len(b))
			m.skip -= n
			b = b[n:]
			continue
		}
		n := copy(m.part[m.have:], b)
		m.have += n
		b = b[n:]
		if m.have < h2Header {
			return nil
		}
		m.have = 0
		m.skip = int(m.part[0])<<16 | int(m.part[1])<<8 | int(m.part[2])
		if m.part[3] == h2Data && m.skip >= fullData {
			continue
		}
		if m.credit.Add(-1) >= 0 {
			continue
		}
		m.credit.Add(1)
		if !m.budget.frames.AllowN(time.Now(), 1) {
			return fmt.Errorf("%s sends too many HTTP/2 frames with little in them", m.node)
		}
	}
	return nil
}

// meterLimits returns the limiters of an organization's meters.
func meterLimits(l Limits) (frames, raw *rate.Limiter) {
	// A call has its bytes twice: a call that its budget refuses is still read.
	return rate.NewLimiter(rate.Limit(l.Frames), l.FrameBurst), rate.NewLimiter(rate.Limit(2*l.Bytes), max(l.ByteBurst, 1<<20))
}
