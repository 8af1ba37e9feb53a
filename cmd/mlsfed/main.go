// Command mlsfed is the one binary of the project: a file here for each
// subcommand, and this one for what they share.
//
// It exits with 0 on success, 1 when a command failed, and 2 when it was
// called wrongly. An error is printed once, to standard error.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/noquery"
)

// The terminal was not asked for its colours while packages were initialized: see noquery.
var _ = noquery.Restore()

// The groups under which the help lists the subcommands, by whom they serve.
const (
	groupPeople     = "people"
	groupOperators  = "operators"
	groupDevelopers = "developers"
)

func main() {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup ignores it
		signals = append(signals, syscall.SIGHUP) // the terminal has gone
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	context.AfterFunc(ctx, stop) // a second signal ends a command that does not heed the first
	os.Exit(run(ctx, newRoot(), os.Args[1:], os.Stdout, os.Stderr))
}

// newRoot returns the command with all subcommands.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "mlsfed",
		Short: "A federated delivery network for end-to-end encrypted groups",
		Long: `mlsfed is a federated delivery network for end-to-end encrypted groups (MLS, RFC 9420).
Each organization runs its own nodes; each conversation is ordered by the nodes of the
organizations that take part in it.`,
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		root.Version = strings.TrimPrefix(describeBuild(info), "mlsfed ")
		root.SetVersionTemplate("mlsfed {{.Version}}\n")
	}
	root.AddCommand(newInit(), newAddNode(), newServe(), newUser(), newPeer(), newCert(), newConfig(), newDoctor(), newAudit(), newStatus(), newHealth(), newBackup(), newRestore(), newRecover(), newRelease(), newDrop(), newVersion(), newDemo(), newVectors(), newBench())
	root.AddCommand(newLogin(), newList(), newCreate(), newDM(), newAlias(), newForget(), newLogout(), newAdd(), newRemove(), newLeave(), newSend(), newRead(), newSave(), newMembers(), newDevices(), newVerify(), newRename(), newRules(), newMigrate(), newRejoin(), newTrust(), newChat(), newAgent(), newMan())
	return root
}

// run executes the command and returns the exit code of the process.
func run(ctx context.Context, root *cobra.Command, args []string, stdout, stderr io.Writer) int {
	below, belowErrors := stdout, stderr
	clean, cleanErrors := &screen{to: stdout}, &screen{to: stderr}
	defer clean.flush()
	defer cleanErrors.flush()
	stdout, stderr = clean, cleanErrors
	prepare(root)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	var refused error
	ctx = context.WithValue(ctx, refusalKey{}, &refused)
	failed, err := root.ExecuteContextC(context.WithValue(ctx, argumentsKey{}, args))
	if err == nil {
		err = refused
	}
	if err == nil {
		return 0
	}
	var code exitCode
	var moved takeOver
	switch {
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &moved):
		return run(context.WithValue(ctx, positionKey{}, moved.from), newRoot(), args, below, belowErrors)
	}
	fmt.Fprintf(stderr, "mlsfed: %v\n", err)
	var usage usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(stderr, "Run '%s --help' for how to call it.\n", failed.CommandPath())
		return 2
	}
	return 1
}

// refusalKey is the key of an error, in the context of a command, by which its help refuses to be shown.
type refusalKey struct{}

// usageError marks an error of the caller: exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// prepare gives the whole tree of commands the conventions of this package:
// errors are left to run, those in flags and arguments are marked as the
// caller's, and a command that only holds others refuses an unknown name.
func prepare(root *cobra.Command) {
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		var unknown *pflag.NotExistError
		if errors.As(err, &unknown) && strings.Contains(c.Use, " ") { // it takes arguments
			err = fmt.Errorf("%w: an argument that begins with a dash comes after --", err)
		}
		return usageError{err}
	})
	addGroups(root)
	checkUsage(root)
}

// addGroups declares the groups that have a command; cobra prints the title of
// an empty one too.
func addGroups(root *cobra.Command) {
	root.SetHelpCommandGroupID(groupPeople)
	for _, group := range []cobra.Group{
		{ID: groupPeople, Title: "Commands for people:"},
		{ID: groupOperators, Title: "Commands for operators:"},
		{ID: groupDevelopers, Title: "Commands for developers:"},
	} {
		for _, c := range root.Commands() {
			if c.GroupID == group.ID {
				root.AddGroup(&group)
				if group.ID == groupDevelopers {
					root.SetCompletionCommandGroupID(group.ID)
				}
				break
			}
		}
	}
}

// checkUsage wraps the check of arguments of a command and of those below it.
// A command that states no Args takes none.
func checkUsage(c *cobra.Command) {
	for _, sub := range c.Commands() {
		checkUsage(sub)
	}
	check := c.Args
	if check == nil {
		check = cobra.NoArgs
	}
	if c.HasSubCommands() && !c.Runnable() {
		check = unknownCommand
		c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	}
	c.Args = func(c *cobra.Command, args []string) error {
		// Cobra checks required flags and groups of flags only later, where
		// its error can no longer be told from the command's own.
		err := errors.Join(check(c, args), c.ValidateRequiredFlags(), exclusive(c.ValidateFlagGroups()))
		if err != nil {
			return usageError{err}
		}
		return nil
	}
}

// exclusive puts cobra's error for flags that exclude each other into words.
func exclusive(err error) error {
	if err == nil {
		return nil
	}
	m := regexp.MustCompile(`^if any flags in the group .* none of the others can be; \[([^\]]+)\] were all set$`).FindStringSubmatch(err.Error())
	if m == nil {
		return err
	}
	return fmt.Errorf("--%s exclude each other: use one of them", strings.Join(strings.Fields(m[1]), " and --"))
}

// unknownCommand is the Args of a command that only holds others.
func unknownCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if c.SuggestionsMinimumDistance <= 0 {
		c.SuggestionsMinimumDistance = 2
	}
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		return fmt.Errorf("unknown command %q: did you mean %s?", args[0], strings.Join(near, " or "))
	}
	return fmt.Errorf("unknown command %q", args[0])
}
