package delivery

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness"
	"github.com/mlsfed/mlsfed/internal/stats"
)

// The workloads of this file have nodes with processes of their own, so that the processor time is that of the nodes.

// withNodes returns a workload whose nodes are processes: of the program of --node, or of this one.
func (b *bench) withNodes(run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		node, own, processor := b.Node, b.own, b.processor
		defer func() { b.Node, b.own, b.processor = node, own, processor }()
		if node == "" {
			b.own = true
		}
		b.processor = true
		if err := b.FindNode(true); err != nil {
			return err
		}
		return run(ctx)
	}
}

// rates measures pairs of devices, with several numbers of pairs, and one pair against the floor.
func (b *bench) rates(ctx context.Context) (err error) {
	w, err := b.world(ctx, "rate", 2)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	most := b.chats[len(b.chats)-1]
	lines := make([]line, most)
	b.Table.Progress("rate: %d pairs of devices enrol", most)
	err = shareOut(most, func(i int) (err error) {
		lines[i], err = w.pair(i)
		return err
	})
	if err != nil {
		return err
	}
	first := 0.0
	for i, n := range b.chats {
		before, err := floorOfDelivery(filepath.Join(b.Dir, "floor"), b.size)
		if err != nil {
			return err
		}
		t, err := w.load(fmt.Sprintf("rate of %d", n), lines[:n])
		if err != nil {
			return err
		}
		r := harness.Row{Name: "rate", N: n, Value: float64(len(t.took)) / t.elapsed.Seconds(), Unit: harness.UnitRate}
		if i == 0 {
			first = r.Value
		} else {
			r.Against, r.Ratio = fmt.Sprintf("n = %d", b.chats[0]), r.Value/first
		}
		if err := b.Table.Add(r); err != nil {
			return err
		}
		if n == 1 {
			after, err := floorOfDelivery(filepath.Join(b.Dir, "floor"), b.size)
			if err != nil {
				return err
			}
			floor := (before + after) / 2
			p50 := stats.Percentile(t.took, 0.5)
			if err := errors.Join(
				b.Table.Add(harness.Row{Name: "delivered/floor", N: 1, Value: floor, Unit: "ms"}),
				b.Table.Add(harness.Row{Name: "delivered/p50", N: 1, Value: p50, Unit: "ms", Against: "the floor", Ratio: p50 / floor}),
			); err != nil {
				return err
			}
		}
		if n == most {
			each := harness.Milliseconds(t.processor) / float64(len(t.took))
			if err := b.Table.Add(harness.Row{Name: "server-cpu", N: n, Value: each, Unit: "ms"}); err != nil {
				return err
			}
		}
	}
	return nil
}

// pair enrols a device in each of two organizations, with a conversation of both.
func (w *deliveryWorld) pair(i int) (line, error) {
	from, err := w.enrol(w.domains[0], fmt.Sprintf("from%d", i+1))
	if err != nil {
		return line{}, err
	}
	to, err := w.enrol(w.domains[1], fmt.Sprintf("to%d", i+1))
	if err != nil {
		return line{}, err
	}
	t, err := w.converse(from, to)
	return line{from, t}, err
}

const (
	manyAgainst = 16 // conversations with which many are compared, and senders of both
	// perPair is the number of conversations of one pair of devices: nodes of other builds limit the conversations into
	// which a user is invited at once.
	perPair = 25
)

