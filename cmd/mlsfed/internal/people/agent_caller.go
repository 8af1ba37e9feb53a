package people

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"time"

	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/x/term"
	"github.com/muesli/cancelreader"
	"github.com/muesli/termenv"
	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/internal/platform"
	"github.com/mlsfed/mlsfed/internal/private"
)

// takeOver reports that a command continues in this process, from a position.
type takeOver struct{ from Position }

func (takeOver) Error() string { return "the command continues in this process" }

// RestartWith returns a context in which the command begins at the position.
func (t takeOver) RestartWith(ctx context.Context) context.Context {
	return context.WithValue(ctx, positionKey{}, t.from)
}

// errNotTaken reports that the holder was about to end, and has not begun the command.
var errNotTaken = errors.New("the command was not begun")

// dialHolder connects to the process that holds a profile. Without one it returns nil.
func dialHolder(ctx context.Context, prof *profile) (*agentConn, error) {
	ctx, cancel := context.WithTimeout(ctx, agentHello)
	defer cancel()
	c, err := private.Dial(ctx, filepath.Join(prof.dir, agentSocket))
	switch {
	case err == nil:
		return &agentConn{Conn: c}, nil
	case errors.Is(err, fs.ErrNotExist), platform.Refused(err): // none, or one that has crashed
		return nil, nil
	}
	return nil, fmt.Errorf("the mlsfed that runs for %s: %w", cli.DeviceName(prof.Device), err)
}

// visit runs a command in the process that holds the profile. It returns errNotTaken if that process is about to end.
func (o *Options) visit(c *cobra.Command, conn *agentConn) error {
	defer conn.Close()
	v := &caller{o: o, conn: conn, ctx: c.Context(), in: c.InOrStdin(), out: cli.Below(c.OutOrStdout()), errs: cli.Below(c.ErrOrStderr())}
	if o.taken != nil {
		v.in = bytes.NewReader(o.taken)
	}
	f, err := v.begin()
	switch {
	case errors.Is(err, errOtherVersion):
		return errVersions
	case errors.Is(err, os.ErrDeadlineExceeded): // nothing was begun: the holder cannot report this on a closed connection
		return errors.New("the mlsfed that uses this device does not answer: it is stopped, perhaps (Ctrl-Z), and 'fg' lets it go on")
	case err != nil, f.Kind == agentRefused && f.Again:
		if c.Context().Err() != nil {
			return errInterrupted
		}
		return errNotTaken
	case f.Kind == agentRefused:
		return errors.New(cli.Clean(f.Text))
	case f.Kind != agentTaken:
		return errVersions
	}
	if o.Screen {
		if err := v.rawTerminal(); err != nil {
			return err
		}
	}
	err = v.attend()
	if v.restore != nil {
		v.restore(errors.As(err, new(cli.ExitCode)) || err == nil)
	}
	return err
}

// caller is this process while another process runs its command.
type caller struct {
	o         *Options
	conn      *agentConn
	ctx       context.Context
	in        io.Reader
	out, errs io.Writer
	at        Position           // where the command would continue here
	restore   func(orderly bool) // of the terminal; nil if nothing was changed
	sizes     sync.WaitGroup     // sends the size of the terminal
	giving    sync.WaitGroup     // reads standard input
}

// begin sends the command to the holder, and returns the first answer.
func (v *caller) begin() (*agentFrame, error) {
	args := cli.Arguments(v.ctx)
	folder, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	r := &agentRequest{Version: agentVersion, Folder: []byte(folder), In: cli.IsTerminal(v.in), Out: cli.IsTerminal(v.out), Err: cli.IsTerminal(v.errs), Colours: lipgloss.ColorProfile() != termenv.Ascii}
	for _, a := range args {
		r.Arguments = append(r.Arguments, []byte(a))
	}
	zone, set := os.LookupEnv("TZ")
	r.Zone, r.HasZone = []byte(zone), set
	if home, err := os.UserHomeDir(); err == nil {
		r.Home = []byte(home)
	}
	if out, ok := v.out.(*os.File); ok {
		if _, height, err := term.GetSize(out.Fd()); err == nil {
			r.Height = uint16(height)
		}
	}
	if from, ok := PositionOf(v.ctx); ok {
		r.From, v.at = &from, from
	}
	if err := v.conn.write(&agentFrame{Kind: agentRun, Request: r}); err != nil {
		return nil, err
	}
	return v.conn.readWithin(min(agentHello, v.o.Timeout))
}

