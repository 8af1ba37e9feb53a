package people

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/wire"
)

// memberJSON is a member as --json prints it.
type memberJSON struct {
	Device       string      `json:"device"` // alice@a.example/phone
	User         string      `json:"user"`   // alice@a.example
	Organization wire.Domain `json:"organization"`
	Admin        bool        `json:"admin"`
	Self         bool        `json:"self"`
	State        string      `json:"state"` // valid, expired or leaving
	Ends         time.Time   `json:"certificate_ends"`
	Number       string      `json:"safety_number,omitempty"` // of other devices
	Account      string      `json:"account,omitempty"`       // of the user: a different one when a name is given again
	Person       int         `json:"person,omitempty"`        // the user's number among those who have had the name, for this device
}

func memberOf(m *client.Member) memberJSON {
	j := memberJSON{Device: cli.DeviceName(m.Device), User: cli.PersonName(m.User), Organization: m.Organization, Admin: m.Admin, Self: m.Self, State: "valid", Ends: m.Ends.UTC(), Number: m.SafetyNumber, Account: m.Account.String(), Person: m.Person}
	switch {
	case m.Leaving:
		j.State = "leaving"
	case m.Expired:
		j.State = "expired"
	}
	return j
}

// givenAgain explains the number after a name.
func givenAgain(user string, admin bool) string {
	text := fmt.Sprintf("(2) is the second person with a name: %s has given that of %s again, to whom nothing passes on.", user[strings.IndexByte(user, '@')+1:], user)
	if admin {
		text = fmt.Sprintf("%s That person is an admin: if nobody here wanted that, 'mlsfed rules CONV --demote %s'.", text, user)
	}
	return text
}

// Ordinal returns the number after a name that an earlier account had too.
func Ordinal(person int) string {
	if person < 2 {
		return ""
	}
	return fmt.Sprintf(" (%d)", person)
}

// newView returns a command that shows something of a conversation.
func newView(c *cobra.Command, do func(ctx context.Context, p *Person, conv *client.Conversation, args []string) error) *cobra.Command {
	c.GroupID = cli.GroupPeople
	o := AddFlags(c)
	addOfflineFlag(c, o)
	c.RunE = func(c *cobra.Command, args []string) error {
		return o.with(c, func(ctx context.Context, p *Person) error {
			conv, err := p.conversation(ctx, args[0])
			if err != nil {
				return err
			}
			return do(ctx, p, conv, args[1:])
		})
	}
	return c
}

func newMembers() *cobra.Command {
	return newView(&cobra.Command{
		Use:   "members CONV",
		Short: "Show who is in a conversation, with which devices",
		Args:  cli.Exactly(1, "a conversation"),
	}, func(ctx context.Context, p *Person, conv *client.Conversation, _ []string) error {
		list, err := p.Members(ctx, conv.ID)
		if err != nil {
			return err
		}
		if p.Options.JSON {
			for i := range list {
				if err := cli.PrintJSON(p.out, memberOf(&list[i])); err != nil {
					return err
				}
			}
			return nil
		}
		if len(list) == 0 {
			fmt.Fprintf(p.notes, "This device is not in %s any more.\n", Titled(conv))
			return nil
		}
		var t cli.Table
		asking, err := p.AskingAgain(ctx, conv.ID)
		if err != nil {
			return err
		}
		again, admin := "", false
		t.Row("USER", "DEVICE", "ROLE", "STATE", "CERTIFICATE ENDS")
		for i := range list {
			j, role := memberOf(&list[i]), "member"
			if j.Admin {
				role = "admin"
			}
			if j.Self {
				role += " (this device)"
			}
			if j.Person > 1 {
				again, admin = j.User, j.Admin
			}
			if slices.Contains(asking, list[i].Device) {
				j.State = "asks to be added again"
			}
			t.Row(j.User+Ordinal(j.Person), list[i].Device.Name(), role, j.State, p.Local(j.Ends).Format(time.DateOnly))
		}
		if err := t.Write(p.out); err != nil || again == "" {
			return err
		}
		fmt.Fprintln(p.notes, givenAgain(again, admin))
		return nil
	})
}

