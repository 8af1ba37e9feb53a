package delivery

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// largeBench measures one large group through the network.
type largeBench struct {
	bench // the world and the table

	members int // of the group
	samples int // operations for the median of a figure
	late    int // commits that a device misses while away, after it was added
}

const (
	maxLargeMembers = 120_000 // addresses in a delivery list, with room (wire.MaxElements)
	maxLargeLate    = 10_000
	largeWait       = time.Hour // for one step
)

// LargeCommand returns the command 'bench large'.
func LargeCommand() *cobra.Command {
	b := &largeBench{}
	c := &cobra.Command{
		Use:   "large",
		Short: "Measure a large group through the network",
		Long: `The nodes of two organizations run as processes of this program, with TLS and fsync on loopback. Four devices are real, two
of each organization. All other members are simulated: their KeyPackages and certificates are made by this program, which
answers the claims for them, and they are leaves of the group and addresses of the delivery list that nobody reads. None of
them ever commits, so that each commit has a secret for each of them.

add is the time for each member that a real device adds, in batches; commit is a change of keys until it is ordered and the
device has taken it in; known is the same until the devices of both organizations have; text is a message until they have
it; join is the start of a device that was added while away, until it is in the group; late is the same for a device that has
missed many commits since, until it has taken them in.

The rows with -floor are what package mlscore takes for the same operations in a group of the same size, in this process and
at the same time, and what it takes to hash the bytes, to write them and to have them on disk as often as the network does.
The rows with -processor are processor time of this process, without the nodes. The ratio is that of the medians.`,
		Example: "  mlsfed bench large\n  mlsfed bench large --members 5000 --late 1000\n  mlsfed bench large --short --json",
		Args:    cobra.NoArgs,
	}
	b.AddFlags(c, "group", "run the nodes from this `program`, this build in another file")
	f := c.Flags()
	f.IntVar(&b.members, "members", 100_000, "members of the group")
	f.IntVar(&b.samples, "samples", 7, "operations that a figure is the median of")
	f.IntVar(&b.late, "late", 20, "commits that a device misses that was added while away")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if b.Short {
			harness.Unless(c, map[string]func(){
				"members": func() { b.members = 300 },
				"samples": func() { b.samples = 1 },
				"late":    func() { b.late = 5 },
			})
		}
		list := []harness.Workload{{Name: "group", Run: b.group}}
		if err := errors.Join(harness.CheckBounds([]harness.Bounds{
			{Flag: "members", N: b.members, Least: 10, Most: maxLargeMembers}, {Flag: "samples", N: b.samples, Least: 1, Most: maxDeviceSamples}, {Flag: "late", N: b.late, Least: 1, Most: maxLargeLate},
		}), b.CheckOnly(list)); err != nil {
			return cli.UsageError(err)
		}
		b.Table = harness.NewTable(c, b.JSON)
		if err := b.FindNode(true); err != nil {
			return err
		}
		b.own = true
		b.Table.Head()
		return b.RunAll(c.Context(), list)
	}
	return c
}

// largeWorld is the group and its real devices.
type largeWorld struct {
	*deliveryWorld
	b                     *largeBench
	simulated             *simulatedMembers
	floor                 *largeFloor
	alice, bob, far, near *client.Device
	id                    wire.ConversationID
}

// patient sets options of a device in a group whose commits take long.
func patient(o *client.Options) {
	o.Timing.Upkeep, o.Timing.Call, o.Limits.Receipts = 24*time.Hour, largeWait, -1
	o.Timing.KeyAge = 1000 * 24 * time.Hour
	o.Limits.GroupMembers = 4 * maxLargeMembers
}

