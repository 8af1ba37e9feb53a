// Package chat has the command chat: conversations in a terminal, for a Person of package people.
package chat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/people"
)

// Command returns the command chat.
func Command() *cobra.Command {
	c := &cobra.Command{
		Use:   "chat [CONV]",
		Short: "Talk, in a terminal",
		Long: `chat shows your conversations on the left, the messages of one in the middle, and what you write below.

  Enter               send                    Tab, Shift-Tab    next, previous conversation
  Alt-Enter           a new line              Ctrl-L            draw the screen again
  PgUp, PgDn          scroll                  Up, Down          what you wrote before
  Ctrl-C, /quit       leave the program       /help             all commands

A message that is written without a connection is kept, and sent when there is one.`,
		GroupID: cli.GroupPeople,
		Args:    cli.Between(0, 1, "at most a conversation"),
	}
	o := people.AddFlags(c)
	if err := c.Flags().MarkHidden("json"); err != nil {
		panic(err) // people.AddFlags has added it
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		if o.JSON {
			return cli.UsageError(errors.New("--json: chat is for people; scripts use read and send"))
		}
		if !cli.IsTerminal(c.OutOrStdout()) || !cli.IsTerminal(c.InOrStdin()) {
			return errors.New("chat needs a terminal: scripts use 'mlsfed read' and 'mlsfed send'")
		}
		o.Long, o.Screen = true, true
		return o.Use(c, client.Timing{RetryLast: 10 * time.Second}, func(ctx context.Context, p *people.Person) error {
			return run(ctx, p, strings.Join(args, ""), c.InOrStdin(), cli.Below(c.OutOrStdout()), tea.WithAltScreen())
		})
	}
	return c
}

// run shows the interface until the person leaves it, or ctx ends.
func run(ctx context.Context, p *people.Person, named string, in io.Reader, out io.Writer, more ...tea.ProgramOption) error {
	p.Mute() // the interface shows warnings itself
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := p.Subscribe(ctx)
	options := append([]tea.ProgramOption{tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(out), tea.WithoutSignalHandler()}, more...)
	model := newModel(ctx, p)
	model.plain = !p.ShowsColours()
	model.wanted = named
	if at, ok := people.PositionOf(ctx); ok {
		model.wanted = at.Conversation
		model.input.insert([]rune(at.Draft))
	}
	program := tea.NewProgram(model, options...)
	// A character that is wider on the terminal than this program computes would move all that follows.
	fmt.Fprint(out, cli.NoWrap)
	defer fmt.Fprint(out, cli.WrapAgain)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for e := range events {
			program.Send(deviceEvent{e})
		}
	}()
	defer p.OnResize(nil)
	go p.OnResize(func(width, height int) { program.Send(tea.WindowSizeMsg{Width: width, Height: height}) })
	_, err := program.Run()
	cancel()
	<-ended
	if errors.Is(err, tea.ErrProgramKilled) || errors.Is(err, tea.ErrInterrupted) {
		err = nil // ctx has ended; use returns the reason
	}
	return err
}

// deviceEvent is an event of the device.
type deviceEvent struct{ client.Event }