// attend serves the requests of the holder until the command has ended.
func (v *caller) attend() error {
	interrupted := context.AfterFunc(v.ctx, func() {
		_ = v.conn.write(&agentFrame{Kind: agentInterrupt}) // a holder that has gone is met by the reader
		_ = v.conn.SetReadDeadline(time.Now().Add(agentParted))
	})
	defer interrupted()
	for {
		f, err := v.conn.read()
		if err != nil {
			return v.lost()
		}
		switch f.Kind {
		case agentOut:
			_, err = v.out.Write(f.Data)
		case agentErr:
			_, err = v.errs.Write(f.Data)
		case agentPosition:
			if f.Position != nil {
				v.at = *f.Position
			}
		case agentFlush:
			_ = v.conn.write(&agentFrame{Kind: agentFlushed}) // a holder that has gone is met by the next read
		case agentWant:
			v.giving.Go(v.give) // it may wait for the person for as long as this process lives
		case agentExecute:
			go v.run(f.Execute) // ended by v.ctx
		case agentEnded:
			return v.end(f)
		}
		if err != nil {
			return err // as when the reader of a pipe has gone
		}
	}
}

func (v *caller) end(f *agentFrame) error {
	switch {
	case f.Again && v.ctx.Err() == nil:
		return takeOver{v.at}
	case f.Again:
		return errInterrupted
	case f.Code != 0:
		return cli.ExitCode(f.Code)
	}
	return nil
}

// lost returns the error of a command whose holder has gone.
func (v *caller) lost() error {
	switch {
	case v.ctx.Err() != nil:
		return errInterrupted
	case v.o.Long:
		return takeOver{v.at}
	}
	return errors.New("the mlsfed that served this command ended before the command did: whether it was done is not known")
}

// give sends a part of the standard input.
func (v *caller) give() {
	b := make([]byte, agentChunk)
	n, err := v.in.Read(b)
	for n == 0 && err == nil {
		n, err = v.in.Read(b)
	}
	if errors.Is(err, cancelreader.ErrCanceled) {
		return
	}
	_ = v.conn.write(&agentFrame{Kind: agentInput, Data: b[:n]}) // a holder that has gone is met by attend
}

// run runs a program for the command.
func (v *caller) run(x *agentProgram) {
	f := &agentFrame{Kind: agentExecuted}
	printed, err := execute(v.ctx, x, cli.NewScreen(v.out), cli.NewScreen(v.errs))
	if err != nil {
		f.Text = cli.Clean(err.Error())
	} else {
		f.Data = printed
	}
	_ = v.conn.write(f) // a holder that has gone is met by attend
}

// Terminal sequences that reset what an interrupted chat leaves set: bracketed paste, no cursor, the alternate
// screen, no wrapping.
const terminalAgain = "\x1b[?2004l\x1b[?25h\x1b[?1049l" + cli.WrapAgain

// rawTerminal gives the terminal to the holder: it sends each key, and the size.
func (v *caller) rawTerminal() error {
	in, ok := v.in.(*os.File)
	out, isFile := v.out.(*os.File)
	if !ok || !isFile {
		return nil // no terminal: the holder reports it
	}
	reader, err := cancelreader.NewReader(in)
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	before, err := term.MakeRaw(in.Fd())
	if err != nil {
		return errors.Join(fmt.Errorf("terminal: %w", err), reader.Close())
	}
	v.in = reader
	changes := make(chan os.Signal, 1)
	platform.NotifyResized(changes)
	over := make(chan struct{})
	v.sizes.Go(func() {
		for {
			if width, height, err := term.GetSize(out.Fd()); err == nil {
				_ = v.conn.write(&agentFrame{Kind: agentSize, Width: uint16(width), Height: uint16(height)}) // as in give
			}
			select {
			case <-changes:
			case <-over:
				return
			}
		}
	})
	v.restore = func(orderly bool) {
		signal.Stop(changes)
		close(over)
		v.sizes.Wait()
		reader.Cancel()
		v.giving.Wait() // before Close, after which it would wait for a key and take it
		if !orderly {
			_, _ = io.WriteString(v.out, terminalAgain)
		}
		_ = term.Restore(in.Fd(), before)
		_ = reader.Close()
	}
	return nil
}

