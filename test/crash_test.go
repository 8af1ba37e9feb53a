package test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// TestLongNodesAreKilled kills nodes at random moments while all devices send and commit. It checks that every sent
// message reaches every device once, in its sender's order, and that all devices end in one epoch.
func TestLongNodesAreKilled(t *testing.T) {
	kills := map[string]int{"short": 8, "full": 60}[os.Getenv("MLSFED_LONG")]
	if kills == 0 {
		t.Skip("kills processes for a minute: set MLSFED_LONG to short or full")
	}
	domains := []wire.Domain{"a.example", "b.example", "c.example"}
	c, err := cluster.New(t.TempDir(), cluster.Options{}, domains...)
	if err != nil {
		t.Fatal(err)
	}
	nodes := make(map[wire.Domain]*process)
	for _, d := range domains {
		nodes[d] = spawn(t, c.File(d))
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		for _, n := range nodes {
			n.stop(t)
		}
	})
	id, talkers := gather(t, c, domains, 2)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var load sync.WaitGroup
	for i, d := range talkers {
		next := d.Subscribe(t.Context())
		go func() {
			for e := range next {
				switch e.Type {
				case client.EventUnreadable, client.EventUndelivered, client.EventBroken, client.EventDivergence, client.EventPoison, client.EventGap:
					t.Logf("device %d: %v by %s: %v", i, e.Type, e.By, e.Err)
				}
			}
		}()
	}
	sent := make([]int, len(talkers))
	commits := make([]int, len(talkers))
	for i, d := range talkers {
		load.Go(func() { sent[i] = talk(ctx, t, d, id, i) })
		load.Go(func() { commits[i] = rotate(ctx, d, id) })
	}
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("MLSFED_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("MLSFED_SEED=%d chooses whom to kill and when", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for range kills {
		pause(ctx, time.Duration(r.IntN(900))*time.Millisecond)
		d := domains[r.IntN(len(domains))]
		nodes[d].kill()
		pause(ctx, time.Duration(r.IntN(500))*time.Millisecond)
		nodes[d] = spawn(t, c.File(d))
	}
	pause(ctx, time.Second)
	stop()
	load.Wait()
	total, ordered := 0, 0
	for i := range talkers {
		total += sent[i]
		ordered += commits[i]
	}
	agree(t, id, talkers, sent)
	t.Logf("%d kills: %d messages to %d devices, %d commits: each once, in order, one epoch", kills, total, len(talkers), ordered)
	if total < 2*kills || ordered == 0 {
		t.Errorf("too little was going on to mean anything")
	}
}

// gather creates a conversation of some users of each organization.
func gather(t *testing.T, c *cluster.Cluster, domains []wire.Domain, users int) (wire.ConversationID, []*client.Device) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var list []*client.Device
	var others []wire.UserID
	for _, d := range domains {
		for n := range users {
			name := fmt.Sprintf("user%d", n)
			list = append(list, device(t, c, d, name, "phone"))
			if len(list) > 1 {
				others = append(others, wire.UserID("mimi://"+string(d)+"/u/"+name))
			}
		}
	}
	id, err := list[0].Create(ctx, client.CreateOptions{Name: "Talk"})
	if err != nil {
		t.Fatal(err)
	}
	add(ctx, t, list[0], id, others...)
	for _, d := range list {
		if err := cluster.Await(ctx, d, func() (bool, error) {
			m, err := d.Members(ctx, id)
			return len(m) == len(list), ignore(err, wire.UnknownConversation)
		}); err != nil {
			t.Fatal(err)
		}
	}
	return id, list
}

// add adds users, who may have enrolled so recently that their KeyPackages are still in transit.
func add(ctx context.Context, t *testing.T, d *client.Device, id wire.ConversationID, users ...wire.UserID) {
	t.Helper()
	err := d.Add(ctx, id, users...)
	for wire.CodeOf(err) == wire.NoneLeft && pause(ctx, 50*time.Millisecond) {
		err = d.Add(ctx, id, users...)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// talk sends numbered messages and returns how many.
func talk(ctx context.Context, t *testing.T, d *client.Device, id wire.ConversationID, who int) int {
	for n := 0; ; n++ {
		if _, err := d.SendText(context.WithoutCancel(ctx), id, numbered(who, n)); err != nil {
			t.Errorf("device %d: message %d: %v", who, n, err)
			return n
		}
		if !pause(ctx, 50*time.Millisecond) {
			return n + 1
		}
	}
}

// rotate commits at intervals. A commit that times out is no fault: there may be no quorum for a moment.
func rotate(ctx context.Context, d *client.Device, id wire.ConversationID) int {
	done := 0
	for pause(ctx, 700*time.Millisecond) {
		if d.UpdateKeys(ctx, id) == nil {
			done++
		}
	}
	return done
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// agree waits until every device has every message, once and in order, and all devices share one epoch.
func agree(t *testing.T, id wire.ConversationID, list []*client.Device, sent []int) {
	t.Helper()
	agreeIf(t, id, list, sent, slices.IsSorted[[]int])
}

// agreeIf is agree with a rule for the order of each sender's messages.
func agreeIf(t *testing.T, id wire.ConversationID, list []*client.Device, sent []int, ordered func([]int) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	for i, d := range list {
		var have map[int][]int
		err := cluster.Await(ctx, d, func() (bool, error) {
			now, err := heard(ctx, d, id)
			if err != nil {
				return false, err
			}
			have = now
			for who, n := range sent {
				if len(have[who]) < n {
					return false, nil
				}
			}
			return true, nil
		})
		for who, n := range sent {
			if !ordered(have[who]) {
				t.Errorf("device %d has device %d's messages in the order %v", i, who, have[who])
			}
			once := slices.Compact(slices.Sorted(slices.Values(have[who])))
			if len(once) != len(have[who]) || len(once) > 0 && once[len(once)-1] != len(once)-1 {
				t.Errorf("device %d has of device %d's messages %v, wanted 0 to %d once each", i, who, have[who], n-1)
			}
			if len(have[who]) != n {
				t.Errorf("device %d has %d of device %d's %d messages", i, len(have[who]), who, n)
			}
		}
		if err != nil {
			state, stateErr := d.Conversation(t.Context(), id)
			t.Fatalf("device %d: %v; its conversation: %+v (%v)", i, err, state, stateErr)
		}
	}
	for i, d := range list {
		if err := cluster.Await(ctx, d, func() (bool, error) {
			first, err := list[0].Conversation(ctx, id)
			if err != nil {
				return false, err
			}
			c, err := d.Conversation(ctx, id)
			if err != nil {
				return false, err
			}
			return c.Sequence == first.Sequence && c.Order == first.Order && string(c.Authenticator) == string(first.Authenticator), nil
		}); err != nil {
			t.Fatalf("device %d does not agree with device 0: %v", i, err)
		}
	}
}

func numbered(who, n int) string { return fmt.Sprintf("%d %d", who, n) }

// heard returns the numbers of all messages by sender, in the order of the history.
func heard(ctx context.Context, d *client.Device, id wire.ConversationID) (map[int][]int, error) {
	have := make(map[int][]int)
	for after := uint64(0); ; {
		page, err := d.History(ctx, id, client.Query{After: after, Forward: true, Limit: client.MaxPage})
		if err != nil {
			return nil, err
		}
		for _, m := range page.Messages {
			var who, n int
			if _, err := fmt.Sscanf(m.Content.Text, "%d %d", &who, &n); err == nil {
				have[who] = append(have[who], n)
			}
		}
		if !page.More {
			return have, nil
		}
		after = page.Next
	}
}
