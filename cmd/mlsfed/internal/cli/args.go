package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

// Exactly returns the Args of a command that takes n arguments.
func Exactly(n int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != n {
			return fmt.Errorf("%d argument(s), wanted %s", len(args), what)
		}
		return nil
	}
}

// AtLeast returns the Args of a command that takes a list at its end.
func AtLeast(n int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < n {
			return fmt.Errorf("%d argument(s), wanted %s", len(args), what)
		}
		return nil
	}
}

func Between(low, high int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < low || len(args) > high {
			return fmt.Errorf("%d argument(s), wanted %s", len(args), what)
		}
		return nil
	}
}
