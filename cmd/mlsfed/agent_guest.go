package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/spf13/cobra"
)

// guestKey is the key of a *guest in the context of its command, positionKey of the position to begin at.
type (
	guestKey    struct{}
	positionKey struct{}
)

// guest is a command that this process runs for another one.
type guest struct {
	holder    *holder
	conn      *agentConn
	request   *agentRequest
	cancel    context.CancelCauseFunc
	in        *guestInput
	out, errs *agentStream
	executed  chan *agentFrame
	gone      chan struct{} // closed when the connection has ended
	done      chan struct{} // closed when the command has ended
	long      bool          // guarded by the holder's mutex

	mu     sync.Mutex
	resize func(width, height int) // nil while nobody wants it
	width  int
	height int
}

func newGuest(h *holder, conn *agentConn, r *agentRequest, cancel context.CancelCauseFunc) *guest {
	g := &guest{holder: h, conn: conn, request: r, cancel: cancel, executed: make(chan *agentFrame, 1), gone: make(chan struct{}), done: make(chan struct{})}
	g.in = &guestInput{g: g, got: make(chan []byte, 1), terminal: r.In}
	g.out = &agentStream{conn: conn, kind: agentOut, terminal: r.Out}
	g.errs = &agentStream{conn: conn, kind: agentErr, terminal: r.Err}
	return g
}

// guestOf is the guest that a context belongs to, nil for a command of this process.
func guestOf(ctx context.Context) *guest {
	g, _ := ctx.Value(guestKey{}).(*guest)
	return g
}

// positionOf is where an earlier process of a command has ended.
func positionOf(ctx context.Context) (position, bool) {
	at, _ := ctx.Value(positionKey{}).(position)
	return at, at != (position{})
}

// read takes what the caller says, until the connection ends.
func (g *guest) read() {
	defer close(g.gone)
	for {
		f, err := g.conn.read()
		if err != nil {
			g.cancel(nil) // the caller has ended
			return
		}
		switch f.Kind {
		case agentInput:
			select {
			case g.in.got <- f.Data:
			default:
				err = errUnasked
			}
		case agentExecuted:
			select {
			case g.executed <- f:
			default:
				err = errUnasked
			}
		case agentSize:
			g.resized(int(f.Width), int(f.Height))
		case agentInterrupt:
			g.cancel(nil)
		default:
			err = errUnasked
		}
		if err != nil {
			g.cancel(nil)
			_ = g.conn.Close() // it does not keep to the protocol
			return
		}
	}
}

// errUnasked: a caller sent what nobody has asked for.
var errUnasked = errors.New("nobody has asked for this frame")

func (g *guest) resized(width, height int) {
	g.mu.Lock()
	g.width, g.height = width, height
	tell := g.resize
	g.mu.Unlock()
	if tell != nil {
		tell(width, height)
	}
}

// onResize calls f with each size of the caller's terminal, beginning with the last one, until it is called with nil.
func (g *guest) onResize(f func(width, height int)) {
	g.mu.Lock()
	g.resize = f
	width, height := g.width, g.height
	g.mu.Unlock()
	if f != nil && width > 0 {
		f(width, height)
	}
}

// use lets f work with the holder's device.
func (g *guest) use(c *cobra.Command, o *peopleOptions, f func(ctx context.Context, p *person) error) error {
	h := g.holder
	if o.long {
		h.mu.Lock()
		g.long = true
		if h.ending {
			g.cancel(errMoved)
		}
		h.mu.Unlock()
	}
	p := newPersonOf(c, h.p.profile, o, h.p.traffic)
	p.Device, p.guest = h.p.Device, g
	return p.run(c.Context(), f)
}

// moves reports whether the command goes on in the caller's process.
func (g *guest) moves() bool {
	g.holder.mu.Lock()
	defer g.holder.mu.Unlock()
	return g.long && g.holder.ending
}

// at reports where a command that runs for long would go on, if this process ended now.
func (p *person) at(next position) {
	if p.guest != nil {
		_ = p.guest.conn.write(&agentFrame{Kind: agentPosition, Position: &next}) // a caller who has gone needs it no more
	}
}

// path is a path that the user named, in the folder that the command runs in.
func (p *person) path(named string) string {
	if p.guest == nil || filepath.IsAbs(named) {
		return named
	}
	return filepath.Join(string(p.guest.request.Folder), named)
}

// named is a path as the user would write it: what path makes of it is the argument.
func (p *person) named(path string) string {
	if p.guest == nil {
		return path
	}
	if short, err := filepath.Rel(string(p.guest.request.Folder), path); err == nil && filepath.IsLocal(short) {
		return short
	}
	return path
}

// execute runs a program for a command: here, or in the caller's process. Its error is an executeError where the program
// ran and failed. printed is what the program has printed, if that is captured: at most maxCaptured bytes and one.
func (p *person) execute(ctx context.Context, x *agentProgram) (printed []byte, err error) {
	if p.guest == nil {
		return execute(ctx, x, p.out, p.notes)
	}
	if err := p.guest.conn.write(&agentFrame{Kind: agentExecute, Execute: x}); err != nil {
		return nil, err
	}
	select {
	case f := <-p.guest.executed: // the caller ends the program when it is interrupted
		if f.Text != "" {
			return nil, executeError{errors.New(clean(f.Text))}
		}
		return f.Data, nil
	case <-p.guest.gone:
		return nil, os.ErrProcessDone
	}
}

// guestInput is the standard input of a caller. Nothing is read there before the command reads it.
type guestInput struct {
	g        *guest
	got      chan []byte
	terminal bool

	mu   sync.Mutex
	rest []byte
	over bool
}

// Read implements io.Reader.
func (in *guestInput) Read(b []byte) (int, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(b) == 0 {
		return 0, nil
	}
	if len(in.rest) == 0 && !in.over {
		if err := in.g.conn.write(&agentFrame{Kind: agentWant}); err != nil {
			return 0, err
		}
		select {
		case in.rest = <-in.got:
			in.over = len(in.rest) == 0
		case <-in.g.gone:
			return 0, io.ErrUnexpectedEOF
		case <-in.g.done:
			return 0, io.EOF
		}
	}
	if in.over {
		return 0, io.EOF
	}
	n := copy(b, in.rest)
	in.rest = in.rest[n:]
	return n, nil
}

// isTerminal reports whether a person types.
func (in *guestInput) isTerminal() bool { return in.terminal }
