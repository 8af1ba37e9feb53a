package federation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// Metrics of what a node sends to other nodes. Earlier builds do not have them.
const (
	sentMetric  = "mlsfed_federation_sent_bytes_total"
	orderMetric = "mlsfed_order_sent_bytes_total"
)

// measureConversation runs the part 'conversation'.
func (b *bench) measureConversation(ctx context.Context, dir string, n int) (err error) {
	domains := benchDomains("c", n)
	c, err := b.cluster(dir, domains...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.StartAll(ctx); err != nil {
		return err
	}
	devices := make([]*client.Device, n)
	users := make([]wire.UserID, n)
	for i, d := range domains {
		if devices[i], err = c.Device(ctx, d, "user", "device"); err != nil {
			return err
		}
		if users[i], err = wire.NewUserID(d, "user"); err != nil {
			return err
		}
	}
	id, err := devices[0].Create(ctx, client.CreateOptions{Name: "bench"})
	if err != nil {
		return err
	}
	begun := time.Now()
	if err := devices[0].Add(ctx, id, users[1:]...); err != nil {
		return err
	}
	if err := b.row("conversation/add", n, time.Since(begun).Seconds(), "s"); err != nil {
		return err
	}
	voters := time.Duration(0)
	took, _, err := b.await(ctx, "replicas", func() (bool, string, error) {
		s, err := c.Status(ctx, domains[0])
		if err != nil || len(s.Conversations) == 0 {
			return false, "no conversation yet", err
		}
		v := s.Conversations[0]
		if odd := n - 1 + n%2; voters == 0 && len(v.Voters) >= min(5, odd) {
			voters = time.Since(begun)
		}
		return voters > 0 && len(v.Voters)+len(v.Learners) >= n, fmt.Sprintf("%d voters, %d learners", len(v.Voters), len(v.Learners)), nil
	})
	if err != nil {
		return err
	}
	if err := errors.Join(b.row("conversation/voters", n, voters.Seconds(), "s"), b.row("conversation/replicas", n, took.Seconds(), "s")); err != nil {
		return err
	}
	t := &talk{bench: b, cluster: c, id: id, devices: devices, domains: domains}
	if err := t.awaitAll(ctx, func(cv *client.Conversation) bool { return cv.State == client.StateActive && cv.Members == n }); err != nil {
		return err
	}
	if err := t.measureCommits(ctx, ""); err != nil {
		return err
	}
	for i := range devices { // fills the tree
		if err := t.commit(ctx, i); err != nil {
			return err
		}
	}
	return t.measureCommits(ctx, "settled-")
}

// talk is a conversation with a device of each organization.
type talk struct {
	bench   *bench
	cluster *cluster.Cluster
	id      wire.ConversationID
	devices []*client.Device
	domains []wire.Domain
}

// awaitAll waits until done reports true for the conversation at each device.
func (t *talk) awaitAll(ctx context.Context, done func(*client.Conversation) bool) error {
	for _, v := range t.devices {
		if err := cluster.Await(ctx, v, func() (bool, error) {
			cv, err := v.Conversation(ctx, t.id)
			if wire.CodeOf(err) == wire.UnknownConversation {
				return false, nil
			}
			return err == nil && done(cv), err
		}); err != nil {
			return err
		}
	}
	return nil
}

// commit makes a device change its keys, and waits until all others have processed the commit.
func (t *talk) commit(ctx context.Context, i int) error {
	v := t.devices[i%len(t.devices)]
	if err := v.UpdateKeys(ctx, t.id); err != nil {
		return fmt.Errorf("commit of device %d: %w", i, err)
	}
	now, err := v.Conversation(ctx, t.id)
	if err != nil {
		return err
	}
	return t.awaitAll(ctx, func(cv *client.Conversation) bool { return cv.Epoch >= now.Epoch })
}

// sums returns what all nodes have written and sent so far, by the names of rows.
func (t *talk) sums(ctx context.Context) (map[string]float64, error) {
	sums := make(map[string]float64)
	for _, d := range t.domains {
		_, written, err := t.cluster.Traffic(d)
		if err != nil {
			t.bench.Table.Progress("%v", err) // not on this system
		}
		sums["commit"] += float64(written)
		for metric, row := range map[string]string{sentMetric: "commit-sent", orderMetric: "commit-sent/"} {
			of, err := t.cluster.Metrics(ctx, d, metric)
			if err != nil {
				return nil, err
			}
			for name, value := range of {
				kind := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(name, metric), `{kind="`), `"}`)
				sums[row+kind] += value
			}
		}
	}
	return sums, nil
}

// measureCommits makes commits that only change keys, and prints what all nodes write and send for one commit.
func (t *talk) measureCommits(ctx context.Context, prefix string) error {
	const commits = 5
	before, err := t.sums(ctx)
	if err != nil {
		return err
	}
	for i := range commits {
		if err := t.commit(ctx, i); err != nil {
			return err
		}
	}
	after, err := t.sums(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if each := (after[name] - before[name]) / commits; each > 0 {
			errs = append(errs, t.bench.row("conversation/"+prefix+name, len(t.domains), each/1000, "kB"))
		}
	}
	return errors.Join(errs...)
}
