package orderbench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mlsfed/mlsfed/consensus"
	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/wire"
)

var organizations = []wire.Domain{"a.example", "b.example", "c.example"}

// ours consists of three nodes, one for each organization, and n conversations across them.
type ours struct {
	*clients
	dir     string
	backend string
	keep    bool // arrivals are kept

	nodes  [3]*benchNode
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// home returns the node that the clients of conversation i use.
func (o *ours) home(i int) *consensus.Manager { return o.nodes[i%3].manager }

type benchNode struct {
	id      wire.NodeID
	log     *raftlog.Log
	manager *consensus.Manager
	listen  net.Listener
	seen    arrivals
}

// arrivals records when entries are delivered on a node.
type arrivals struct {
	mu    sync.Mutex // guards the fields below
	at    map[wire.ConversationID]map[wire.SequenceNumber]time.Time
	heads map[wire.ConversationID]wire.SequenceNumber
	keep  bool
}

// consumer is nil unless arrivals are kept: otherwise the Manager would use its positions.
func (n *benchNode) consumer() consensus.Consumer {
	if !n.seen.keep {
		return nil
	}
	return &n.seen
}

// Position implements consensus.Consumer.
func (a *arrivals) Position(id wire.ConversationID) (wire.SequenceNumber, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.heads[id], nil
}

// Consume implements consensus.Consumer.
func (a *arrivals) Consume(_ context.Context, d consensus.Delivery) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heads[d.Conversation] = d.Committed.Sequence
	if a.at[d.Conversation] == nil {
		a.at[d.Conversation] = map[wire.SequenceNumber]time.Time{}
	}
	a.at[d.Conversation][d.Committed.Sequence] = time.Now()
	return nil
}

// OrdersOnly implements consensus.Roster.
func (o *ours) OrdersOnly(wire.NodeID) bool { return false }

// Announced implements consensus.Roster: all nodes are of this build.
func (o *ours) Announced(wire.NodeID, wire.Feature) bool { return true }

// Nodes implements consensus.Roster.
func (o *ours) Nodes(org wire.Domain) []wire.NodeID { return []wire.NodeID{"n1." + wire.NodeID(org)} }

func newOurs(ctx context.Context, dir, backend string, n int, progress func(string, ...any)) (*ours, error) {
	o := &ours{clients: newClients(n), dir: dir, backend: backend, keep: n == 1}
	err := o.run(ctx)
	if err == nil {
		err = o.found(ctx, n, progress)
	}
	if err != nil {
		return nil, errors.Join(err, o.close())
	}
	return o, nil
}

// run starts the nodes, for the first time or with their data on disk.
func (o *ours) run(ctx context.Context) error {
	ctx, o.cancel = context.WithCancel(ctx)
	for k := range o.nodes {
		if err := o.start(ctx, k); err != nil {
			return err
		}
	}
	return nil
}

// start makes node k and runs it.
func (o *ours) start(ctx context.Context, k int) (err error) {
	node := &benchNode{id: o.Nodes(organizations[k])[0]}
	node.seen = arrivals{at: map[wire.ConversationID]map[wire.SequenceNumber]time.Time{}, heads: map[wire.ConversationID]wire.SequenceNumber{}, keep: o.keep}
	dir := filepath.Join(o.dir, string(node.id))
	if node.listen, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	if node.log, err = raftlog.Open(raftlog.Config{Dir: filepath.Join(dir, "log"), Backend: o.backend}); err != nil {
		return errors.Join(err, node.listen.Close())
	}
	o.nodes[k] = node
	node.manager, err = consensus.New(consensus.Config{
		Node: node.id, Dir: filepath.Join(dir, "snapshots"), Log: node.log, Link: &tcpLink{o, node.id},
		Roster: o, Consumer: node.consumer(), Limits: consensus.Limits{Inflight: 20_000, Opening: 256},
	})
	if err != nil {
		return err
	}
	o.done.Go(func() { _ = node.manager.Run(ctx) }) // the goroutine ends with ctx
	o.done.Go(func() { node.accept(ctx) })
	return nil
}