// manyChats measures many conversations that chat in turn, against a few of the same kind, with as many senders.
func (b *bench) manyChats(ctx context.Context) (err error) {
	w, err := b.world(ctx, "many", 2)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	pairs := max(manyAgainst, (b.many+perPair-1)/perPair)
	lines := make([]line, b.many)
	var made atomic.Int64
	err = shareOut(pairs, func(k int) error {
		one, err := w.pair(k)
		if err != nil {
			return err
		}
		for i := k; i < b.many; i += pairs {
			if lines[i] = one; i != k {
				if lines[i].to, err = w.converse(one.to.members...); err != nil {
					return err
				}
			}
			for range b.manyCommits {
				if err := one.from.UpdateKeys(w.ctx, lines[i].to.id); err != nil {
					return w.cause(err)
				}
			}
			if n := made.Add(1); n%100 == 0 {
				b.Table.Progress("many: %d of %d conversations", n, b.many)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	rate := func(lines []line) (float64, error) {
		turns := make([][]line, manyAgainst)
		for i, l := range lines {
			turns[i%manyAgainst] = append(turns[i%manyAgainst], l)
		}
		t, err := w.loadTurns(fmt.Sprintf("many: %d conversations", len(lines)), turns)
		if err != nil {
			return 0, err
		}
		return float64(len(t.took)) / t.elapsed.Seconds(), nil
	}
	before, err := rate(lines[:manyAgainst])
	if err != nil {
		return err
	}
	all, err := rate(lines)
	if err != nil {
		return err
	}
	after, err := rate(lines[:manyAgainst])
	if err != nil {
		return err
	}
	few := (before + after) / 2
	return errors.Join(
		b.Table.Add(harness.Row{Name: "rate/many", N: manyAgainst, Value: few, Unit: harness.UnitRate}),
		b.Table.Add(harness.Row{Name: "rate/many", N: b.many, Value: all, Unit: harness.UnitRate, Against: fmt.Sprintf("n = %d", manyAgainst), Ratio: all / few}),
	)
}

// largeRoom measures a conversation of two organizations with many devices.
func (b *bench) largeRoom(ctx context.Context) (err error) {
	w, err := b.world(ctx, "large-room", 2)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	t, n, err := b.inRoom(w, b.roomDevices)
	if err != nil {
		return err
	}
	return errors.Join(
		b.Table.Add(harness.Row{Name: "room/server-cpu", N: n, Value: harness.Milliseconds(t.processor) / float64(len(t.took)), Unit: "ms"}),
		b.Table.Add(harness.Row{Name: "room/all-p50", N: n, Value: stats.Percentile(t.took, 0.5), Unit: "ms"}),
	)
}

// floorSamples is the number of round trips and of fsyncs of which the floor takes the medians.
const floorSamples = 100

// floorOfDelivery returns the shortest time of a message's way, in milliseconds: four writes with fsync, one after the
// other, by the sending device, both nodes and the receiving device, and three ways over TLS on loopback.
func floorOfDelivery(file string, size int) (float64, error) {
	disk, err := fsyncTime(file, size)
	if err != nil {
		return 0, err
	}
	trip, err := roundTrip(size)
	return 4*disk + 3*trip/2, err
}

// fsyncTime returns the median time of an appended write with fsync.
func fsyncTime(file string, size int) (ms float64, err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(file)) }()
	took := make([]float64, floorSamples)
	for i := range took {
		begun := time.Now()
		if _, err := f.Write(make([]byte, size)); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		took[i] = harness.Milliseconds(time.Since(begun))
	}
	return stats.Median(took), nil
}

// roundTrip returns the median time in which a message goes to another goroutine and back, over TLS on loopback.
func roundTrip(size int) (ms float64, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return 0, err
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), DNSNames: []string{"floor.example"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return 0, err
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return 0, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS13})
	if err != nil {
		return 0, err
	}
	echoed := make(chan error, 1)
	go func() { echoed <- echoOne(l, size) }()
	conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{RootCAs: roots, ServerName: "floor.example", MinVersion: tls.VersionTLS13})
	if err != nil {
		return 0, errors.Join(err, l.Close(), <-echoed)
	}
	took := make([]float64, floorSamples)
	buf := make([]byte, size)
	for i := range took {
		begun := time.Now()
		if _, err = conn.Write(buf); err == nil {
			_, err = io.ReadFull(conn, buf)
		}
		if err != nil {
			break
		}
		took[i] = harness.Milliseconds(time.Since(begun))
	}
	return stats.Median(took), errors.Join(err, conn.Close(), <-echoed, l.Close())
}

// echoOne sends back what one connection sends, in pieces of a size, until the connection ends.
func echoOne(l net.Listener, size int) error {
	conn, err := l.Accept()
	if err != nil {
		return nil // the dialing side reports why
	}
	defer conn.Close()
	for buf := make([]byte, size); ; {
		if _, err := io.ReadFull(conn, buf); err != nil {
			return nil // the other side has ended
		}
		if _, err := conn.Write(buf); err != nil {
			return err
		}
	}
}
