package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/client"
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
		GroupID: groupPeople,
		Args:    exactly(1, "a conversation"),
	}
	o := addPeopleFlags(c)
	addOfflineFlag(c, o)
	older := c.Flags().String("older-than", "", "delete only messages from before then: 2160h ago, 2026-03-01 or 2026-03-01T09:00:00Z")
	c.RunE = func(c *cobra.Command, args []string) error {
		before, err := parseMoment("older-than", *older, time.Now())
		if err != nil {
			return usageError{err}
		}
		return o.with(c, func(ctx context.Context, p *person) error {
			conv, err := p.conversation(ctx, args[0])
			if err != nil {
				return err
			}
			if !before.IsZero() {
				return p.forgetOld(ctx, conv, before)
			}
			if err := p.Forget(ctx, conv.ID); err != nil {
				if wire.CodeOf(err) == wire.Invalid {
					return plainError{err, fmt.Sprintf("this device is in %s: 'mlsfed leave' first", titled(conv))}
				}
				return err
			}
			if p.opts.json {
				return printJSON(p.out, map[string]any{"forgotten": conv.ID.String()})
			}
			fmt.Fprintf(p.out, "%s is deleted from this device.\n", titled(conv))
			return nil
		})
	}
	return c
}

// forgetOld deletes the messages of a conversation from before a time.
func (p *person) forgetOld(ctx context.Context, conv *client.Conversation, before time.Time) error {
	n, err := p.DeleteMessages(ctx, conv.ID, before)
	if err != nil {
		return err
	}
	if p.opts.json {
		return printJSON(p.out, map[string]any{"conversation": conv.ID.String(), "deleted": n})
	}
	fmt.Fprintf(p.out, "%s of %s deleted from this device.\n", plural(n, "message", "messages"), titled(conv))
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
		GroupID: groupPeople,
	}
	o := addPeopleFlags(c)
	addOfflineFlag(c, o)
	c.Flags().Lookup("offline").Usage = "delete the folder without revoking the device"
	yes := c.Flags().Bool("yes", false, "do it: all messages and keys of this device are deleted")
	c.RunE = func(c *cobra.Command, _ []string) error {
		prof, err := findProfile(o.profile)
		if err != nil {
			return err
		}
		if !*yes {
			return usageError{fmt.Errorf("this ends %s and deletes %s with its messages: say --yes", deviceName(prof.Device), prof.dir)}
		}
		revoked := !o.offline
		if !o.offline {
			ended := false
			o.alone = true
			err := o.use(c, commandTiming(), func(ctx context.Context, p *person) (err error) {
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
		if o.json {
			return printJSON(c.OutOrStdout(), map[string]any{"device": deviceName(prof.Device), "revoked": revoked, "deleted": prof.dir})
		}
		fmt.Fprintf(c.OutOrStdout(), "%s is ended, and %s deleted.\n", deviceName(prof.Device), prof.dir)
		return nil
	}
	return c
}

// deleteFiles deletes what a profile consists of, and its folder if nothing else is in it.
func (p *profile) deleteFiles() error {
	var failed error
	for _, name := range []string{"device.db", "store.key", agentSocket, profileFile + ".new", profileFile} {
		if err := os.Remove(filepath.Join(p.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = errors.Join(failed, err)
		}
	}
	if left, err := os.ReadDir(p.dir); err == nil && len(left) == 0 && failed == nil {
		failed = os.Remove(p.dir)
	}
	return failed
}

// wipe deletes the profile of a device that the organization does not accept any more, if the user wanted that at login.
// why is the error so far. A device whose certificate has ended, since it was away for long, keeps what it has.
func (p *person) wipe(why error, store *boltstore.Store) error {
	ends, err := p.CertificateEnds(context.Background())
	if !p.profile.Wipe || err != nil || !time.Now().Before(ends) {
		return why
	}
	// The file is deleted while it is locked: no other process opens it in between.
	if err := errors.Join(p.profile.deleteFiles(), p.profile.forgetKey(), store.Close()); err != nil {
		return errors.Join(why, fmt.Errorf("delete what is kept here: %w", err))
	}
	return plainError{why, fmt.Sprintf("%s does not accept %s any more. Its keys and messages on this machine were deleted, as --wipe-when-revoked asked for", p.id.Organization(), deviceName(p.id))}
}

// revokeSelf revokes the device. The node ends its session then, perhaps before it answers.
func (p *person) revokeSelf(ctx context.Context) (ended bool, err error) {
	if err := p.connected(ctx); err != nil {
		return false, err
	}
	asking, cancel := context.WithTimeout(ctx, p.opts.timeout)
	defer cancel()
	err = p.Revoke(asking, p.id)
	_, why := p.link.get()
	if err == nil || why != nil && refused(why) || ctx.Err() != nil && !errors.Is(context.Cause(ctx), context.Canceled) {
		return true, nil // what ends the device ends ctx, with its own cause
	}
	return false, p.late(ctx, err)
}

func newDM() *cobra.Command {
	c := &cobra.Command{
		Use:   "dm USER",
		Short: "Make a conversation with one user, or name the one that there is",
		Long: `dm makes a conversation with one user. It has no name that others see; on this device your own name for it is
the user's, by which all commands find it. Called again, it says which one that is.`,
		Example: "  mlsfed dm bob@b.example\n  mlsfed send bob@b.example 'Soup?'",
		GroupID: groupPeople,
		Args:    exactly(1, "a user"),
	}
	o := addPeopleFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return o.with(c, func(ctx context.Context, p *person) error {
			users, err := p.users(args)
			if err != nil {
				return err
			}
			return p.dm(ctx, users[0])
		})
	}
	return c
}

func (p *person) dm(ctx context.Context, user wire.UserID) error {
	id, err := p.dmWith(ctx, user)
	if err != nil {
		return err
	}
	all, err := p.Conversations(ctx)
	if err != nil {
		return err
	}
	return p.tell(ctx, id, "%s: %s.", personName(user), distinctID(all, id))
}

// dmWith finds or makes the conversation with a user.
func (p *person) dmWith(ctx context.Context, user wire.UserID) (wire.ConversationID, error) {
	if user == p.id.User() {
		return "", usageError{fmt.Errorf("%s: that is you", personName(user))}
	}
	name := personName(user)
	all, err := p.Conversations(ctx)
	if err != nil {
		return "", err
	}
	for i := range all {
		if all[i].OwnName == name {
			return all[i].ID, nil
		}
	}
	id, err := p.Create(ctx, client.CreateOptions{Admins: []wire.UserID{user}})
	if err != nil {
		return "", err
	}
	if err := p.addFirst(ctx, id, name, []wire.UserID{user}, false, "call this again when that has changed"); err != nil {
		return "", err
	}
	if err := p.SetOwnName(ctx, id, name); err != nil {
		return "", err
	}
	p.settleAfter(ctx)
	return id, nil
}
