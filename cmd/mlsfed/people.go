package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/mlscore/boltstore"
	"github.com/mlsfed/mlsfed/wire"
)

// peopleOptions are the flags that the commands for people share.
type peopleOptions struct {
	profile        string
	passphraseFile string
	json           bool
	offline        bool
	timeout        time.Duration

	long   bool   // the command runs until it is interrupted, and serves others meanwhile
	alone  bool   // no other process may run it: one that holds the profile is to end, or is in the way if long
	screen bool   // it needs the keys and the size of the terminal
	taken  []byte // what it has read from standard input already: all of it; nil for nothing
}

// addPeopleFlags adds those flags. JSON is for commands that print something.
func addPeopleFlags(c *cobra.Command) *peopleOptions {
	o := new(peopleOptions)
	f := c.Flags()
	f.StringVar(&o.profile, "profile", os.Getenv("MLSFED_PROFILE"), "folder of the device, or its name as alice@a.example/phone (or MLSFED_PROFILE)")
	f.StringVar(&o.passphraseFile, "passphrase-file", os.Getenv(passphraseVariable), "file with the passphrase of the device's store (or "+passphraseVariable+")")
	f.BoolVar(&o.json, "json", false, "print JSON, one object a line")
	f.DurationVar(&o.timeout, "timeout", 20*time.Second, "how long to wait for the organization's node")
	return o
}

// addOfflineFlag adds --offline to a command that only shows what the device knows.
func addOfflineFlag(c *cobra.Command, o *peopleOptions) {
	c.Flags().BoolVar(&o.offline, "offline", false, "show what this device knows, without connecting")
}

// person is a device in use by a command.
type person struct {
	*client.Device
	id      wire.DeviceID
	profile *profile
	traffic *traffic
	opts    *peopleOptions
	out     io.Writer
	notes   io.Writer
	link    linkState
	settled settled
	guest   *guest  // the command of another process that this is; nil for one of this process
	holder  *holder // serves other processes; nil if this command does not
	holds   error   // why it does not, although it runs for long
}

// linkState is what a person's device last said of its connection.
type linkState struct {
	changed chan struct{} // holds a value after a change

	mu        sync.Mutex
	connected bool
	err       error // why not
	delayed   error // why something of this device's waits, since the last session began
}

// delay is why something that this device has handed in waits, nil if nothing says so.
func (l *linkState) delay() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.delayed
}

// commandTiming lets a device that is online for a moment do in that moment what it owes to others.
func commandTiming() client.Timing {
	return client.Timing{
		Grace: quiet / 4, Proposals: quiet / 3, Contest: quiet / 3, Receipts: quiet / 4,
		RetryFirst: 200 * time.Millisecond, RetryLast: 2 * time.Second,
	}
}

// with opens the profile, brings the device up to date, and lets f work with it.
func (o *peopleOptions) with(c *cobra.Command, f func(ctx context.Context, p *person) error) error {
	return o.use(c, commandTiming(), func(ctx context.Context, p *person) error {
		if !o.offline {
			if err := p.upToDate(ctx); err != nil {
				return err
			}
		}
		ctx, cancel := context.WithTimeout(ctx, o.timeout)
		defer cancel()
		return p.late(ctx, f(ctx, p))
	})
}

// use opens the profile, runs its device unless it is to stay offline, and lets f work with it.
func (o *peopleOptions) use(c *cobra.Command, timing client.Timing, f func(ctx context.Context, p *person) error) error {
	if g := guestOf(c.Context()); g != nil {
		return g.use(c, o, f)
	}
	prof, err := findProfile(o.profile)
	if err != nil {
		return err
	}
	server, err := prof.server()
	if err != nil {
		return err
	}
	store, err := o.openOrVisit(c, prof)
	if err != nil || store == nil {
		return err
	}
	p := newPerson(c, prof, o, server)
	err = p.open(store, timing)
	if err == nil {
		err = p.run(c.Context(), f)
		if !o.alone && errors.As(err, new(notAccepted)) {
			err = p.wipe(err, store)
		}
	}
	return errors.Join(err, store.Close())
}

