package delivery

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness/harnesstest"
)

// TestLongBenchDelivery runs the workloads at their smallest, without MLSFED_LONG only the first workload. It checks
// that every figure is there. A fault that a device reports would end the run.
func TestLongBenchDelivery(t *testing.T) {
	args := strings.Fields("delivery --json --short --duration 50ms --waiting 4 --conversations 2 --processor-time")
	if !harness.HasProcessorTime {
		args = args[:len(args)-1]
	}
	want := strings.Fields("one-to-one/rate one-to-one/p50 one-to-one/p99 one-to-one/processor")
	if os.Getenv("MLSFED_LONG") == "" {
		args = append(args, "--only", "one-to-one")
	} else {
		want = append(want, strings.Fields(`room/rate room/p50 room/p99 room/processor
			outage/node outage/all outage/rate outage/p50 outage/p99 outage/processor
			device/transactions device/transactions-received device/reconnect
			rate delivered/floor delivered/p50 rate server-cpu rate/many rate/many room/server-cpu room/all-p50`)...)
		args = append(args, "--node", harnesstest.Build(t))
	}
	var names []string
	for _, r := range harnesstest.Rows(t, Command, args) {
		names = append(names, r.Name)
		load, _, _ := strings.Cut(r.Name, "/")
		want := map[string][]int{
			"one-to-one": {1}, "room": {6}, "outage": {4}, "device": {4}, "device/reconnect": {1}, "rate": {1, 4}, "delivered": {1},
			"server-cpu": {4}, "rate/many": {16, 32}, "room/server-cpu": {8}, "room/all-p50": {8},
		}
		sizes := want[r.Name]
		if sizes == nil {
			sizes = want[load]
		}
		if !slices.Contains(sizes, r.N) {
			t.Errorf("%s: n is %d, want one of %v", r.Name, r.N, sizes)
		}
		if r.Value <= 0 && !strings.HasSuffix(r.Name, "/processor") || r.Unit == "" {
			t.Errorf("%+v: want a value and a unit", r)
		}
	}
	if !harness.HasProcessorTime {
		want = slices.DeleteFunc(want, func(s string) bool { return strings.HasSuffix(s, "/processor") })
	}
	if !slices.Equal(names, want) {
		t.Errorf("rows %v, want %v", names, want)
	}
}

// TestBenchDeliveryCounts checks that a message has arrived when all devices have it, and one that comes twice, or to
// the wrong device, ends the run.
func TestBenchDeliveryCounts(t *testing.T) {
	a, b := new(correspondent), new(correspondent)
	event := func(number uint64) *client.Event {
		body := binary.BigEndian.AppendUint64(nil, number)
		return &client.Event{Type: client.EventMessage, Message: &client.Message{Content: client.Content{Type: client.ContentBytes, Body: body}}}
	}
	world := func() (*deliveryWorld, *letter) {
		w := &deliveryWorld{letters: make(map[uint64]*letter)}
		w.ctx, w.fail = context.WithCancelCause(t.Context())
		l := &letter{number: 5, owed: map[*correspondent]bool{a: true, b: true}, arrived: make(chan struct{})}
		w.letters[5] = l
		return w, l
	}
	w, l := world()
	w.take(a, event(5))
	select {
	case <-l.arrived:
		t.Fatal("arrived with one of two devices")
	default:
	}
	w.take(b, event(5))
	if at, err := w.await(l); err != nil || !at.Equal(l.arrivals[1]) {
		t.Fatalf("%v, %v, want the time of the last of %v", at, err, l.arrivals)
	}
	for name, spoil := range map[string]func(*deliveryWorld, *letter){
		"twice":            func(w *deliveryWorld, _ *letter) { w.take(a, event(5)); w.take(a, event(5)) },
		"another device":   func(w *deliveryWorld, _ *letter) { w.take(new(correspondent), event(5)) },
		"after it is over": func(w *deliveryWorld, l *letter) { w.forget(l); w.take(a, event(5)) },
		"missed events":    func(w *deliveryWorld, _ *letter) { w.take(a, &client.Event{Type: client.EventMissed, Count: 3}) },
		"a gap": func(w *deliveryWorld, _ *letter) {
			w.take(a, &client.Event{Type: client.EventGap, Err: errors.New("items expired")})
		},
	} {
		w, l := world()
		spoil(w, l)
		if _, err := w.await(l); !errors.Is(err, errFault) {
			t.Errorf("%s: %v, want a fault", name, err)
		}
	}
}
