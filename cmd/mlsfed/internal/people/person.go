package people

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

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/traffic"
	"github.com/mlsfed/mlsfed/mlscore/boltstore"
	"github.com/mlsfed/mlsfed/wire"
)

// Options are the flags that the commands for people share.
type Options struct {
	profile        string
	passphraseFile string
	JSON           bool
	offline        bool
	Timeout        time.Duration

	Long   bool   // the command runs until it is interrupted, and serves others meanwhile
	alone  bool   // no holder may run it: a holder is asked to end, or is in the way if long
	Screen bool   // it needs the keys and the size of the terminal
	taken  []byte // standard input, if the command has read all of it already; else nil
}

// AddFlags adds these flags. --json is for commands with output.
func AddFlags(c *cobra.Command) *Options {
	o := new(Options)
	f := c.Flags()
	f.StringVar(&o.profile, "profile", os.Getenv("MLSFED_PROFILE"), "folder of the device, or its name as alice@a.example/phone (or MLSFED_PROFILE)")
	f.StringVar(&o.passphraseFile, "passphrase-file", os.Getenv(passphraseVariable), "file with the passphrase of the device's store (or "+passphraseVariable+")")
	f.BoolVar(&o.JSON, "json", false, "print JSON, one object a line")
	f.DurationVar(&o.Timeout, "timeout", 20*time.Second, "how long to wait for the organization's node")
	return o
}

// addOfflineFlag adds --offline to a command that only shows what the device knows.
func addOfflineFlag(c *cobra.Command, o *Options) {
	c.Flags().BoolVar(&o.offline, "offline", false, "show what this device knows, without connecting")
}

// Person is a device in use by a command.
type Person struct {
	*client.Device
	DeviceID wire.DeviceID
	profile  *profile
	traffic  *traffic.Meter
	Options  *Options
	out      io.Writer
	notes    io.Writer
	link     linkState
	settled  settled
	numbers  bool    // messages are shown with their numbers
	guest    *guest  // set if this is the command of another process
	holder   *holder // serves other processes; nil if this command does not
	holds    error   // why it does not serve, although it runs long
}

// linkState is the last state that a person's device reported of its connection.
type linkState struct {
	changed chan struct{} // holds a value after a change

	mu        sync.Mutex
	connected bool
	err       error // why not
	delayed   error // why a submission of this device waits, since the last session began
}

// delay returns why a submission of this device waits, nil if that is not known.
func (l *linkState) delay() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.delayed
}

// commandTiming returns a timing with which a device that is online for a moment does its duties towards others in
// that moment.
func commandTiming() client.Timing {
	return client.Timing{
		Grace: traffic.Quiet / 4, Proposals: traffic.Quiet / 3, Contest: traffic.Quiet / 3, Receipts: traffic.Quiet / 4,
		RetryFirst: 200 * time.Millisecond, RetryLast: 2 * time.Second,
	}
}

// with opens the profile, brings the device up to date, and calls f with it.
func (o *Options) with(c *cobra.Command, f func(ctx context.Context, p *Person) error) error {
	return o.Use(c, commandTiming(), func(ctx context.Context, p *Person) error {
		if !o.offline {
			if err := p.upToDate(ctx); err != nil {
				return err
			}
		}
		ctx, cancel := context.WithTimeout(ctx, o.Timeout)
		defer cancel()
		return p.Explain(ctx, f(ctx, p))
	})
}

