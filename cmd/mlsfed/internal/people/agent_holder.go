package people

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/internal/private"
)

// agentSocket is the name of the holder's socket in the profile's folder.
const agentSocket = "agent.sock"

// Limits of a holder.
const (
	maxGuests   = 64               // commands at a time
	agentHello  = 5 * time.Second  // for the first frame of a connection
	agentDrain  = 30 * time.Second // for guests, when the holder ends
	agentParted = 5 * time.Second  // for the end of a command that was interrupted
)

// errStopped ends a holder that another command asks to end.
var errStopped = errors.New("ended, as another mlsfed asked for ('mlsfed agent --stop', or logout)")

// errMoved ends a guest that continues in the process of its caller.
var errMoved = errors.New("the process that served this command ends")

// deviceEnded is the reason why no guest can continue: the device was revoked, or its store fails.
type deviceEnded struct{ error }

func (e deviceEnded) Unwrap() error { return e.error }

// holder serves the commands of other processes with the device of this one.
type holder struct {
	p        *Person
	ctx      context.Context         // of guests; it outlives the holder's own command
	stop     context.CancelCauseFunc // ends that command
	listener net.Listener
	changed  chan struct{} // holds a value after a guest came or went
	ended    chan struct{} // closed when the device is about to end
	serving  sync.WaitGroup

	mu     sync.Mutex
	ending bool
	guests map[*guest]struct{}
	parted time.Time // when the last guest left, or the holder began
}

// hold begins to serve other processes.
func (p *Person) hold(ctx context.Context, stop context.CancelCauseFunc) (*holder, error) {
	l, err := private.Listen(filepath.Join(p.profile.dir, agentSocket))
	if err != nil {
		return nil, err
	}
	h := &holder{p: p, ctx: ctx, stop: stop, listener: l, changed: make(chan struct{}, 1), ended: make(chan struct{}), guests: make(map[*guest]struct{}), parted: time.Now()}
	h.serving.Go(h.accept)
	return h, nil
}

func (h *holder) accept() {
	for {
		c, err := h.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // for example without a free file descriptor
			select {
			case <-time.After(100 * time.Millisecond):
				continue
			case <-h.ended:
				return
			}
		}
		h.serving.Go(func() {
			conn := &agentConn{Conn: c}
			h.serve(conn)
			_ = conn.Close() // no answer is needed
		})
	}
}

// serve answers one connection.
func (h *holder) serve(conn *agentConn) {
	f, err := conn.readWithin(agentHello)
	switch {
	case errors.Is(err, errOtherVersion), err == nil && f.Kind == agentRun && f.Request.Version != agentVersion:
		_ = conn.write(&agentFrame{Kind: agentRefused, Text: errVersions.Error()})
	case err != nil:
	case f.Kind == agentStop:
		if conn.write(&agentFrame{Kind: agentTaken}) == nil {
			h.stop(errStopped)
			<-h.ended // the caller waits for the end of the connection
		}
	case f.Kind == agentRun:
		h.run(conn, f.Request)
	}
}

// errVersions is the error for a caller that uses another version than the holder.
var errVersions = errors.New("another version of mlsfed runs for this device: end it, or 'mlsfed agent --stop' with that version")

// run runs a caller's command.
func (h *holder) run(conn *agentConn, r *agentRequest) {
	ctx, cancel := context.WithCancelCause(h.ctx)
	defer cancel(nil)
	g := newGuest(h, conn, r, cancel)
	args := make([]string, len(r.Arguments))
	for i, a := range r.Arguments {
		args[i] = string(a)
	}
	root := cli.RootOf(ctx)
	switch err := h.admit(g, root, args); {
	case errors.Is(err, errMoved):
		_ = conn.write(&agentFrame{Kind: agentRefused, Again: true})
		return
	case err != nil:
		_ = conn.write(&agentFrame{Kind: agentRefused, Text: err.Error()})
		return
	}
	defer h.part(g)
	if conn.write(&agentFrame{Kind: agentTaken}) != nil {
		return
	}
	go g.read()        // ends with the connection
	from := Position{} // not the position of the holder's own command, which the context has
	if r.From != nil {
		from = *r.From
	}
	ctx = context.WithValue(ctx, positionKey{}, from)
	root.SetIn(g.in)
	once := func() *cobra.Command { return root } // this process never restarts the command of a guest
	code := cli.Run(context.WithValue(ctx, guestKey{}, g), once, args, g.out, g.errs)
	close(g.done)
	_ = conn.write(&agentFrame{Kind: agentEnded, Code: uint8(code), Again: g.moves()}) // no answer for a caller that has gone
}