func newVerify() *cobra.Command {
	return newView(&cobra.Command{
		Use:   "verify CONV [USER]",
		Short: "Show the numbers by which people verify each other",
		Long: `verify shows a safety number for each device of the other members, and one for the conversation.

Read the safety number of a device to its owner, over a channel on which you know each other, while he
looks at that of your device: they are equal exactly if each of you sees the key that the other has. The
number of the conversation is the same for all members who share its present state.`,
		Example: "  mlsfed verify Lunch\n  mlsfed verify Lunch bob@b.example",
		Args:    cli.Between(1, 2, "a conversation, and perhaps a user"),
	}, func(ctx context.Context, p *Person, conv *client.Conversation, args []string) error {
		if err := MayAct(conv); err != nil {
			return err
		}
		list, err := p.Members(ctx, conv.ID)
		if err != nil {
			return err
		}
		users, err := p.Users(args)
		if err != nil {
			return err
		}
		list = slices.DeleteFunc(list, func(m client.Member) bool { return len(users) > 0 && m.User != users[0] })
		if len(list) == 0 && len(users) > 0 {
			return fmt.Errorf("%s is not in %s: 'mlsfed members' shows who is", args[0], Titled(conv))
		}
		number, err := p.ConversationNumber(ctx, conv.ID)
		if err != nil {
			return err
		}
		return p.printNumbers(conv, number, list)
	})
}

func (p *Person) printNumbers(conv *client.Conversation, number string, list []client.Member) error {
	if p.Options.JSON {
		members := []memberJSON{}
		for i := range list {
			if !list[i].Self {
				members = append(members, memberOf(&list[i]))
			}
		}
		return cli.PrintJSON(p.out, map[string]any{"id": conv.ID.String(), "epoch": conv.Epoch, "number": number, "members": members})
	}
	fmt.Fprintf(p.out, "%s, epoch %d: %s\n", Titled(conv), conv.Epoch, number)
	for _, m := range list {
		if m.Self {
			continue
		}
		half := len(m.SafetyNumber) / 2
		fmt.Fprintf(p.out, "\n%s\n  %s\n  %s\n", cli.DeviceName(m.Device), m.SafetyNumber[:half], strings.TrimSpace(m.SafetyNumber[half:]))
	}
	return nil
}

func newDevices() *cobra.Command {
	c := &cobra.Command{
		Use:   "devices",
		Short: "List your devices; invite, confirm or revoke one",
		Long: `devices lists the devices of yours that are enrolled.

--invite makes a link by which another device of yours enrols, and shows it as a QR code on a terminal. This
device then adds it to your conversations. Show the link to that device alone.

A device that enrolled otherwise, with a link from your operator or from another device of yours, waits: nobody
but you can say that it is yours. 'mlsfed devices' shows a number next to it, on both devices. If the numbers are
equal, and only then, --confirm on each of them lets it into your conversations. If you did not enrol that
device, or the numbers differ, --revoke it.

--revoke ends a device that is lost: it is cut off at once, and taken out of the conversations by the next
member who is online.`,
		Example: "  mlsfed devices\n  mlsfed devices --invite\n  mlsfed devices --confirm tablet\n  mlsfed devices --revoke phone",
		GroupID: cli.GroupPeople,
	}
	o := AddFlags(c)
	f := c.Flags()
	invite := f.Bool("invite", false, "make a link for another device of yours")
	life := f.Duration("for", 10*time.Minute, "how long the link works")
	revoke := f.String("revoke", "", "name of a device to revoke")
	confirm := f.String("confirm", "", "name of a device that waits, to be confirmed")
	number := f.String("number", "", "the number that the other device shows, instead of a question")
	c.MarkFlagsMutuallyExclusive("invite", "revoke", "confirm")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *life < time.Second || *life > 24*time.Hour {
			return cli.UsageError(fmt.Errorf("--for %v: wanted one second to one day", *life))
		}
		if c.Flags().Changed("revoke") && *revoke == "" { // an empty variable of a script, not a request for the list
			return cli.UsageError(errors.New("--revoke: the name of the device is empty"))
		}
		if c.Flags().Changed("confirm") && *confirm == "" {
			return cli.UsageError(errors.New("--confirm: the name of the device is empty"))
		}
		if *number != "" && *confirm == "" {
			return cli.UsageError(errors.New("--number: goes with --confirm NAME"))
		}
		return o.with(c, func(ctx context.Context, p *Person) error {
			switch {
			case *confirm != "":
				return p.confirmDevice(ctx, c.InOrStdin(), *confirm, *number)
			case *invite:
				return p.inviteDevice(ctx, c.InOrStdin(), *life)
			case *revoke != "":
				return p.revokeDevice(ctx, *revoke)
			}
			return p.listDevices(ctx)
		})
	}
	return c
}

