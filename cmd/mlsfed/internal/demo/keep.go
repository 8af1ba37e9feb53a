package demo

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// visitor is the user as whom a person can join a demonstration that keeps running.
const visitor = "dave"

// goOn keeps the federation running, prints how to join it, and adds the visitor after enrolment.
func (d *demo) goOn(ctx context.Context) error {
	link, err := d.world.Invite(ctx, orgC, visitor)
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, `
The federation goes on. Join it from another terminal, as dave@c.example:

  export MLSFED_PROFILE=%s
  %s login '%s' --profile $MLSFED_PROFILE
  %s chat

bob adds dave to the conversation, and answers what he says. Ctrl-C here ends all, and removes
%s
`, d.folder(visitor), self(), link, self(), d.dir)
	user, err := link.UserID()
	if err != nil {
		return err
	}
	events := d.bob.Subscribe(ctx)
	go d.welcome(ctx, user)
	for e := range events {
		if e.Type == client.EventMessage && e.Message.Conversation == d.id && e.Message.Sender.User() == user {
			d.answer(ctx, e.Message)
		}
	}
	fmt.Fprintln(d.out, "\nThe federation ends.")
	return nil
}

// self returns the command by which this program was called, for others to call it.
func self() string {
	if strings.Contains(os.Args[0], "go-build") {
		return "go run ./cmd/mlsfed"
	}
	return os.Args[0]
}

// welcome adds the visitor as soon as the organization knows a device of the visitor.
func (d *demo) welcome(ctx context.Context, user wire.UserID) {
	for {
		err := d.bob.Add(ctx, d.id, user)
		if err == nil {
			break
		}
		if code := wire.CodeOf(err); code != wire.NotFound && code != wire.NoneLeft && ctx.Err() == nil {
			fmt.Fprintf(d.out, "bob cannot add %s: %v\n", visitor, cli.Plain(err))
		}
		if cluster.Pause(ctx, time.Second) != nil {
			return
		}
	}
	fmt.Fprintf(d.out, "%s is in the conversation.\n", visitor)
	if _, err := d.bob.SendText(ctx, d.id, "Hello "+visitor+"! You are in a conversation across three organizations."); err != nil {
		fmt.Fprintf(d.out, "bob cannot greet: %v\n", cli.Plain(err))
	}
}

func (d *demo) answer(ctx context.Context, m *client.Message) {
	text := fmt.Sprintf("I have read your message of %d characters.", len([]rune(m.Content.Text)))
	if m.Content.File != nil {
		text = fmt.Sprintf("Thank you for %s, %s.", m.Content.File.Name, cli.Size(m.Content.File.Size))
	}
	if _, err := d.bob.SendText(ctx, d.id, text); err != nil {
		fmt.Fprintf(d.out, "bob cannot answer: %v\n", cli.Plain(err))
	}
}
