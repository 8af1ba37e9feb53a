//go:build integration

package integration

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

// crowd enrols count devices over three organizations, 25 for each user, some at a time.
func (f *federation) manyDevices(count int) []*device {
	f.t.Helper()
	const each = 25
	users := (count + each - 1) / each
	var mu sync.Mutex
	var list []*device
	var failures []error
	var all sync.WaitGroup
	slots := make(chan struct{}, 8)
	for u := range users {
		org := f.orgs[u%len(f.orgs)]
		link := f.invite(org, fmt.Sprintf("user%d", u))
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			first, err := f.enrolWith(f.ctx, link, "0")
			for n := 1; err == nil; n++ {
				mu.Lock()
				list = append(list, first)
				mu.Unlock()
				if n == min(each, count-u*each) {
					return
				}
				next := first.link
				if next.Code, _, err = first.InviteDevice(f.ctx, 600); err == nil {
					first, err = f.enrolWith(f.ctx, next, fmt.Sprint(n))
				}
			}
			mu.Lock()
			failures = append(failures, err)
			mu.Unlock()
		})
	}
	all.Wait()
	f.must(errors.Join(failures...))
	return list
}

// TestManyDevices puts many devices of three organizations into one conversation.
func TestManyDevices(t *testing.T) {
	f := start(t, setup{environment: map[string]string{
		"MLSFED_CONSENSUS_SLEEP":               "60s",
		"MLSFED_GATEWAY_ENROLMENTS_PER_MINUTE": "6000", // all devices have one address
		"MLSFED_RATES_CODES_BURST":             "5000", // and few users
	}})
	f.inMemory, f.limits = true, client.Limits{KeyPackages: 4, Receipts: -1} // other tests check the data on disk
	count, commits, messages := scale(60, 1000), scale(10, 100), scale(10, 100)
	began := time.Now()
	devices := f.manyDevices(count)
	f.eventually("devices have uploaded KeyPackages", func() error { return uploaded(devices) })
	enrolled := time.Since(began)

	began = time.Now()
	c := f.gather(devices)
	gathered := time.Since(began)

	var alone, everywhere []time.Duration
	for i := range commits {
		d := devices[i*len(devices)/commits]
		began := time.Now()
		f.ends("a commit", c.begin(d))
		alone = append(alone, time.Since(began))
		f.within("all have taken it in", 5*time.Minute, func() error { return level(c, d, devices) })
		everywhere = append(everywhere, time.Since(began))
	}
	var heard []time.Duration
	for i := range messages {
		from, to := devices[i%len(devices)], devices[(i*7+1)%len(devices)]
		if from != to {
			heard = append(heard, c.latencies(from, to, 1)...)
		}
	}
	c.judge(exceptions{orgs: f.orgs})
	report(t, "%d devices: enrolled in %v, all joined %v later; commit %v at its maker, %v at all (medians); message %v from one to another; %s",
		count, enrolled.Round(time.Millisecond), gathered.Round(time.Millisecond), median(alone).Round(time.Millisecond),
		median(everywhere).Round(time.Millisecond), median(heard).Round(10*time.Microsecond), f.history.sizes(c.id))
}

// uploaded checks that every device has been connected, which is when KeyPackages are uploaded.
func uploaded(devices []*device) error {
	for _, d := range devices {
		if d.events(client.EventConnected) == 0 {
			return fmt.Errorf("%s has not connected yet", d.id)
		}
	}
	return nil
}

// gather creates a conversation and adds all users, ten at a time.
func (f *federation) gather(devices []*device) *conversation {
	f.t.Helper()
	id, err := devices[0].Create(f.ctx, client.CreateOptions{Name: "Everybody"})
	f.must(err)
	c := f.talk(id, devices)
	var users []wire.UserID
	for _, d := range devices {
		if u := d.id.User(); !slices.Contains(users, u) {
			users = append(users, u)
		}
	}
	for batch := range slices.Chunk(users, 10) {
		c.add(devices[0], batch...)
	}
	f.within("all have joined", 10*time.Minute, func() error {
		for _, d := range devices {
			if err := joined(c, d, len(devices)); err != nil {
				return err
			}
		}
		return nil
	})
	f.within("all are level", 5*time.Minute, func() error { return level(c, devices[0], devices) })
	return c
}

// level checks that all devices are in the state of one device.
func level(c *conversation, with *device, devices []*device) error {
	want, err := with.Conversation(c.f.ctx, c.id)
	if err != nil {
		return err
	}
	for _, d := range devices {
		v, err := d.Conversation(c.f.ctx, c.id)
		if err != nil {
			return err
		}
		if v.Epoch != want.Epoch {
			return fmt.Errorf("%s is in epoch %d, %s in %d", d.id, v.Epoch, with.id, want.Epoch)
		}
	}
	return nil
}

// sizes describes how large the entries of commits are.
func (h *history) sizes(id wire.ConversationID) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []int
	for _, e := range h.logs[id] {
		if e.envelope != nil && e.envelope.Kind == wire.KindCommit {
			list = append(list, e.size)
		}
	}
	if len(list) == 0 {
		return "no commits"
	}
	slices.Sort(list)
	return fmt.Sprintf("entries of commits %d to %d bytes, median %d", list[0], list[len(list)-1], list[len(list)/2])
}
