package people

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// migratedJSON is the output of migrate --json.
type migratedJSON struct {
	conversationJSON
	From string `json:"from"` // the id that the conversation had before
}

func newMigrate() *cobra.Command {
	var suite string
	c := newChange(&cobra.Command{
		Use:   "migrate CONV",
		Short: "Move a conversation to another cipher suite, as one that withstands quantum computers",
		Long: `migrate closes the MLS group of a conversation and lets it go on in another cipher suite, with the same
members, name, rules and history (RFC 9420 §11.2). By default that is a suite with ML-KEM and X25519.

Every device of the members must have been online once with a version of mlsfed that knows the suite; if one
has not, the command says which, and nothing is changed. Records of the conversation from before are no
safer than they were. The conversation gets another id; its name stays.`,
		Example: "  mlsfed migrate Lunch\n  mlsfed migrate Lunch --suite MLS_128_MLKEM768_AES256GCM_SHA384_Ed25519",
		Args:    cli.Exactly(1, "a conversation"),
	}, func(ctx context.Context, p *Person, id wire.ConversationID, _ []string) error {
		to, err := mlscore.ParseCipherSuite(suite)
		if err != nil {
			return cli.UsageError(fmt.Errorf("--suite: %w", err))
		}
		next, err := p.Migrate(ctx, id, client.MigrateOptions{Suite: to.Earlier()})
		if err != nil {
			return err
		}
		conv, err := p.Conversation(ctx, next)
		if err != nil {
			return err
		}
		if p.Options.JSON {
			return cli.PrintJSON(p.out, migratedJSON{describe(conv), id.String()})
		}
		fmt.Fprintf(p.out, "%s goes on in %v, as %s, with %d devices\n", Titled(conv), to, cli.ShortID(next), conv.Members)
		return nil
	})
	c.Flags().StringVar(&suite, "suite", mlscore.MLS128MLKEM768X25519AES128Ed25519.String(), "cipher suite to go to: a name or number of docs/spec/suites.md")
	return c
}
