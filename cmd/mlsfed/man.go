package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
)

func newMan() *cobra.Command {
	return &cobra.Command{
		Use:     "man DIR",
		Short:   "Write the manual pages",
		Long:    "man writes a manual page for each command to a folder: mlsfed.1, mlsfed-send.1 and so on.",
		Example: "  mlsfed man ~/.local/share/man/man1",
		GroupID: cli.GroupDevelopers,
		Args:    cli.Exactly(1, "a folder"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("man: %w", err)
			}
			return writePages(c.Root(), args[0])
		},
	}
}

// writePages writes the pages of a command and of its subcommands.
func writePages(c *cobra.Command, dir string) error {
	file := filepath.Join(dir, pageName(c)+".1")
	if err := os.WriteFile(file, []byte(manPage(c)), 0o644); err != nil {
		return fmt.Errorf("man: %w", err)
	}
	for _, sub := range c.Commands() {
		if sub.Hidden || sub.Name() == "help" || sub.Deprecated != "" {
			continue
		}
		if err := writePages(sub, dir); err != nil {
			return err
		}
	}
	return nil
}

func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// manPage returns a command's manual in roff, made from its help.
func manPage(c *cobra.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %q 1 \"\" mlsfed mlsfed\n.SH NAME\n%s \\- %s\n", strings.ToUpper(pageName(c)), roff(pageName(c)), roff(c.Short))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n", roff(useLine(c)))
	long := c.Long
	if long == "" {
		long = c.Short + "."
	}
	b.WriteString(".SH DESCRIPTION\n" + paragraphs(long))
	if c.Example != "" {
		fmt.Fprintf(&b, ".SH EXAMPLES\n.nf\n%s\n.fi\n", roff(c.Example))
	}
	if flags := options(c.NonInheritedFlags()); flags != "" {
		b.WriteString(".SH OPTIONS\n" + flags)
	}
	if c.HasAvailableSubCommands() {
		b.WriteString(".SH COMMANDS\n")
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				fmt.Fprintf(&b, ".TP\n.B %s\n%s. See\n.BR %s (1).\n", roff(sub.Name()), roff(sub.Short), roff(pageName(sub)))
			}
		}
	}
	b.WriteString(".SH EXIT STATUS\n0 on success, 1 when the command failed, 2 when it was called wrongly.\n")
	if c.HasParent() {
		fmt.Fprintf(&b, ".SH SEE ALSO\n.BR %s (1)\n", roff(pageName(c.Parent())))
	}
	return b.String()
}

// useLine returns how a command is called.
func useLine(c *cobra.Command) string {
	if c.HasAvailableSubCommands() {
		return c.CommandPath() + " COMMAND"
	}
	return c.UseLine()
}

func options(flags *pflag.FlagSet) string {
	var b strings.Builder
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		kind, usage := pflag.UnquoteUsage(f)
		if d := f.DefValue; d != "" && d != "false" && d != "[]" && d != "0" {
			usage += " (default: " + d + ")"
		}
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(strings.TrimSpace(name+" "+kind)), roff(usage))
	})
	return b.String()
}

// paragraphs keeps blank lines and indented lines as they are.
func paragraphs(text string) string {
	var b strings.Builder
	for _, block := range strings.Split(text, "\n\n") {
		b.WriteString(".PP\n")
		if strings.HasPrefix(block, "  ") {
			b.WriteString(".nf\n" + roff(block) + "\n.fi\n")
		} else {
			b.WriteString(roff(block) + "\n")
		}
	}
	return b.String()
}

// roff returns text in which no character has a special meaning for roff.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