// openOrVisit opens the profile's store, or has the process that holds the profile run the command: then it returns none,
// when the command has ended. It waits for a process that uses the profile for a moment.
func (o *peopleOptions) openOrVisit(c *cobra.Command, prof *profile) (*boltstore.Store, error) {
	ctx, until := c.Context(), time.Now().Add(o.timeout)
	demand := os.Getenv(agentVariable)
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		conn, err := dialHolder(ctx, prof)
		switch {
		case err != nil:
			return nil, err
		case conn != nil && o.alone && o.long:
			return nil, errors.Join(conn.Close(), fmt.Errorf("a mlsfed runs for %s already, and serves other commands", deviceName(prof.Device)))
		case conn != nil && o.alone:
			if err := errors.Join(askToEnd(conn), conn.Close()); err != nil {
				return nil, err
			}
			continue
		case conn != nil:
			if err := o.visit(c, conn); !errors.Is(err, errNotTaken) {
				return nil, err
			}
			err = fmt.Errorf("the mlsfed that runs for %s is about to end, and does not", deviceName(prof.Device))
		case demand != "" && !o.long && !o.alone && !o.offline:
			idle, err := time.ParseDuration(demand)
			if err != nil || idle <= 0 {
				return nil, usageError{fmt.Errorf("%s=%s: wanted a time, as 10m", agentVariable, demand)}
			}
			demand = "" // once: without an agent the command is run here
			if err := startAgent(ctx, prof, o, idle); err == nil {
				continue
			}
		default:
			var store *boltstore.Store
			if store, err = openStore(prof, o.passphraseFile); !errors.Is(err, boltstore.ErrInUse) {
				return store, err
			}
		}
		if time.Now().After(until) {
			return nil, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, errInterrupted
		}
	}
}

// agentVariable makes commands start an agent, and says when that ends.
const agentVariable = "MLSFED_AGENT"

// newPerson is a device in a command's hands. It is not opened yet.
func newPerson(c *cobra.Command, prof *profile, o *peopleOptions, server client.Invitation) *person {
	return newPersonOf(c, prof, o, newTraffic(client.WebSocket(server, nil)))
}

func newPersonOf(c *cobra.Command, prof *profile, o *peopleOptions, t *traffic) *person {
	p := &person{id: prof.Device, profile: prof, traffic: t, opts: o, out: c.OutOrStdout(), notes: &notes{to: c.ErrOrStderr()}}
	p.link.changed = make(chan struct{}, 1)
	return p
}

// notes is where a command writes what is not its result, until it is silent.
type notes struct {
	to     io.Writer
	silent atomic.Bool
}

// Write implements io.Writer.
func (n *notes) Write(b []byte) (int, error) {
	if n.silent.Load() {
		return len(b), nil
	}
	return n.to.Write(b)
}

// isTerminal reports whether a person looks at what is written.
func (n *notes) isTerminal() bool { return !n.silent.Load() && isTerminal(n.to) }

// silence ends the notes: an interface shows warnings itself, or nobody is there to read them.
func (p *person) silence() {
	if n, ok := p.notes.(*notes); ok {
		n.silent.Store(true)
	}
}

func (p *person) open(store *boltstore.Store, timing client.Timing) (err error) {
	p.Device, err = client.Open(client.Options{Store: store, Transport: p.traffic, Timing: timing})
	return err
}

// errInterrupted is said of a command that a signal has ended.
var errInterrupted = errors.New("interrupted")