func (p *Person) inviteDevice(ctx context.Context, in io.Reader, life time.Duration) error {
	link, err := p.profile.server()
	if err != nil {
		return err
	}
	code, ends, err := p.InviteDevice(ctx, uint32(life/time.Second))
	if err != nil {
		return err
	}
	link.Code = code
	if p.Options.JSON {
		return cli.PrintJSON(p.out, map[string]any{"link": link.String(), "ends": ends.Std().UTC()})
	}
	fmt.Fprintln(p.out, link)
	fmt.Fprintf(p.notes, "On the other device: mlsfed login 'LINK'. It works once, until %s.\nThis device adds it to your conversations the next time that it is online. Show the link to nobody else.\n", p.Local(ends.Std()).Format("2006-01-02 15:04 MST"))
	if cli.IsTerminal(p.out) {
		text, ok := link.Compact()
		if !ok {
			text = link.String()
		}
		return p.showQR(ctx, in, text)
	}
	return nil
}

// confirmDevice asks the user to compare the number of a waiting device, unless a number was given.
func (p *Person) confirmDevice(ctx context.Context, in io.Reader, name, number string) error {
	id, err := wire.NewDeviceID(p.DeviceID.User(), name)
	if err != nil {
		return cli.UsageError(fmt.Errorf("--confirm: %w", err))
	}
	list, err := p.OtherDevices(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list, func(o client.OtherDevice) bool { return o.Device == id })
	switch {
	case i < 0:
		return fmt.Errorf("%s is no other device of yours: 'mlsfed devices' lists them", name)
	case number == "":
		fmt.Fprintf(p.out, "%s\n", list[i].Number)
		fmt.Fprintf(p.notes, "'mlsfed devices' on %s shows a number next to %s. Is it this one? [y/N] ", name, p.DeviceID.Name())
		answer, err := bufio.NewReader(io.LimitReader(in, 16)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if answer := strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
			return fmt.Errorf("%s is not confirmed: if it is not yours, 'mlsfed devices --revoke %s'", name, name)
		}
		number = list[i].Number
	}
	if err := p.ConfirmDevice(ctx, id, number); err != nil {
		return err
	}
	p.settleAfter(ctx) // the device is added to conversations
	if p.Options.JSON {
		return cli.PrintJSON(p.out, map[string]any{"confirmed": cli.DeviceName(id)})
	}
	fmt.Fprintf(p.out, "%s is confirmed: this device adds it to your conversations.\n", cli.DeviceName(id))
	return nil
}

func (p *Person) revokeDevice(ctx context.Context, name string) error {
	id, err := wire.NewDeviceID(p.DeviceID.User(), name)
	if err != nil {
		return cli.UsageError(fmt.Errorf("--revoke: %w", err))
	}
	if id == p.DeviceID {
		return fmt.Errorf("%s is this device: revoke it from another one", name)
	}
	if err := p.Revoke(ctx, id); err != nil {
		return err
	}
	p.settleAfter(ctx) // the device is removed from conversations
	if p.Options.JSON {
		return cli.PrintJSON(p.out, map[string]any{"revoked": cli.DeviceName(id)})
	}
	fmt.Fprintf(p.out, "%s is revoked: it is cut off, and taken out of your conversations.\n", cli.DeviceName(id))
	return nil
}

// ownDeviceJSON is a device of this user as --json prints it.
type ownDeviceJSON struct {
	cli.DeviceJSON
	Self bool `json:"self"`
	// Number is the number to compare before the device is confirmed; empty for this device.
	Number string `json:"number,omitempty"`
	Waits  bool   `json:"waits,omitempty"`
}

func (p *Person) listDevices(ctx context.Context) error {
	list, err := p.Devices(ctx)
	if err != nil {
		return err
	}
	others, err := p.OtherDevices(ctx)
	if err != nil {
		return err
	}
	by := make(map[wire.DeviceID]client.OtherDevice)
	for _, other := range others {
		by[other.Device] = other
	}
	var t cli.Table
	t.Row("DEVICE", "ENROLLED", "CERTIFICATE ENDS", "NUMBER")
	for _, d := range list {
		enrolled, ends := d.Enrolled.Std(), d.CertificateEnds.Std()
		if p.Options.JSON {
			row := ownDeviceJSON{
				DeviceJSON: cli.DeviceJSON{Device: cli.DeviceName(d.ID), Enrolled: enrolled.UTC(), Ends: ends.UTC()},
				Self:       d.ID == p.DeviceID, Number: by[d.ID].Number, Waits: by[d.ID].Waits,
			}
			if err := cli.PrintJSON(p.out, row); err != nil {
				return err
			}
			continue
		}
		mark := ""
		if d.ID == p.DeviceID {
			mark = "this device"
		} else if other := by[d.ID]; other.Waits {
			mark = "waits for --confirm: " + other.Number
		} else {
			mark = other.Number
		}
		t.Row(d.ID.Name(), p.Local(enrolled).Format("2006-01-02 15:04"), p.Local(ends).Format(time.DateOnly), mark)
	}
	if p.Options.JSON {
		return nil
	}
	return t.Write(p.out)
}