// found creates n conversations, each with a voter on every node.
func (o *ours) found(ctx context.Context, n int, progress func(string, ...any)) error {
	errs := make(chan error, n)
	slots := make(chan struct{}, 64)
	var done atomic.Int64
	for i := range n {
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			errs <- o.foundOne(ctx, i)
			if d := done.Add(1); d%1000 == 0 {
				progress("%d of %d conversations are set up", d, n)
			}
		}()
	}
	var all error
	for range n {
		all = errors.Join(all, <-errs)
	}
	return all
}

func (o *ours) foundOne(ctx context.Context, i int) error {
	receipt, err := o.home(i).Create(ctx, o.next(i))
	for errors.Is(err, wire.Unavailable) && ctx.Err() == nil { // the node is still starting
		pause(ctx, 5*time.Millisecond)
		receipt, err = o.home(i).Create(ctx, o.next(i))
	}
	if err != nil {
		return err
	}
	o.answered(i, receipt)
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline) && ctx.Err() == nil; pause(ctx, 10*time.Millisecond) {
		// The entry that raises the rules is the last one that the nodes order themselves: a commit that is signed
		// before this entry follows nothing.
		if st, err := o.home(i).Status(o.talks[i].id); err == nil && len(st.Voters) == 3 && st.Level >= wire.UsualLevel {
			return nil
		}
	}
	return fmt.Errorf("conversation %d did not get its three voters and the usual rules", i)
}

// orderNext commits the next epoch of conversation i.
func (o *ours) orderNext(ctx context.Context, i int) error {
	receipt, err := o.home(i).Order(ctx, o.next(i))
	if err == nil {
		o.answered(i, receipt)
	}
	return err
}

// lags returns the delays, in milliseconds, between the first arrival of an entry and its arrival on the other nodes.
// The first arrival is on the node that committed the entry, unless that node was busy with others.
func (o *ours) lags() []float64 {
	arrived := map[wire.SequenceNumber][]time.Time{}
	for _, n := range o.nodes {
		n.seen.mu.Lock()
		for seq, at := range n.seen.at[o.talks[0].id] {
			arrived[seq] = append(arrived[seq], at)
		}
		n.seen.mu.Unlock()
	}
	var out []float64
	for _, at := range arrived {
		slices.SortFunc(at, time.Time.Compare)
		for _, later := range at[1:] {
			out = append(out, milliseconds(later.Sub(at[0])))
		}
	}
	return out
}

// close stops the nodes. Their data stays on disk.
func (o *ours) close() error {
	o.cancel()
	var errs []error
	for _, n := range o.nodes {
		if n != nil {
			errs = append(errs, n.listen.Close())
		}
	}
	o.done.Wait()
	for _, n := range o.nodes {
		if n != nil {
			errs = append(errs, n.log.Close())
		}
	}
	o.nodes = [3]*benchNode{}
	return errors.Join(errs...)
}

// tcpLink dials the other nodes on loopback. A dialing node sends its name, which is not checked: the network of a
// measurement is its own.
type tcpLink struct {
	o    *ours
	self wire.NodeID
}

// Dial implements consensus.Link.
func (l *tcpLink) Dial(ctx context.Context, to wire.NodeID) (net.Conn, error) {
	for _, n := range l.o.nodes {
		if n == nil || n.id != to {
			continue
		}
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", n.listen.Addr().String())
		if err != nil {
			return nil, err
		}
		name := binary.BigEndian.AppendUint16(nil, uint16(len(l.self)))
		if _, err := conn.Write(append(name, l.self...)); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		return conn, nil
	}
	return nil, fmt.Errorf("node %s is not there", to)
}

// accept serves streams that the other nodes open.
func (n *benchNode) accept(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		conn, err := n.listen.Accept()
		if err != nil {
			return
		}
		all.Go(func() {
			var size [2]byte
			if _, err := io.ReadFull(conn, size[:]); err != nil {
				conn.Close()
				return
			}
			name := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, err := io.ReadFull(conn, name); err != nil {
				conn.Close()
				return
			}
			_ = n.manager.Accept(ctx, wire.NodeID(name), conn) // the other node opens a broken stream again
		})
	}
}
