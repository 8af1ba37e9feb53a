package people

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/charmbracelet/lipgloss"
	"github.com/muesli/termenv"
	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
)

// guestKey is the key of a *guest in the context of its command, positionKey the key of the position to begin at.
type (
	guestKey    struct{}
	positionKey struct{}
)

// guest is a command that this process runs for another process.
type guest struct {
	holder    *holder
	conn      *agentConn
	request   *agentRequest
	zone      *time.Location
	cancel    context.CancelCauseFunc
	in        *guestInput
	out, errs *agentStream
	executed  chan *agentFrame
	flushed   chan struct{}
	gone      chan struct{} // closed when the connection has ended
	done      chan struct{} // closed when the command has ended
	long      bool          // guarded by the holder's mutex

	mu     sync.Mutex
	resize func(width, height int) // nil while no command wants it
	width  int
	height int
}

func newGuest(h *holder, conn *agentConn, r *agentRequest, cancel context.CancelCauseFunc) *guest {
	g := &guest{holder: h, conn: conn, request: r, zone: zoneOf(string(r.Zone), r.HasZone), cancel: cancel, executed: make(chan *agentFrame, 1), flushed: make(chan struct{}, 1), gone: make(chan struct{}), done: make(chan struct{})}
	g.in = &guestInput{g: g, got: make(chan []byte, 1), terminal: r.In}
	g.out = &agentStream{conn: conn, kind: agentOut, terminal: r.Out}
	g.errs = &agentStream{conn: conn, kind: agentErr, terminal: r.Err}
	return g
}

// guestOf returns the guest that a context belongs to, nil for a command of this process.
func guestOf(ctx context.Context) *guest {
	g, _ := ctx.Value(guestKey{}).(*guest)
	return g
}

// PositionOf returns the position at which an earlier process of a command ended.
func PositionOf(ctx context.Context) (Position, bool) {
	at, _ := ctx.Value(positionKey{}).(Position)
	return at, at != (Position{})
}

// read handles the caller's frames until the connection ends.
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
		case agentFlushed:
			select {
			case g.flushed <- struct{}{}:
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
			_ = g.conn.Close() // the caller violates the protocol
			return
		}
	}
}

// errUnasked reports that a caller sent a frame that was not asked for.
var errUnasked = errors.New("nobody has asked for this frame")

func (g *guest) resized(width, height int) {
	g.mu.Lock()
	g.width, g.height = width, height
	notify := g.resize
	g.mu.Unlock()
	if notify != nil {
		notify(width, height)
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

// OnResize calls f with each size of the caller's terminal. It does nothing for a command of this process, whose
// interface observes the terminal itself.
func (p *Person) OnResize(f func(width, height int)) {
	if p.guest != nil {
		p.guest.onResize(f)
	}
}

// use calls f with the holder's device.
func (g *guest) use(c *cobra.Command, o *Options, f func(ctx context.Context, p *Person) error) error {
	h := g.holder
	if o.Long {
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

// moves reports whether the command continues in the caller's process.
func (g *guest) moves() bool {
	g.holder.mu.Lock()
	defer g.holder.mu.Unlock()
	return g.long && g.holder.ending
}

// SetPosition sends the caller of a guest the position at which a long command would continue if this process ended now.
func (p *Person) SetPosition(next Position) {
	if p.guest != nil {
		_ = p.guest.conn.write(&agentFrame{Kind: agentPosition, Position: &next}) // a caller that has gone does not need it
	}
}

// written returns when all that the command has printed is written to where its output goes. A command calls it before
// it marks the printed messages as handled: the caller's output may be full or closed, and the caller may be killed.
func (p *Person) written() error {
	if p.guest == nil {
		return nil // each write has returned
	}
	if err := p.guest.conn.write(&agentFrame{Kind: agentFlush}); err != nil {
		return err
	}
	select {
	case <-p.guest.flushed:
		return nil
	case <-p.guest.gone:
		return os.ErrProcessDone
	}
}

// path resolves a path that the user named in the folder in which the command runs.
func (p *Person) path(named string) string {
	if p.guest == nil || filepath.IsAbs(named) {
		return named
	}
	return filepath.Join(string(p.guest.request.Folder), named)
}

// named is the inverse of path: it returns a path as the user would write it.
func (p *Person) named(path string) string {
	if p.guest == nil {
		return path
	}
	if short, err := filepath.Rel(string(p.guest.request.Folder), path); err == nil && filepath.IsLocal(short) {
		return short
	}
	return path
}

// execute runs a program for a command, here or in the caller's process. The error is an executeError if the program
// ran and failed. printed is the program's output if it is captured: at most maxCaptured+1 bytes.
func (p *Person) execute(ctx context.Context, x *agentProgram) (printed []byte, err error) {
	if p.guest == nil {
		return execute(ctx, x, p.out, p.notes)
	}
	if err := p.guest.conn.write(&agentFrame{Kind: agentExecute, Execute: x}); err != nil {
		return nil, err
	}
	select {
	case f := <-p.guest.executed: // the caller ends the program when it is interrupted
		if f.Text != "" {
			return nil, executeError{errors.New(cli.Clean(f.Text))}
		}
		return f.Data, nil
	case <-p.guest.gone:
		return nil, os.ErrProcessDone
	}
}

// guestInput is the standard input of a caller. The caller reads nothing before the command reads.
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

// IsTerminal reports whether a person types.
func (in *guestInput) IsTerminal() bool { return in.terminal }

// ownColours reports whether the terminal of this process shows colours.
var ownColours = sync.OnceValue(func() bool { return lipgloss.ColorProfile() != termenv.Ascii })

// ShowsColours reports whether the person's terminal shows colours. All chats of a process draw with the same colour
// profile: if this process has no terminal of its own, the terminal of a guest can switch colours on.
func (p *Person) ShowsColours() bool {
	own := ownColours()
	if p.guest == nil {
		return own
	}
	if !own && p.guest.request.Colours {
		lipgloss.SetColorProfile(termenv.ANSI)
	}
	return p.guest.request.Colours
}
