package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/lipgloss"
	"github.com/muesli/termenv"
	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/client"
)

func newChat() *cobra.Command {
	c := &cobra.Command{
		Use:   "chat [CONV]",
		Short: "Talk, in a terminal",
		Long: `chat shows your conversations on the left, the messages of one in the middle, and what you write below.

  Enter               send                    Tab, Shift-Tab    next, previous conversation
  Alt-Enter           a new line              Ctrl-L            draw the screen again
  PgUp, PgDn          scroll                  Up, Down          what you wrote before
  Ctrl-C, /quit       leave the program       /help             all commands

What is written while there is no connection is kept, and sent when there is one.`,
		GroupID: groupPeople,
		Args:    between(0, 1, "at most a conversation"),
	}
	o := addPeopleFlags(c)
	if err := c.Flags().MarkHidden("json"); err != nil {
		panic(err) // addPeopleFlags has made it
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		if o.json {
			return usageError{errors.New("--json: chat is for people; scripts use read and send")}
		}
		if !isTerminal(c.OutOrStdout()) || !isTerminal(c.InOrStdin()) {
			return errors.New("chat needs a terminal: scripts use 'mlsfed read' and 'mlsfed send'")
		}
		o.long, o.screen = true, true
		return o.use(c, client.Timing{RetryLast: 10 * time.Second}, func(ctx context.Context, p *person) error {
			return runChat(ctx, p, strings.Join(args, ""), c.InOrStdin(), below(c.OutOrStdout()), tea.WithAltScreen())
		})
	}
	return c
}

// What ends and begins again that a terminal goes on in the next line (DECAWM).
const (
	noWrap    = "\x1b[?7l"
	wrapAgain = "\x1b[?7h"
)

// runChat shows the interface until the person leaves it, or ctx ends.
func runChat(ctx context.Context, p *person, named string, in io.Reader, out io.Writer, more ...tea.ProgramOption) error {
	p.silence() // the interface shows warnings itself
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := p.Subscribe(ctx)
	options := append([]tea.ProgramOption{tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(out), tea.WithoutSignalHandler()}, more...)
	model := newChatModel(ctx, p)
	model.wanted = named
	if at, ok := positionOf(ctx); ok {
		model.wanted = at.Conversation
		model.input.insert([]rune(at.Draft))
	}
	program := tea.NewProgram(model, options...)
	// A character that the terminal takes for wider than this program does would move all that follows.
	fmt.Fprint(out, noWrap)
	defer fmt.Fprint(out, wrapAgain)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for e := range events {
			program.Send(chatEvent{e})
		}
	}()
	if g := p.guest; g != nil {
		if g.request.Colours && !g.holder.p.opts.screen { // this process has no terminal of its own
			lipgloss.SetColorProfile(termenv.ANSI)
		}
		defer g.onResize(nil)
		go g.onResize(func(width, height int) { program.Send(tea.WindowSizeMsg{Width: width, Height: height}) })
	}
	_, err := program.Run()
	cancel()
	<-ended
	if errors.Is(err, tea.ErrProgramKilled) || errors.Is(err, tea.ErrInterrupted) {
		err = nil // ctx has ended; use knows why
	}
	return err
}

// chatEvent is something that the device tells.
type chatEvent struct{ client.Event }