func (b *largeBench) group(ctx context.Context) (err error) {
	base, err := b.world(ctx, "large", 2)
	if err != nil {
		return err
	}
	w := &largeWorld{deliveryWorld: base, b: b}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.prepare(); err != nil {
		return err
	}
	for _, step := range []func() error{w.grow, w.commits, w.texts, func() error { return w.join("join", "near", &w.near, 0) }, func() error { return w.join("late", "far", &w.far, b.late) }} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// prepare enrols the real devices, and founds the group with two of them.
func (w *largeWorld) prepare() (err error) {
	if w.simulated, err = newSimulatedMembers(w.cluster.Config(w.domains[1]).Identity, w.domains[1]); err != nil {
		return err
	}
	claims := func(o *client.Options) {
		patient(o)
		o.Transport = &claimTransport{Transport: o.Transport, simulated: w.simulated}
	}
	for _, d := range []struct {
		at     int
		user   string
		with   func(*client.Options)
		device **client.Device
	}{
		{at: 0, user: "alice", with: claims, device: &w.alice}, {at: 1, user: "bob", with: patient, device: &w.bob},
		{at: 0, user: "near", with: patient, device: &w.near}, {at: 1, user: "far", with: patient, device: &w.far},
	} {
		link, err := w.cluster.Invite(w.ctx, w.domains[d.at], d.user)
		if err != nil {
			return err
		}
		if *d.device, err = w.cluster.Enrol(w.ctx, link, storedDevice, d.with); err != nil {
			return err
		}
		if err := (*d.device).Tend(w.ctx); err != nil { // it brings KeyPackages
			return err
		}
	}
	if err := errors.Join(w.cluster.StopDevice(w.near), w.cluster.StopDevice(w.far)); err != nil {
		return err
	}
	if w.id, err = w.alice.Create(w.ctx, client.CreateOptions{Name: "large"}); err != nil {
		return err
	}
	if err := w.add(w.domains[1], "bob"); err != nil {
		return err
	}
	return w.reach(w.bob)
}

func (w *largeWorld) add(d wire.Domain, users ...string) error {
	list := make([]wire.UserID, len(users))
	for i, u := range users {
		var err error
		if list[i], err = wire.NewUserID(d, u); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(w.ctx, largeWait)
	defer cancel()
	return w.alice.Add(ctx, w.id, list...)
}

// reach waits until a device is in the epoch of the first device.
func (w *largeWorld) reach(d *client.Device) error {
	ctx, cancel := context.WithTimeout(w.ctx, largeWait)
	defer cancel()
	first, err := w.alice.Conversation(ctx, w.id)
	if err != nil {
		return err
	}
	return w.in(ctx, d, func(c *client.Conversation) bool { return c.Epoch >= first.Epoch })
}

func (w *largeWorld) in(ctx context.Context, d *client.Device, done func(*client.Conversation) bool) error {
	return cluster.Await(ctx, d, func() (bool, error) {
		c, err := d.Conversation(ctx, w.id)
		switch {
		case wire.CodeOf(err) == wire.UnknownConversation:
			return false, nil
		case err != nil:
			return false, err
		case c.State == client.StateBroken:
			return false, fmt.Errorf("the conversation is broken: %s", c.Why)
		}
		return c.State == client.StateActive && done(c), nil
	})
}

// grow adds the simulated members, with as many in each commit as a device adds, and creates the group of the floor.
func (w *largeWorld) grow() error {
	const atOnce = 4000 // about what goes into one commit
	want := w.b.members - 4
	begun := time.Now()
	for left := want; left > 0; {
		n := min(left, atOnce)
		left -= n
		w.b.Table.Progress("large: %d of %d members", w.b.members-left-n, w.b.members)
		if err := w.add(w.domains[1], w.simulated.users(n)...); err != nil {
			return err
		}
	}
	if err := w.reach(w.bob); err != nil {
		return err
	}
	took := time.Since(begun)
	w.b.Table.Progress("large: the group of the floor")
	begun = time.Now()
	var err error
	if w.floor, err = newLargeFloor(w.simulated, w.b.Dir); err != nil {
		return err
	}
	w.b.Table.Progress("large: it took %v", time.Since(begun).Round(time.Millisecond))
	return w.b.Table.Add(harness.Row{Name: "large/add", N: w.b.members, Value: harness.Milliseconds(took) / float64(want), Unit: "ms"})
}

// commits measures changes of keys.
func (w *largeWorld) commits() error {
	var ordered, known, floor, processed []sample
	for range w.b.samples {
		w.b.Table.Progress("large: commit %d of %d", len(ordered)+1, w.b.samples)
		made, taken, err := w.floor.commit()
		if err != nil {
			return err
		}
		floor, processed = append(floor, made), append(processed, made.plus(taken))
		first, err := sampled(func() error { return w.alice.UpdateKeys(w.ctx, w.id) })
		if err != nil {
			return err
		}
		then, err := sampled(func() error { return w.reach(w.bob) })
		if err != nil {
			return err
		}
		ordered, known = append(ordered, first), append(known, first.plus(then))
	}
	return errors.Join(w.figure("commit", ordered, floor), w.figure("known", known, processed))
}

func (s sample) plus(o sample) sample {
	return sample{s.processor + o.processor, s.elapsed + o.elapsed, s.written + o.written}
}

// figure prints medians with those of their floors: elapsed time, and processor time of this process.
func (w *largeWorld) figure(name string, values, floor []sample) error {
	row := func(name string, of func(sample) float64) error {
		v, f := median(values, of), median(floor, of)
		return errors.Join(
			w.b.Table.Add(harness.Row{Name: "large/" + name + "-floor", N: w.b.members, Value: f, Unit: "ms"}),
			w.b.Table.Add(harness.Row{Name: "large/" + name, N: w.b.members, Value: v, Unit: "ms", Against: "floor", Ratio: v / f}))
	}
	err := row(name, elapsedOf)
	if harness.HasProcessorTime {
		err = errors.Join(err, row(name+"-processor", processorOf))
	}
	return err
}

// texts measures messages to both organizations.
func (w *largeWorld) texts() error {
	var values, floor []sample
	for i := range w.b.samples {
		f, err := w.floor.text()
		if err != nil {
			return err
		}
		took, err := sampled(func() error {
			if _, err := w.alice.SendBytes(w.ctx, w.id, []byte("to all")); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(w.ctx, largeWait)
			defer cancel()
			return w.in(ctx, w.bob, func(c *client.Conversation) bool { return c.Messages > uint64(i) })
		})
		if err != nil {
			return err
		}
		values, floor = append(values, took), append(floor, f)
	}
	return w.figure("text", values, floor)
}

// join measures a device that was added while away, and has missed a number of commits since.
func (w *largeWorld) join(name, user string, device **client.Device, missed int) (err error) {
	w.b.Table.Progress("large: %s is added while away, and misses %d commits", user, missed)
	domain := w.domains[0]
	if user == "far" {
		domain = w.domains[1]
	}
	if err := w.add(domain, user); err != nil {
		return err
	}
	floor, err := w.floor.join(missed)
	if err != nil {
		return err
	}
	for range missed {
		if err := w.alice.UpdateKeys(w.ctx, w.id); err != nil {
			return err
		}
	}
	took, err := sampled(func() (err error) {
		if *device, err = w.cluster.Resume(domain, user, storedDevice, patient); err != nil {
			return err
		}
		return w.reach(*device)
	})
	if err != nil {
		return err
	}
	return w.figure(name, []sample{took}, []sample{floor})
}