// run runs the device beside f, unless it runs already, for a guest. What ends the device for good ends f. The device
// goes on until the guests of this process are served.
func (p *person) run(parent context.Context, f func(context.Context, *person) error) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	working, rest := context.WithCancel(context.WithoutCancel(parent))
	defer rest()
	warned := make(chan struct{})
	events := p.Subscribe(ctx)
	if p.guest != nil {
		p.link.begin(p.Connected())
	} else if p.opts.long {
		if p.holder, p.holds = p.hold(working, cancel); p.holds != nil && !p.opts.alone {
			fmt.Fprintf(p.notes, "mlsfed: warning: no other command can use this device meanwhile: %v\n", p.holds)
		}
	}
	go func() {
		defer close(warned)
		for e := range events {
			p.link.note(e)
			p.warn(e)
			if e.Type == client.EventOffline && refused(e.Err) {
				cancel(explain(p, e.Err))
			}
		}
	}()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if p.opts.offline || p.guest != nil {
			return
		}
		if err := p.Run(working); err != nil {
			err = explain(p, err)
			cancel(err)
			if p.holder != nil {
				p.holder.fail(err)
			}
		}
	}()
	err := f(ctx, p)
	switch cause := context.Cause(ctx); {
	case parent.Err() != nil && err != nil:
		err = whyInterrupted(parent)
	case parent.Err() == nil && cause != nil && !errors.Is(cause, context.Canceled):
		err = cause
	}
	if p.holder != nil {
		p.holder.end()
	}
	cancel(nil)
	rest()
	<-ended
	<-warned
	return err
}

// whyInterrupted is the end of a command whose context has ended.
func whyInterrupted(ctx context.Context) error {
	cause := context.Cause(ctx)
	var ended deviceEnded
	switch {
	case errors.As(cause, &ended):
		return ended.error
	case errors.Is(cause, errMoved):
		return exitCode(1) // of which the caller hears nothing
	}
	return errInterrupted
}

// warn tells of what a person must not miss.
func (p *person) warn(e client.Event) {
	switch e.Type {
	case client.EventAgain, client.EventAdmin:
		fmt.Fprintf(p.notes, "mlsfed: %s (conversation %s)\n", changeText(e), shortID(e.Conversation))
	case client.EventTrust, client.EventDivergence, client.EventPoison, client.EventGap, client.EventBroken, client.EventFailed, client.EventUndelivered, client.EventUnreadable, client.EventDeviceWaiting, client.EventRolledBack, client.EventClock, client.EventPerson:
		where := ""
		if e.Conversation != "" {
			where = fmt.Sprintf(" (conversation %s)", shortID(e.Conversation))
		}
		fmt.Fprintf(p.notes, "mlsfed: warning: %s%s\n", warning(e), where)
	}
}

// warning is what a person is told of such an event, and what to do.
func warning(e client.Event) string {
	if e.Type == client.EventDeviceWaiting {
		return deviceWarning(e)
	}
	text := fmt.Sprintf("%s: %v", warningWord(e.Type), people(plain(e.Err).Error()))
	if e.Type == client.EventTrust {
		text += ": with 'mlsfed trust', or /trust in a chat"
	}
	return text
}

// deviceWarning tells of a device of the person's own that is not confirmed.
func deviceWarning(e client.Event) string {
	name := e.Device.Name()
	if e.Conversation != "" {
		return fmt.Sprintf("%s, which you have not confirmed, is in a conversation with you: if you did not enrol it, 'mlsfed devices --revoke %s'", deviceName(e.Device), name)
	}
	return fmt.Sprintf("%s was enrolled and waits: 'mlsfed devices --confirm %s' if it is yours, 'mlsfed devices --revoke %s' if not", deviceName(e.Device), name, name)
}

func warningWord(t client.EventType) string {
	switch t {
	case client.EventTrust:
		return "ANOTHER ROOT CERTIFICATE"
	case client.EventDivergence:
		return "DIVERGENCE"
	case client.EventPoison:
		return "a commit cannot be processed"
	case client.EventGap:
		return "messages were missed"
	case client.EventBroken:
		return "the conversation cannot be followed any further"
	case client.EventFailed:
		return "a change was given up"
	case client.EventUndelivered:
		return "a message was refused"
	case client.EventClock:
		return "CLOCK"
	case client.EventPerson:
		return "ANOTHER PERSON"
	case client.EventRolledBack:
		return "AN OLDER COPY OF THIS DEVICE"
	}
	return "a message cannot be read"
}