// maxCaptured bounds the captured output of a program, in bytes: more than a message holds.
const maxCaptured = client.MaxText + 1

// executeError is the failure of a program that a command runs.
type executeError struct{ error }

func (e executeError) Unwrap() error { return e.error }

// execute runs a program through the shell.
func execute(ctx context.Context, x *agentProgram, out, errs io.Writer) ([]byte, error) {
	c := exec.CommandContext(ctx, "sh", "-c", string(x.Command))
	printed := &beginningOf{most: maxCaptured + 1}
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(x.Input), out, errs
	if x.Capture {
		c.Stdout = printed
	}
	c.Env = os.Environ()
	for _, e := range x.Environment {
		c.Env = append(c.Env, string(e))
	}
	if err := c.Run(); err != nil {
		return nil, executeError{err}
	}
	return printed.b, nil
}

// beginningOf keeps a limited number of the first bytes that are written to it.
type beginningOf struct {
	b    []byte
	most int
}

// Write implements io.Writer.
func (k *beginningOf) Write(b []byte) (int, error) {
	k.b = append(k.b, b[:min(len(b), k.most-len(k.b))]...)
	return len(b), nil
}

// stopHolder ends the process that holds a profile.
func stopHolder(c *cobra.Command, prof *profile) error {
	conn, err := dialHolder(c.Context(), prof)
	if err != nil {
		return err
	}
	if conn == nil {
		fmt.Fprintf(c.ErrOrStderr(), "No mlsfed runs for %s.\n", cli.DeviceName(prof.Device))
		return nil
	}
	defer conn.Close()
	return askToEnd(conn)
}

// askToEnd returns when the holder has ended its work.
func askToEnd(conn *agentConn) error {
	if err := conn.write(&agentFrame{Kind: agentStop}); err != nil {
		return nil // the holder has ended
	}
	f, err := conn.readWithin(agentHello)
	if errors.Is(err, errOtherVersion) || err == nil && f.Kind == agentRefused {
		return errVersions
	}
	if err == nil {
		_, _ = conn.readWithin(agentDrain + agentHello) // the holder sends nothing more, and ends
	}
	return nil
}

// startAgent starts an agent in the background, and returns when it answers.
func startAgent(ctx context.Context, prof *profile, o *Options, idle time.Duration) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	said, err := os.CreateTemp("", "mlsfed-agent-*")
	if err != nil {
		return err
	}
	defer said.Close()
	if err := os.Remove(said.Name()); err != nil {
		return err
	}
	dir, err := filepath.Abs(prof.dir)
	if err != nil {
		return err
	}
	c := exec.Command(self)
	c.Args = []string{os.Args[0], "agent", "--started", "--profile", dir, "--idle", idle.String(), "--timeout", o.Timeout.String()}
	if o.passphraseFile != "" {
		file, err := filepath.Abs(o.passphraseFile)
		if err != nil {
			return err
		}
		c.Args = append(c.Args, "--passphrase-file", file)
	}
	c.Stderr, c.Dir = said, dir
	platform.Detach(c)
	if err := c.Start(); err != nil {
		return fmt.Errorf("start an agent: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }() // the agent outlives this process
	for tick := time.Tick(20 * time.Millisecond); ; {
		if conn, err := dialHolder(ctx, prof); err != nil || conn != nil {
			if conn != nil {
				err = conn.Close()
			}
			return err
		}
		select {
		case <-tick:
		case <-ctx.Done():
			_ = c.Process.Kill()
			return errInterrupted
		case err := <-ended:
			text, _ := io.ReadAll(io.LimitReader(io.NewSectionReader(said, 0, agentChunk), agentChunk))
			if conn, _ := dialHolder(ctx, prof); conn != nil { // another one was first
				return conn.Close()
			}
			return fmt.Errorf("the agent ended (%v): %s", err, bytes.TrimSpace(bytes.TrimPrefix(text, []byte("mlsfed: "))))
		}
	}
}
