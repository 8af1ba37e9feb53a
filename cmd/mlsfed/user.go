package main

import (
	"encoding/hex"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/node"
	"github.com/mlsfed/mlsfed/wire"
)

func newUser() *cobra.Command {
	c := &cobra.Command{Use: "user", Short: "Invite, list and remove users of a running node", GroupID: groupOperators}
	c.AddCommand(newUserInvite(), newUserList(), newUserRemove(), newUserRevoke())
	return c
}

func newUserInvite() *cobra.Command {
	c := &cobra.Command{
		Use:     "invite NAME",
		Short:   "Make a link with which one device of a user can be enrolled, once",
		Example: "  mlsfed user invite alice",
		Args:    cobra.ExactArgs(1),
	}
	path := addConfigFlag(c)
	life := c.Flags().Duration("for", 24*time.Hour, "how long the link works")
	asJSON := c.Flags().Bool("json", false, "print JSON")
	c.RunE = func(c *cobra.Command, args []string) error {
		ctl, err := newControl(*path)
		if err != nil {
			return err
		}
		user, err := userID(ctl.cfg.Domain, args[0])
		if err != nil {
			return usageError{err}
		}
		var i node.Invitation
		err = ctl.ask(c.Context(), "POST", "/users/invite", map[string]any{"user": user, "seconds": int64(life.Seconds())}, &i)
		if err != nil {
			return err
		}
		link := client.Invitation{Host: i.Gateway, Code: i.Code, Domain: i.Domain, User: i.User.Name()}
		if raw, err := hex.DecodeString(i.Root); err == nil && len(raw) == len(link.Root) {
			link.Root = wire.Hash(raw)
		}
		if *asJSON {
			return printJSON(c.OutOrStdout(), map[string]any{"user": i.User, "link": link.String(), "ends": i.Ends})
		}
		fmt.Fprintf(c.OutOrStdout(), "%s\n", link)
		fmt.Fprintf(c.ErrOrStderr(), "Hand this link to %s. It enrols one device, once, until %s.\n", i.User.Name(), i.Ends.Local().Format("2006-01-02 15:04 MST"))
		return nil
	}
	return c
}

// userID takes a name or a whole identifier.
func userID(domain wire.Domain, s string) (wire.UserID, error) {
	if strings.HasPrefix(s, "mimi:") {
		return wire.ParseUserID(s)
	}
	if name, of, ok := strings.Cut(s, "@"); ok {
		return wire.NewUserID(wire.Domain(of), name)
	}
	return wire.NewUserID(domain, s)
}

func newUserList() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List users and their devices", Args: cobra.NoArgs}
	path := addConfigFlag(c)
	asJSON := c.Flags().Bool("json", false, "print JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		ctl, err := newControl(*path)
		if err != nil {
			return err
		}
		var users []node.User
		if err := ctl.ask(c.Context(), "GET", "/users", nil, &users); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(c.OutOrStdout(), users)
		}
		if len(users) == 0 {
			fmt.Fprintln(c.ErrOrStderr(), "No users yet: mlsfed user invite NAME")
			return nil
		}
		w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "USER\tDEVICE\tENROLLED\tCERTIFICATE ENDS")
		for _, u := range users {
			if len(u.Devices) == 0 {
				fmt.Fprintf(w, "%s\t-\t\t\n", u.ID.Name())
			}
			for _, d := range u.Devices {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", u.ID.Name(), d.ID.Name(), d.Enrolled.Local().Format("2006-01-02 15:04"), d.CertificateEnds.Local().Format(time.DateOnly))
			}
		}
		return w.Flush()
	}
	return c
}

func newUserRemove() *cobra.Command {
	c := &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a user: all devices are revoked and their sessions ended",
		Args:  cobra.ExactArgs(1),
	}
	path := addConfigFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		ctl, err := newControl(*path)
		if err != nil {
			return err
		}
		user, err := userID(ctl.cfg.Domain, args[0])
		if err != nil {
			return usageError{err}
		}
		return ctl.ask(c.Context(), "POST", "/users/remove", map[string]any{"user": user}, new(struct{}))
	}
	return c
}

func newUserRevoke() *cobra.Command {
	c := &cobra.Command{
		Use:   "revoke NAME DEVICE",
		Short: "Revoke one device of a user",
		Args:  cobra.ExactArgs(2),
	}
	path := addConfigFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		ctl, err := newControl(*path)
		if err != nil {
			return err
		}
		user, err := userID(ctl.cfg.Domain, args[0])
		if err != nil {
			return usageError{err}
		}
		device, err := wire.NewDeviceID(user, args[1])
		if err != nil {
			return usageError{err}
		}
		return ctl.ask(c.Context(), "POST", "/devices/revoke", map[string]any{"device": device}, new(struct{}))
	}
	return c
}
