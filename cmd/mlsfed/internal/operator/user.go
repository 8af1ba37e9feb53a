package operator

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/node"
	"github.com/mlsfed/mlsfed/wire"
)

func newUser() *cobra.Command {
	c := &cobra.Command{Use: "user", Short: "Invite, list and remove users of a running node", GroupID: cli.GroupOperators}
	c.AddCommand(newUserInvite(), newUserList(), newUserRemove(), newUserRevoke(), newUserRebind())
	return c
}

func newUserInvite() *cobra.Command {
	c := &cobra.Command{
		Use:     "invite NAME",
		Short:   "Make a link with which one device of a user can be enrolled, once",
		Example: "  mlsfed user invite alice\n  mlsfed user invite alice --for 48h",
		Args:    cli.Exactly(1, "the name of a user, as alice"),
	}
	life := c.Flags().Duration("for", 24*time.Hour, "how long the link works, as 12h")
	return newOperator(cli.WithJSON(c), func(ctx context.Context, o *operator, args []string) error {
		user, err := o.user(args[0])
		if err != nil {
			return err
		}
		if *life < time.Second {
			return cli.UsageError(fmt.Errorf("--for %v: wanted a second or more", *life))
		}
		var i node.Invitation
		if err := o.control().ask(ctx, "POST", "/users/invite", map[string]any{"user": user, "seconds": int64(life.Seconds())}, &i); err != nil {
			return err
		}
		link := client.Invitation{Host: i.Gateway, Code: i.Code, Domain: i.Domain, User: i.User.Name()}
		if raw, err := hex.DecodeString(i.Root); err == nil && len(raw) == len(link.Root) {
			link.Root = wire.Hash(raw)
		}
		if o.json {
			return cli.PrintJSON(o.out, map[string]any{"user": cli.PersonName(i.User), "link": link.String(), "ends": i.Ends})
		}
		fmt.Fprintf(o.out, "%s\n", link)
		fmt.Fprintf(o.notes, "Hand this link to %s. It enrols one device, once, until %s.\n", i.User.Name(), i.Ends.Local().Format("2006-01-02 15:04 MST"))
		return nil
	})
}

// userJSON is a user as --json prints one.
type userJSON struct {
	User    string           `json:"user"`
	Devices []cli.DeviceJSON `json:"devices"`
}

func newUserList() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List users and their devices", Args: cobra.NoArgs}
	return newOperator(cli.WithJSON(c), func(ctx context.Context, o *operator, _ []string) error {
		var users []node.User
		if err := o.control().ask(ctx, "GET", "/users", nil, &users); err != nil {
			return err
		}
		if o.json {
			for _, u := range users {
				row := userJSON{User: cli.PersonName(u.ID), Devices: []cli.DeviceJSON{}}
				for _, d := range u.Devices {
					row.Devices = append(row.Devices, cli.DeviceJSON{Device: cli.DeviceName(d.ID), Enrolled: d.Enrolled.UTC(), Ends: d.CertificateEnds.UTC()})
				}
				if err := cli.PrintJSON(o.out, row); err != nil {
					return err
				}
			}
			return nil
		}
		if len(users) == 0 {
			fmt.Fprintln(o.notes, "No users yet: 'mlsfed user invite NAME' makes a link for one.")
			return nil
		}
		var t cli.Table
		t.Row("USER", "DEVICE", "ENROLLED", "CERTIFICATE ENDS")
		for _, u := range users {
			if len(u.Devices) == 0 {
				t.Row(u.ID.Name(), "-")
			}
			for _, d := range u.Devices {
				t.Row(u.ID.Name(), d.ID.Name(), d.Enrolled.Local().Format("2006-01-02 15:04"), d.CertificateEnds.Local().Format(time.DateOnly))
			}
		}
		return t.Write(o.out)
	})
}

func newUserRemove() *cobra.Command {
	c := &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a user: all devices are revoked and their sessions ended",
		Args:  cli.Exactly(1, "the name of a user, as alice"),
	}
	return newOperator(c, func(ctx context.Context, o *operator, args []string) error {
		user, err := o.user(args[0])
		if err != nil {
			return err
		}
		if err := o.control().post(ctx, "/users/remove", map[string]any{"user": user}); err != nil {
			return err
		}
		fmt.Fprintf(o.out, "%s is removed: devices and links are void.\n", cli.PersonName(user))
		return nil
	})
}

func newUserRevoke() *cobra.Command {
	c := &cobra.Command{
		Use:   "revoke NAME DEVICE",
		Short: "Revoke one device of a user",
		Args:  cli.Exactly(2, "the names of a user and of a device, as alice phone"),
	}
	return newOperator(c, func(ctx context.Context, o *operator, args []string) error {
		user, err := o.user(args[0])
		if err != nil {
			return err
		}
		device, err := wire.NewDeviceID(user, args[1])
		if err != nil {
			return cli.UsageError(err)
		}
		if err := o.control().post(ctx, "/devices/revoke", map[string]any{"device": device}); err != nil {
			return err
		}
		fmt.Fprintf(o.out, "%s is revoked.\n", cli.DeviceName(device))
		return nil
	})
}

func newUserRebind() *cobra.Command {
	c := &cobra.Command{
		Use:   "rebind NAME",
		Short: "Let another subject of the OpenID Connect issuer be a user",
		Long: `rebind changes which subject of the OpenID Connect issuer a user is. The first ID token that enrols a
device of a user binds the user to its issuer and subject ('sub'); tokens of another subject that bear the
same name are refused. Rebind a user after the issuer has given the person a new subject, or after
oidc.url has changed.

Without --subject the user is bound to none, and the next token that bears the name binds the user. Devices
that are enrolled stay so: 'mlsfed user revoke' ends one.`,
		Example: "  mlsfed user rebind alice --subject 248289761001\n  mlsfed user rebind alice",
		Args:    cli.Exactly(1, "the name of a user, as alice"),
	}
	subject := c.Flags().String("subject", "", "the subject that the user is now (default: that of the next token)")
	return newOperator(c, func(ctx context.Context, o *operator, args []string) error {
		user, err := o.user(args[0])
		if err != nil {
			return err
		}
		if err := o.control().post(ctx, "/users/rebind", map[string]any{"user": user, "subject": *subject}); err != nil {
			return err
		}
		if *subject == "" {
			fmt.Fprintf(o.out, "The next ID token that bears the name of %s decides who that is.\n", cli.PersonName(user))
			return nil
		}
		fmt.Fprintf(o.out, "%s is subject %q of the issuer now.\n", cli.PersonName(user), *subject)
		return nil
	})
}
