package consensus

import (
	"net"
	"sync/atomic"
)

// sent counts the bytes that this node has written to other nodes, by their purpose.
type sent struct {
	frames           [kindLast + 1]atomic.Uint64
	snapshots, blobs atomic.Uint64
}

// kindNames are the names of the kinds in metrics.
var kindNames = [kindLast + 1]string{
	kindAppend: "append", kindVote: "vote", kindPreVote: "prevote", kindTimeoutNow: "transfer", kindReply: "reply", kindBeats: "beats",
	kindWake: "wake", kindSleep: "sleep", kindOrder: "submit", kindInvite: "invite", kindFarewell: "farewell", kindSummary: "holdings",
	kindGone: "gone", kindRejoin: "rejoin", kindUnresponsive: "silent", kindTestify: "testify", kindComplain: "complain",
}

// Sent returns the number of bytes that this node has sent to other nodes for ordering since the Manager was created,
// by purpose: a name for each kind of frame, and one for each kind of stream. TLS adds its own bytes.
func (m *Manager) Sent() map[string]uint64 {
	s := &m.mesh.sent
	by := map[string]uint64{"snapshot": s.snapshots.Load(), "blob": s.blobs.Load()}
	for kind, name := range kindNames {
		if name != "" {
			by[name] = s.frames[kind].Load()
		}
	}
	return by
}

// stream counts the bytes that are written to a stream of the given purpose; frames are counted where they are
// written.
func (s *sent) stream(conn net.Conn, purpose byte) net.Conn {
	switch purpose {
	case streamSnapshot:
		return &tallyConn{conn, &s.snapshots}
	case streamBlob:
		return &tallyConn{conn, &s.blobs}
	}
	return conn
}

// tallyConn adds the number of bytes written to it to a sum.
type tallyConn struct {
	net.Conn
	sum *atomic.Uint64
}

// Write implements net.Conn.
func (c *tallyConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.sum.Add(uint64(n))
	return n, err
}