// Use opens the profile, runs its device unless the command is offline, and calls f with it.
func (o *Options) Use(c *cobra.Command, timing client.Timing, f func(ctx context.Context, p *Person) error) error {
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

// openOrVisit opens the profile's store, or lets the process that holds the profile run the command: then it returns
// no store, after the command has ended. It waits for a process that uses the profile only for a moment.
func (o *Options) openOrVisit(c *cobra.Command, prof *profile) (*boltstore.Store, error) {
	ctx, until := c.Context(), time.Now().Add(o.Timeout)
	demand := os.Getenv(agentVariable)
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		conn, err := dialHolder(ctx, prof)
		switch {
		case err != nil:
			return nil, err
		case conn != nil && o.alone && o.Long:
			return nil, errors.Join(conn.Close(), fmt.Errorf("a mlsfed runs for %s already, and serves other commands", cli.DeviceName(prof.Device)))
		case conn != nil && o.alone:
			if err := errors.Join(askToEnd(conn), conn.Close()); err != nil {
				return nil, err
			}
			continue
		case conn != nil:
			if err := o.visit(c, conn); !errors.Is(err, errNotTaken) {
				return nil, err
			}
			err = fmt.Errorf("the mlsfed that runs for %s is about to end, and does not", cli.DeviceName(prof.Device))
		case demand != "" && !o.Long && !o.alone && !o.offline:
			idle, err := time.ParseDuration(demand)
			if err != nil || idle <= 0 {
				return nil, cli.UsageError(fmt.Errorf("%s=%s: wanted a time, as 10m", agentVariable, demand))
			}
			demand = "" // only once: without an agent the command runs here
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

// agentVariable names the environment variable that makes commands start an agent, and sets when the agent ends.
const agentVariable = "MLSFED_AGENT"

// newPerson returns a person for a command. The device is not opened yet.
func newPerson(c *cobra.Command, prof *profile, o *Options, server client.Invitation) *Person {
	return newPersonOf(c, prof, o, traffic.New(client.WebSocket(server, nil)))
}

func newPersonOf(c *cobra.Command, prof *profile, o *Options, t *traffic.Meter) *Person {
	p := &Person{DeviceID: prof.Device, profile: prof, traffic: t, Options: o, out: c.OutOrStdout(), notes: &notes{to: c.ErrOrStderr()}}
	p.link.changed = make(chan struct{}, 1)
	return p
}

// notes is the writer for all output of a command that is not its result, until Mute is called.
type notes struct {
	to    io.Writer
	muted atomic.Bool
}

// Write implements io.Writer.
func (n *notes) Write(b []byte) (int, error) {
	if n.muted.Load() {
		return len(b), nil
	}
	return n.to.Write(b)
}

// IsTerminal reports whether the output goes to a terminal.
func (n *notes) IsTerminal() bool { return !n.muted.Load() && cli.IsTerminal(n.to) }

// Mute drops the notes from now on: an interface shows warnings itself, or nobody reads them.
func (p *Person) Mute() {
	if n, ok := p.notes.(*notes); ok {
		n.muted.Store(true)
	}
}

func (p *Person) open(store *boltstore.Store, timing client.Timing) (err error) {
	p.Device, err = client.Open(client.Options{Store: store, Transport: p.traffic, Timing: timing})
	return err
}

// errInterrupted is the error of a command that a signal has ended.
var errInterrupted = errors.New("interrupted")

// run runs the device concurrently with f; for a guest the device runs already. A permanent end of the device ends f.
// The device keeps running until the guests of this process are served.
func (p *Person) run(parent context.Context, f func(context.Context, *Person) error) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	working, rest := context.WithCancel(context.WithoutCancel(parent))
	defer rest()
	warned := make(chan struct{})
	events := p.Subscribe(ctx)
	if p.guest != nil {
		p.link.begin(p.Connected())
	} else if p.Options.Long {
		if p.holder, p.holds = p.hold(working, cancel); p.holds != nil && !p.Options.alone {
			fmt.Fprintf(p.notes, "mlsfed: warning: no other command can use this device meanwhile: %v\n", p.holds)
		}
	}
	go func() {
		defer close(warned)
		for e := range events {
			p.link.note(e)
			p.warn(e)
			if e.Type == client.EventOffline && refused(e.Err) {
				cancel(explainRefusal(p, e.Err))
			}
		}
	}()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if p.Options.offline || p.guest != nil {
			return
		}
		if err := p.Run(working); err != nil {
			err = explainRefusal(p, err)
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

// whyInterrupted returns the error of a command whose context has ended.
func whyInterrupted(ctx context.Context) error {
	cause := context.Cause(ctx)
	var ended deviceEnded
	switch {
	case errors.As(cause, &ended):
		return ended.error
	case errors.Is(cause, errMoved):
		return cli.ExitCode(1) // which the caller does not see
	}
	return errInterrupted
}

// warn prints an event that a person must not miss.
func (p *Person) warn(e client.Event) {
	switch e.Type {
	case client.EventAgain, client.EventAdmin:
		fmt.Fprintf(p.notes, "mlsfed: %s (conversation %s)\n", ChangeText(e), cli.ShortID(e.Conversation))
	case client.EventTrust, client.EventDivergence, client.EventPoison, client.EventGap, client.EventBroken, client.EventFailed, client.EventUndelivered, client.EventUnreadable, client.EventDeviceWaiting, client.EventRolledBack, client.EventClock, client.EventPerson:
		where := ""
		if e.Conversation != "" {
			where = fmt.Sprintf(" (conversation %s)", cli.ShortID(e.Conversation))
		}
		fmt.Fprintf(p.notes, "mlsfed: warning: %s%s\n", Warning(e), where)
	}
}

// Warning returns the text for such an event, with what to do.
func Warning(e client.Event) string {
	if e.Type == client.EventDeviceWaiting {
		return deviceWarning(e)
	}
	text := fmt.Sprintf("%s: %v", warningWord(e.Type), cli.WithNames(cli.Plain(e.Err).Error()))
	if e.Type == client.EventTrust {
		text += ": with 'mlsfed trust', or /trust in a chat"
	}
	return text
}

// deviceWarning returns the text about an unconfirmed device of the person.
func deviceWarning(e client.Event) string {
	name := e.Device.Name()
	if e.Conversation != "" {
		return fmt.Sprintf("%s, which you have not confirmed, is in a conversation with you: if you did not enrol it, 'mlsfed devices --revoke %s'", cli.DeviceName(e.Device), name)
	}
	return fmt.Sprintf("%s was enrolled and waits: 'mlsfed devices --confirm %s' if it is yours, 'mlsfed devices --revoke %s' if not", cli.DeviceName(e.Device), name, name)
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

// begin sets the state of the device at the beginning of its events.
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

// Linked reports whether the device has a session, and the error of the last connection if there is none.
func (p *Person) Linked() (bool, error) { return p.link.get() }

// connected waits until there is a session.
func (p *Person) connected(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, p.Options.Timeout)
	defer cancel()
	reported := false
	for {
		ok, why := p.Linked()
		switch {
		case ok:
			return nil
		case why != nil && refused(why):
			return explainRefusal(p, why)
		case why != nil && !reported && cli.IsTerminal(p.notes):
			fmt.Fprintf(p.notes, "Not connected (%v); trying for %v.\n", cli.Plain(why), p.Options.Timeout)
			reported = true
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
		return fmt.Errorf("the node of %s cannot be reached: %w", p.DeviceID.Organization(), cli.Plain(why))
	}
}

// catchUp bounds how long a command waits until the device is up to date. The command continues after that: a change
// that cannot be ordered without a quorum must not keep a person from reading.
const catchUp = 5 * time.Second

// upToDate waits until the device has processed what waited for it.
func (p *Person) upToDate(ctx context.Context) error {
	if err := p.connected(ctx); err != nil {
		return err
	}
	if p.guest != nil && p.traffic.Begun() {
		return nil // the holder's device processes items as they arrive
	}
	err := p.traffic.Settle(ctx, min(catchUp, p.Options.Timeout))
	if err != nil && ctx.Err() != nil {
		return p.Explain(ctx, err)
	}
	if err != nil && cli.IsTerminal(p.notes) {
		fmt.Fprintln(p.notes, "Something of this device's is still under way: what is shown may be a moment old.")
	}
	return nil
}

// Explain returns an error that explains a timeout.
func (p *Person) Explain(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, client.ErrOffline):
		return fmt.Errorf("the connection to the node of %s was lost and did not come back within %v", p.DeviceID.Organization(), p.Options.Timeout)
	case err == error(context.DeadlineExceeded): // the error of an operation that was stored
		why := "it waits for the nodes of the conversation"
		if delayed := p.link.delay(); delayed != nil {
			why = cli.Plain(delayed).Error()
		}
		return fmt.Errorf("not accepted within %v (%s): it is kept, and is tried again while this device is online", p.Options.Timeout, why)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the node of %s has not answered within %v", p.DeviceID.Organization(), p.Options.Timeout)
	case errors.Is(err, context.Canceled):
		return errInterrupted
	}
	return explainRefusal(p, err)
}

// Users reads names of users, as alice@a.example or, for the own organization, alice.
func (p *Person) Users(names []string) ([]wire.UserID, error) {
	var list []wire.UserID
	for _, n := range names {
		u, err := cli.ParseUser(p.DeviceID.Organization(), n)
		if err != nil {
			return nil, cli.UsageError(err)
		}
		if !slices.Contains(list, u) { // a repeated name counts once
			list = append(list, u)
		}
	}
	return list, nil
}
