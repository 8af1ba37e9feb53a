package people

import (
	"context"
	"fmt"
	"strings"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/wire"
)

// Troubles describes the problems of a conversation, and what helps: with the commands of a chat, or with other
// commands.
func Troubles(c *client.Conversation, chat bool) (list []string) {
	say := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	switch {
	case c.State == client.StateBroken:
		say("%s", BrokenText(c, chat))
	case c.State == client.StateJoining && c.Why == "":
		say("this device was added to %s and is fetching what it needs to enter", Titled(c))
	case c.State == client.StateJoining:
		say("this device was added to %s and has not entered yet: %s", Titled(c), cli.OneLine(c.Why))
	}
	if c.Offered {
		say("no admin of %s is left, and you are offered to be the next one: %s", Titled(c), offerHelp(chat))
	}
	if len(c.Again) > 0 {
		help := "'mlsfed add CONV --again'"
		if chat {
			help = "/again"
		}
		what := "cannot follow %s any further and asks to be added again: %s does it"
		if len(c.Again) > 1 {
			what = "cannot follow %s any further and ask to be added again: %s does it"
		}
		say(strings.Join(cli.DeviceNames(c.Again), ", ")+" "+what, Titled(c), help)
	}
	return list
}

// BrokenText describes why this device cannot follow a conversation, and what helps.
func BrokenText(c *client.Conversation, chat bool) string {
	help := "'mlsfed rejoin'"
	if chat {
		help = "/rejoin"
	}
	text := fmt.Sprintf("this device cannot follow %s any further (%s)", Titled(c), cli.OneLine(cli.WithNames(c.Why)))
	switch {
	case c.Asked != "":
		return fmt.Sprintf("%s. It has asked %s to add it again; %s asks once more", text, cli.PersonName(c.Asked), help)
	case c.Handshakes == wire.HandshakesPrivate:
		return fmt.Sprintf("%s: %s asks a member to add it again", text, help)
	}
	return fmt.Sprintf("%s: %s brings it back", text, help)
}

// offerHelp describes how to answer the offer to become an admin.
func offerHelp(chat bool) string {
	if chat {
		return "/admin yes, or /admin no, which hands it on"
	}
	return "'mlsfed rules CONV --admin yes', or no, which hands it on"
}

// AnswerOffer answers the offer to become an admin, and returns the effect.
func (p *Person) AnswerOffer(ctx context.Context, id wire.ConversationID, answer string) (string, error) {
	if answer != "yes" && answer != "no" {
		return "", cli.UsageError(fmt.Errorf("%q: wanted yes or no", answer))
	}
	conv, err := p.Conversation(ctx, id)
	if err != nil {
		return "", err
	}
	if !conv.Offered {
		return "", fmt.Errorf("nobody has offered you to be an admin of %s: 'mlsfed rules' shows who the admins are", Titled(conv))
	}
	if err := p.AnswerAdmin(ctx, id, answer == "yes"); err != nil {
		return "", err
	}
	if answer == "yes" {
		return "you are an admin of " + Titled(conv), nil
	}
	if conv, err = p.Conversation(ctx, id); err != nil {
		return "", err
	}
	return strings.Join(cli.PersonNames(conv.Rules.Admins), ", ") + " is offered it now", nil
}