// begin sets the state that the device was in when its events began.
func (l *linkState) begin(connected bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.connected = connected
}

func (l *linkState) note(e client.Event) {
	if e.Type == client.EventDelayed {
		l.mu.Lock()
		l.delayed = e.Err
		l.mu.Unlock()
	}
	if e.Type != client.EventConnected && e.Type != client.EventOffline {
		return
	}
	l.mu.Lock()
	l.connected, l.err = e.Type == client.EventConnected, e.Err
	l.mu.Unlock()
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

func (l *linkState) get() (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.connected, l.err
}

// connected waits until there is a session.
func (p *person) connected(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, p.opts.timeout)
	defer cancel()
	told := false
	for {
		ok, why := p.link.get()
		switch {
		case ok:
			return nil
		case why != nil && refused(why):
			return explain(p, why)
		case why != nil && !told && isTerminal(p.notes):
			fmt.Fprintf(p.notes, "Not connected (%v); trying for %v.\n", plain(why), p.opts.timeout)
			told = true
		}
		select {
		case <-p.link.changed:
			continue
		case <-waiting.Done():
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if why == nil {
			why = errors.New("no answer")
		}
		return fmt.Errorf("the node of %s cannot be reached: %w", p.id.Organization(), plain(why))
	}
}

// isTerminal reports whether a person looks at what is written.
func isTerminal(w any) bool {
	if out, ok := w.(io.Writer); ok {
		w = below(out)
	}
	if t, ok := w.(interface{ isTerminal() bool }); ok {
		return t.isTerminal()
	}
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// catchUp bounds how long a command waits until the device is up to date. It goes on then: a change that
// cannot be ordered, since too few nodes are there, must not keep a person from reading.
const catchUp = 5 * time.Second

// upToDate waits until the device has taken in what waited for it.
func (p *person) upToDate(ctx context.Context) error {
	if err := p.connected(ctx); err != nil {
		return err
	}
	if p.guest != nil && p.traffic.begun() {
		return nil // the holder's device takes in what comes when it comes
	}
	err := p.traffic.settle(ctx, min(catchUp, p.opts.timeout))
	if err != nil && ctx.Err() != nil {
		return p.late(ctx, err)
	}
	if err != nil && isTerminal(p.notes) {
		fmt.Fprintln(p.notes, "Something of this device's is still under way: what is shown may be a moment old.")
	}
	return nil
}

// late says what a timeout means.
func (p *person) late(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, client.ErrOffline):
		return fmt.Errorf("the connection to the node of %s was lost and did not come back within %v", p.id.Organization(), p.opts.timeout)
	case err == error(context.DeadlineExceeded): // so says an operation that was stored
		why := "it waits for the nodes of the conversation"
		if delayed := p.link.delay(); delayed != nil {
			why = plain(delayed).Error()
		}
		return fmt.Errorf("not accepted within %v (%s): it is kept, and is tried again while this device is online", p.opts.timeout, why)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the node of %s has not answered within %v", p.id.Organization(), p.opts.timeout)
	case errors.Is(err, context.Canceled):
		return errInterrupted
	}
	return explain(p, err)
}

// users reads names of users, as alice@a.example or, for the own organization, alice.
func (p *person) users(names []string) ([]wire.UserID, error) {
	var list []wire.UserID
	for _, n := range names {
		u, err := userID(p.id.Organization(), n)
		if err != nil {
			return nil, usageError{err}
		}
		if !slices.Contains(list, u) { // named twice is named once
			list = append(list, u)
		}
	}
	return list, nil
}

// exactly is the Args of a command that takes so many.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != n {
			return fmt.Errorf("%d argument(s), wanted %s", len(args), what)
		}
		return nil
	}
}

// atLeast is the Args of a command that takes a list at its end.
func atLeast(n int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < n {
			return fmt.Errorf("%d argument(s), wanted %s", len(args), what)
		}
		return nil
	}
}