// admit registers a guest, unless there are too many guests or its command cannot run for a device in use.
func (h *holder) admit(g *guest, root *cobra.Command, args []string) error {
	c, _, err := root.Find(args)
	if err != nil || c.GroupID != cli.GroupPeople || slices.Contains([]string{"agent", "demo", "login", "logout"}, c.Name()) {
		return errors.New("another process cannot run this command")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.ending:
		return errMoved
	case len(h.guests) >= maxGuests:
		return fmt.Errorf("%d commands use this device already: end some of them, or try again later", len(h.guests))
	}
	h.guests[g] = struct{}{}
	h.note()
	return nil
}

func (h *holder) part(g *guest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.guests, g)
	h.parted = time.Now()
	h.note()
}

func (h *holder) note() {
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

// idle reports whether there is no guest, and since when.
func (h *holder) idle() (bool, time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.guests) == 0, h.parted
}

// fail ends all guests, since the device can no longer be used.
func (h *holder) fail(why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for g := range h.guests {
		g.cancel(deviceEnded{why})
	}
}

// end stops serving. Long guests continue in the processes of their callers; other guests finish first.
func (h *holder) end() {
	_ = h.listener.Close() // removes the socket; if that fails, the next holder replaces it
	h.mu.Lock()
	h.ending = true
	for g := range h.guests {
		if g.long {
			g.cancel(errMoved)
		}
	}
	h.mu.Unlock()
	h.drain()
	h.mu.Lock()
	for g := range h.guests {
		g.cancel(nil)
		_ = g.conn.Close() // its caller does not read, or does not answer
	}
	h.mu.Unlock()
	close(h.ended)
	h.serving.Wait()
}

// drain waits until no guest is left, or for agentDrain.
func (h *holder) drain() {
	late, long := time.NewTimer(agentDrain), time.NewTimer(agentDrain/30)
	defer late.Stop()
	defer long.Stop()
	for {
		if none, _ := h.idle(); none {
			return
		}
		select {
		case <-h.changed:
		case <-long.C:
			if cli.IsTerminal(h.p.notes) {
				fmt.Fprintf(h.p.notes, "Commands of other processes are not done yet; waiting for at most %v.\n", agentDrain)
			}
		case <-late.C:
			return
		}
	}
}

// newAgent returns the command that holds a profile and does nothing else.
func newAgent() *cobra.Command {
	c := &cobra.Command{
		Use:   "agent",
		Short: "Keep this device online, and let other commands use it",
		Long: `agent keeps this device online and runs the commands of other processes for it: each is done faster then, and
several run at a time. chat and read --follow do the same while they run, so that an agent is never needed. It ends when
it is interrupted.

Other processes of the same user reach it by a socket in the profile's folder. While it runs, they need no passphrase.

If the variable MLSFED_AGENT is set to a time, as 10m, each command starts an agent that ends when it was idle for that
long.`,
		Example: "  mlsfed agent --detach --idle 10m\n  mlsfed send Lunch 'Soup at noon?'\n  mlsfed agent --stop",
		GroupID: cli.GroupPeople,
	}
	o := AddFlags(c)
	if err := c.Flags().MarkHidden("json"); err != nil {
		panic(err) // AddFlags has added it
	}
	f := c.Flags()
	detach := f.Bool("detach", false, "go on in the background, and return when it answers")
	idle := f.Duration("idle", 0, "end when no command came for so long (default: never)")
	stop := f.Bool("stop", false, "end the agent, chat or read --follow that runs for this device")
	started := f.Bool("started", false, "")
	if err := f.MarkHidden("started"); err != nil {
		panic(err) // the line before has added it
	}
	c.MarkFlagsMutuallyExclusive("detach", "stop")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *idle < 0 {
			return cli.UsageError(fmt.Errorf("--idle %v: wanted a time", *idle))
		}
		prof, err := findProfile(o.profile)
		if err != nil {
			return err
		}
		switch {
		case *stop:
			return stopHolder(c, prof)
		case *detach:
			if conn, _ := dialHolder(c.Context(), prof); conn != nil {
				fmt.Fprintf(c.ErrOrStderr(), "A mlsfed runs for %s already, and serves other commands.\n", cli.DeviceName(prof.Device))
				return conn.Close()
			}
			return startAgent(c.Context(), prof, o, *idle)
		}
		o.Long, o.alone = true, true
		err = o.Use(c, commandTiming(), func(ctx context.Context, p *Person) error { return p.serveOthers(ctx, *idle, *started) })
		if errors.Is(err, errStopped) || errors.Is(err, errInterrupted) {
			return nil
		}
		return err
	}
	return c
}

// serveOthers waits until the agent has to end.
func (p *Person) serveOthers(ctx context.Context, idle time.Duration, started bool) error {
	if p.holder == nil {
		return p.holds
	}
	if started {
		p.Mute()
	} else {
		fmt.Fprintf(p.notes, "%s serves other commands.\n", cli.DeviceName(p.DeviceID))
	}
	for {
		var over <-chan time.Time
		if none, since := p.holder.idle(); none && idle > 0 {
			over = time.After(time.Until(since.Add(idle)))
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-p.holder.changed:
		case <-over:
			return nil
		}
	}
}
