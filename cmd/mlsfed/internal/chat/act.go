package chat

import (
	"context"
	"strings"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/people"
	"github.com/mlsfed/mlsfed/wire"
)

// The commands of this file concern a message: see people.FindMessage for how a person names it.

func doReply(ctx context.Context, p *people.Person, id wire.ConversationID, args []string) outcome {
	m, err := p.FindMessage(ctx, id, args[0], false)
	if err == nil {
		_, err = p.Reply(ctx, m, strings.Join(args[1:], " "))
	}
	return outcome{err: err}
}

func doReact(ctx context.Context, p *people.Person, id wire.ConversationID, args []string) outcome {
	m, err := p.FindMessage(ctx, id, args[0], false)
	switch {
	case err != nil:
	case len(args) == 1:
		_, err = p.Unreact(ctx, m, "")
	default:
		_, err = p.ReactOnce(ctx, m, strings.Join(args[1:], " "))
	}
	return outcome{err: err}
}

func doEdit(ctx context.Context, p *people.Person, id wire.ConversationID, args []string) outcome {
	m, err := p.FindMessage(ctx, id, args[0], true)
	if err == nil {
		_, err = p.Edit(ctx, m, strings.Join(args[1:], " "))
	}
	return outcome{err: err}
}

func doDelete(ctx context.Context, p *people.Person, id wire.ConversationID, args []string) outcome {
	m, err := p.FindMessage(ctx, id, args[0], true)
	if err == nil {
		_, err = p.Delete(ctx, m)
	}
	return outcome{err: err}
}

func doExpire(ctx context.Context, p *people.Person, id wire.ConversationID, args []string) outcome {
	after, err := time.Duration(0), error(nil)
	if len(args) == 0 {
		after, err = p.Expiry(ctx, id)
	} else if after, err = people.ParseExpiry(args[0]); err == nil {
		err = p.SetExpiry(ctx, id, after)
	}
	return outcome{text: people.ExpiryText(after), err: err}
}

// changeText returns the remark about a change of a message, "" for changes that the message itself shows.
func changeText(e client.Event) string {
	if e.Type == client.EventChanged && e.Change != client.ChangeRefusedEdit && e.Change != client.ChangeRefusedDelete {
		return ""
	}
	return people.ChangeText(e)
}
