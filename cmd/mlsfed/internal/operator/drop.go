package operator

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/node"
)

func newDrop() *cobra.Command {
	c := &cobra.Command{
		Use:   "drop CONVERSATION --number N",
		Short: "Delete a replica that gave way to another one and was kept aside",
		Long: `drop deletes what this node keeps of a conversation in addition to the replica that it serves: one that gave way to an
operator's recovery elsewhere, to a dismissal, or to another conversation of the same id. 'mlsfed status' lists them
under KEPT ASIDE, with their numbers and why they gave way. Nothing brings it back. CONVERSATION is the beginning of an
id, as 'mlsfed status' shows it.`,
		Example: "  mlsfed drop 5f2c9a10 --number 17",
		GroupID: cli.GroupOperators,
		Args:    cli.Exactly(1, "a conversation"),
	}
	number := c.Flags().Uint32("number", 0, "which of those that are kept, as 'mlsfed status' shows it")
	if err := c.MarkFlagRequired("number"); err != nil {
		panic(err) // the flag is declared above
	}
	return newOperator(c, func(ctx context.Context, o *operator, args []string) error {
		ctl := o.control()
		s, err := ctl.status(ctx)
		if err != nil {
			return err
		}
		kept, err := keptOf(s, args[0], *number)
		if err != nil {
			return err
		}
		if err := ctl.post(ctx, "/conversations/drop", map[string]any{"conversation": kept.Conversation, "number": kept.Number}); err != nil {
			return err
		}
		fmt.Fprintf(o.out, "The kept replica %s with number %d is deleted: %d entries, %d bytes.\n", kept.Conversation, kept.Number, kept.Entries, kept.Bytes)
		return nil
	})
}

// keptOf finds a kept replica by the beginning of its conversation's id and its number.
func keptOf(s *node.Status, prefix string, number uint32) (*node.Kept, error) {
	of := false
	for i := range s.Kept {
		k := &s.Kept[i]
		if prefix == "" || !strings.HasPrefix(k.Conversation, prefix) {
			continue
		}
		if of = true; k.Number == number {
			return k, nil
		}
	}
	if of {
		return nil, fmt.Errorf("%s keeps nothing of %s under number %d: 'mlsfed status' shows the numbers", s.Node, prefix, number)
	}
	return nil, fmt.Errorf("%s keeps nothing of a conversation whose id begins with %q: 'mlsfed status' lists what is kept", s.Node, prefix)
}
