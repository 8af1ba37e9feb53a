package people

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/wire"
)

func newAdd() *cobra.Command {
	var again bool
	c := newChange(&cobra.Command{
		Use:   "add CONV [USER…]",
		Short: "Add users to a conversation, with all their devices",
		Long: `add adds users to a conversation: all their devices, with one commit. They read what is sent from then on.

With --again it takes devices instead (alice@a.example/phone), removes each and adds it again: for one that
says that it cannot follow the conversation any further. Without a name it takes those that have asked for it.`,
		Example: "  mlsfed add Lunch carol@c.example\n  mlsfed add Lunch --again\n  mlsfed add Lunch --again bob@b.example/phone",
		Args: func(c *cobra.Command, args []string) error {
			if again && len(args) == 1 {
				return nil
			}
			return cli.AtLeast(2, "a conversation and users")(c, args)
		},
	}, func(ctx context.Context, p *Person, id wire.ConversationID, args []string) error {
		if again {
			return p.addAgain(ctx, id, args)
		}
		users, err := p.Users(args)
		if err != nil {
			return err
		}
		before, err := p.Members(ctx, id)
		if err != nil {
			return err
		}
		if err := p.Add(ctx, id, users...); err != nil {
			return err
		}
		after, err := p.Members(ctx, id)
		if err != nil {
			return err
		}
		return p.report(ctx, id, "%s, epoch %d: %s.", changed(len(after)-len(before), "added"), p.epoch(ctx, id), CountMembers(after))
	})
	c.Flags().BoolVar(&again, "again", false, "remove devices and add them again")
	return c
}

func changed(n int, how string) string {
	if n <= 0 {
		return "Nothing to do"
	}
	return cli.Plural(n, "device", "devices") + " " + how
}

// addAgain removes devices and adds them again: the named devices, or those that have asked for it.
func (p *Person) addAgain(ctx context.Context, id wire.ConversationID, names []string) error {
	devices, err := p.AgainDevices(ctx, id, names)
	if err != nil {
		return err
	}
	for _, device := range devices {
		if err := p.Restore(ctx, id, device); err != nil {
			return err
		}
		if err := p.report(ctx, id, "%s was added again, epoch %d.", cli.DeviceName(device), p.epoch(ctx, id)); err != nil {
			return err
		}
	}
	return nil
}

func (p *Person) AgainDevices(ctx context.Context, id wire.ConversationID, names []string) ([]wire.DeviceID, error) {
	if len(names) == 0 {
		list, err := p.AskingAgain(ctx, id)
		if err == nil && len(list) == 0 {
			err = errors.New("no device has asked to be added again: name one, as alice@a.example/phone")
		}
		return list, err
	}
	var list []wire.DeviceID
	for _, n := range names {
		device, err := parseDevice(p.DeviceID.Organization(), n)
		if err != nil {
			return nil, cli.UsageError(err)
		}
		list = append(list, device)
	}
	return list, nil
}

// parseDevice reads alice@a.example/phone, or an identifier.
func parseDevice(domain wire.Domain, s string) (wire.DeviceID, error) {
	if strings.HasPrefix(s, "mimi:") {
		return wire.ParseDeviceID(s)
	}
	user, device, ok := strings.Cut(s, "/")
	if !ok {
		return "", fmt.Errorf("%q is no device: wanted alice@a.example/phone", s)
	}
	u, err := cli.ParseUser(domain, user)
	if err != nil {
		return "", err
	}
	return wire.NewDeviceID(u, device)
}
