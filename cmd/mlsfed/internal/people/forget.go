package people

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/mlscore/boltstore"
	"github.com/mlsfed/mlsfed/wire"
)

func newForget() *cobra.Command {
	c := &cobra.Command{
		Use:   "forget CONV",
		Short: "Delete what this device holds of a conversation that it has left",
		Long: `forget deletes the messages and keys of a conversation from this device. It must have left it first. Other
devices, also your own, keep what they have.

--older-than deletes old messages of a conversation alone, also of one that this device is in.`,
		Example: "  mlsfed forget Lunch\n  mlsfed forget Lunch --older-than 2160h\n  mlsfed forget Lunch --older-than 2026-03-01",
		GroupID: cli.GroupPeople,
		Args:    cli.Exactly(1, "a conversation"),
	}
	o := AddFlags(c)
	addOfflineFlag(c, o)
	older := c.Flags().String("older-than", "", "delete only messages from before then: 2160h ago, 2026-03-01 or 2026-03-01T09:00:00Z")
	c.RunE = func(c *cobra.Command, args []string) error {
		before, err := parseMoment("older-than", *older, zonedNow(c.Context()))
		if err != nil {
			return cli.UsageError(err)
		}
		return o.with(c, func(ctx context.Context, p *Person) error {
			conv, err := p.conversation(ctx, args[0])
			if err != nil {
				return err
			}
			if !before.IsZero() {
				return p.forgetOld(ctx, conv, before)
			}
			if err := p.Forget(ctx, conv.ID); err != nil {
				if wire.CodeOf(err) == wire.Invalid {
					return cli.PlainError(err, fmt.Sprintf("this device is in %s: 'mlsfed leave' first", Titled(conv)))
				}
				return err
			}
			if p.Options.JSON {
				return cli.PrintJSON(p.out, map[string]any{"forgotten": conv.ID.String()})
			}
			fmt.Fprintf(p.out, "%s is deleted from this device.\n", Titled(conv))
			return nil
		})
	}
	return c
}

// forgetOld deletes the messages of a conversation from before a time.
func (p *Person) forgetOld(ctx context.Context, conv *client.Conversation, before time.Time) error {
	n, err := p.DeleteMessages(ctx, conv.ID, before)
	if err != nil {
		return err
	}
	if p.Options.JSON {
		return cli.PrintJSON(p.out, map[string]any{"conversation": conv.ID.String(), "deleted": n})
	}
	fmt.Fprintf(p.out, "%s of %s deleted from this device.\n", cli.Plural(n, "message", "messages"), Titled(conv))
	return nil
}

func newLogout() *cobra.Command {
	c := &cobra.Command{
		Use:   "logout",
		Short: "End this device: revoke it and delete its folder",
		Long: `logout revokes this device, which members take out of their conversations, and deletes its folder with all
messages and keys. Nothing brings them back. With --offline it deletes the folder alone: for a device that was
revoked already, or whose node is gone.`,
		Example: "  mlsfed logout --yes\n  mlsfed logout --yes --profile alice@a.example/phone",
		GroupID: cli.GroupPeople,
	}
	o := AddFlags(c)
	addOfflineFlag(c, o)
	c.Flags().Lookup("offline").Usage = "delete the folder without revoking the device"
	yes := c.Flags().Bool("yes", false, "do it: all messages and keys of this device are deleted")
	c.RunE = func(c *cobra.Command, _ []string) error {
		prof, err := findProfile(o.profile)
		if err != nil {
			return err
		}
		if !*yes {
			return cli.UsageError(fmt.Errorf("logout ends %s and deletes %s with its messages: say --yes", cli.DeviceName(prof.Device), prof.dir))
		}
		revoked := !o.offline
		if !o.offline {
			ended := false
			o.alone = true
			err := o.Use(c, commandTiming(), func(ctx context.Context, p *Person) (err error) {
				ended, err = p.revokeSelf(ctx)
				return err
			})
			if !ended {
				return fmt.Errorf("%w; nothing is deleted: --offline deletes without revoking", err)
			}
		}
		if err := errors.Join(prof.forgetKey(), prof.deleteFiles()); err != nil {
			return err
		}
		if o.JSON {
			return cli.PrintJSON(c.OutOrStdout(), map[string]any{"device": cli.DeviceName(prof.Device), "revoked": revoked, "deleted": prof.dir})
		}
		fmt.Fprintf(c.OutOrStdout(), "%s is ended, and %s deleted.\n", cli.DeviceName(prof.Device), prof.dir)
		return nil
	}
	return c
}

// deleteFiles deletes the files of a profile, and its folders if nothing else is in them.
func (p *profile) deleteFiles() error {
	folders := []string{p.dir}
	if usual, err := profileDir(p.Device); err == nil && usual == p.dir {
		folders = append(folders, filepath.Dir(p.dir)) // the folder of the user, whose last device this may be
	}
	return p.deleteFilesAnd(folders)
}

// undo deletes what a failed login has created. Earlier files stay.
func (p *profile) undo() error { return errors.Join(p.forgetKey(), p.deleteFilesAnd(p.made)) }

// missingFolders returns the folders of a path that do not exist, the deepest first.
func missingFolders(path string) (list []string) {
	for {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) || path == filepath.Dir(path) {
			return list
		}
		list, path = append(list, path), filepath.Dir(path)
	}
}

