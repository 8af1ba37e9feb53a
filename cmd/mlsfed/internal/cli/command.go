// Package cli has what all commands of mlsfed share: how a command line is run and ends, arguments, output for people
// and for programs, names, and errors in plain words.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// ExitCode is the error of a command that another process has run, and whose errors that process has printed.
type ExitCode uint8

func (e ExitCode) Error() string { return fmt.Sprintf("exit code %d", uint8(e)) }

// The groups under which the help lists the subcommands, by whom they serve.
const (
	GroupPeople     = "people"
	GroupOperators  = "operators"
	GroupDevelopers = "developers"
)

// Run runs a command line with the commands that newRoot returns. It returns the exit code of the process.
func Run(ctx context.Context, newRoot func() *cobra.Command, args []string, stdout, stderr io.Writer) int {
	out, errs := &screen{to: stdout}, &screen{to: stderr}
	defer out.flush()
	defer errs.flush()
	root := newRoot()
	prepare(root)
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errs)
	line := &commandLine{args: args}
	running := context.WithValue(WithRoot(ctx, newRoot), commandLineKey{}, line)
	failed, err := root.ExecuteContextC(running)
	if err == nil {
		err = line.refused
	}
	if err == nil {
		return 0
	}
	var code ExitCode
	var again Restart
	switch {
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &again):
		return Run(again.RestartWith(ctx), newRoot, args, stdout, stderr)
	}
	fmt.Fprintf(errs, "mlsfed: %v\n", err)
	var usage usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(errs, "Run '%s --help' for how to call it.\n", failed.CommandPath())
		return 2
	}
	return 1
}

// Restart is the error of a command that run starts again, in the context that RestartWith returns.
type Restart interface {
	error
	RestartWith(ctx context.Context) context.Context
}

// Root returns a root command with commands below it.
func Root(commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: "mlsfed"}
	c.AddCommand(commands...)
	return c
}

// commandLine is what run knows of the running command, in the command's context.
type commandLine struct {
	args    []string
	refused error // set by refuse
}

type (
	commandLineKey struct{}
	rootKey        struct{}
)

// Arguments returns the whole command line of a command, without the name of the program.
func Arguments(ctx context.Context) []string {
	if line, ok := ctx.Value(commandLineKey{}).(*commandLine); ok {
		return line.args
	}
	return nil
}

// Refuse makes a command line fail although its command, such as help, returns no error.
func Refuse(ctx context.Context, err error) {
	if line, ok := ctx.Value(commandLineKey{}).(*commandLine); ok {
		line.refused = err
	}
}

// WithRoot returns a context whose commands can run other command lines with the commands that newRoot returns.
func WithRoot(ctx context.Context, newRoot func() *cobra.Command) context.Context {
	return context.WithValue(ctx, rootKey{}, newRoot)
}

// RootOf returns a new tree of all commands of the program that the context belongs to.
func RootOf(ctx context.Context) *cobra.Command {
	return ctx.Value(rootKey{}).(func() *cobra.Command)()
}

// UsageError marks an error as the caller's: the command ends with exit code 2.
func UsageError(err error) error { return usageError{err} }

type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// prepare applies the conventions of this package to the whole tree of commands: run prints all errors, errors in
// flags and arguments are marked as the caller's, and a command that only has subcommands refuses an unknown name.
func prepare(root *cobra.Command) {
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		var unknown *pflag.NotExistError
		if errors.As(err, &unknown) && strings.Contains(c.Use, " ") { // it takes arguments
			err = fmt.Errorf("%w: an argument that begins with a dash comes after --", err)
		}
		return UsageError(err)
	})
	addGroups(root)
	checkUsage(root)
}

// addGroups declares the groups that have a command, since cobra prints the title of an empty group too.
func addGroups(root *cobra.Command) {
	for _, group := range []cobra.Group{
		{ID: GroupPeople, Title: "Commands for people:"},
		{ID: GroupOperators, Title: "Commands for operators:"},
		{ID: GroupDevelopers, Title: "Commands for developers:"},
	} {
		for _, c := range root.Commands() {
			if c.GroupID == group.ID {
				root.AddGroup(&group)
				switch group.ID {
				case GroupPeople:
					root.SetHelpCommandGroupID(group.ID)
				case GroupDevelopers:
					root.SetCompletionCommandGroupID(group.ID)
				}
				break
			}
		}
	}
}

// checkUsage wraps the check of arguments of a command and of its subcommands. A command that states no Args takes
// none.
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
		// Cobra checks required flags and groups of flags only later, where its error can no longer be distinguished
		// from the command's own error.
		err := errors.Join(check(c, args), c.ValidateRequiredFlags(), exclusive(c.ValidateFlagGroups()))
		if err != nil {
			return UsageError(err)
		}
		return nil
	}
}

// exclusive replaces cobra's error for flags that exclude each other by a readable text.
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

// unknownCommand returns the Args error of a command that only has subcommands.
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