// deleteFilesAnd deletes the files of a profile, and the folders, given with the deepest first, that are empty then.
func (p *profile) deleteFilesAnd(folders []string) error {
	var failed error
	for _, name := range []string{storeFile, storeKey, agentSocket, profileFile + ".new", profileFile} {
		if err := os.Remove(filepath.Join(p.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = errors.Join(failed, err)
		}
	}
	for _, folder := range folders {
		if left, err := os.ReadDir(folder); err != nil || len(left) > 0 || failed != nil {
			break
		}
		failed = os.Remove(folder)
	}
	return failed
}

// wipe deletes the profile of a device that the organization no longer accepts, if the user chose that at login. why
// is the error so far. A device that was away when its certificate expired keeps its data: the organization may have
// refused it only because of its absence.
func (p *Person) wipe(why error, store *boltstore.Store) error {
	ends, err := p.certificateEnds()
	if !p.profile.Wipe || err != nil || !time.Now().Before(ends) {
		return why
	}
	// The file is deleted while it is locked: no other process opens it in between.
	if err := errors.Join(p.profile.deleteFiles(), p.profile.forgetKey(), store.Close()); err != nil {
		return errors.Join(why, fmt.Errorf("delete what is kept here: %w", err))
	}
	return cli.PlainError(why, fmt.Sprintf("%s does not accept %s any more. Its keys and messages on this machine were deleted, as --wipe-when-revoked asked for", p.DeviceID.Organization(), cli.DeviceName(p.DeviceID)))
}

// revokeSelf revokes the device. The node ends its session then, perhaps before it answers.
func (p *Person) revokeSelf(ctx context.Context) (ended bool, err error) {
	if err := p.connected(ctx); err != nil {
		return false, err
	}
	asking, cancel := context.WithTimeout(ctx, p.Options.Timeout)
	defer cancel()
	err = p.Revoke(asking, p.DeviceID)
	_, why := p.link.get()
	if err == nil || why != nil && refused(why) || ctx.Err() != nil && !errors.Is(context.Cause(ctx), context.Canceled) {
		return true, nil // the end of the device ends ctx, with its own cause
	}
	return false, p.Explain(ctx, err)
}

func newDM() *cobra.Command {
	c := &cobra.Command{
		Use:   "dm USER",
		Short: "Make a conversation with one user, or name the one that there is",
		Long: `dm makes a conversation with one user. It has no name that others see; on this device your own name for it is
the user's, by which all commands find it. Called again, it says which one that is.`,
		Example: "  mlsfed dm bob@b.example\n  mlsfed send bob@b.example 'Soup?'",
		GroupID: cli.GroupPeople,
		Args:    cli.Exactly(1, "a user"),
	}
	o := AddFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return o.with(c, func(ctx context.Context, p *Person) error {
			users, err := p.Users(args)
			if err != nil {
				return err
			}
			return p.dm(ctx, users[0])
		})
	}
	return c
}

func (p *Person) dm(ctx context.Context, user wire.UserID) error {
	id, err := p.DMWith(ctx, user)
	if err != nil {
		return err
	}
	all, err := p.Conversations(ctx)
	if err != nil {
		return err
	}
	return p.report(ctx, id, "%s: %s.", cli.PersonName(user), distinctID(all, id))
}

// DMWith finds or creates the conversation with a user.
func (p *Person) DMWith(ctx context.Context, user wire.UserID) (wire.ConversationID, error) {
	if user == p.DeviceID.User() {
		return "", cli.UsageError(fmt.Errorf("%s: that is you", cli.PersonName(user)))
	}
	name := cli.PersonName(user)
	all, err := p.Conversations(ctx)
	if err != nil {
		return "", err
	}
	for i := range all {
		if all[i].OwnName == name {
			return all[i].ID, p.holdsUser(ctx, &all[i], user)
		}
	}
	// The user may have made it, or a call before this one was interrupted.
	if c, err := direct(all, user); err != nil {
		return "", err
	} else if c != nil {
		return c.ID, p.SetOwnName(ctx, c.ID, name)
	}
	id, err := p.Create(ctx, client.CreateOptions{Admins: []wire.UserID{user}})
	if err != nil {
		return "", err
	}
	if err := p.AddFirst(ctx, id, name, []wire.UserID{user}, false, "call this again when that has changed"); err != nil {
		return "", err
	}
	if err := p.SetOwnName(ctx, id, name); err != nil {
		return "", err
	}
	p.settleAfter(ctx)
	return id, nil
}

// holdsUser refuses a conversation that this device calls by a user's name, and in which that user is not.
func (p *Person) holdsUser(ctx context.Context, c *client.Conversation, user wire.UserID) error {
	if c.State != client.StateActive && c.State != client.StateLeft {
		return nil // who is in it is not known now
	}
	members, err := p.Members(ctx, c.ID)
	if err != nil || slices.ContainsFunc(members, func(m client.Member) bool { return m.User == user }) {
		return err
	}
	return fmt.Errorf("%s is your name for %v, and that user is not in it any more: 'mlsfed alias %v --remove' makes the name free", cli.PersonName(user), c.ID, c.ID)
}
