package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// migratedJSON is what migrate --json prints.
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
members, name, rules and history (RFC 9420 §11.2). By default that is a suite with ML-KEM beside X25519.

Every device of the members must have been online once with a version of mlsfed that knows the suite; if one
has not, the command says which, and nothing is changed. What was recorded of the conversation before is no
safer than it was. The conversation gets another id; its name stays.`,
		Example: "  mlsfed migrate Lunch\n  mlsfed migrate Lunch --suite MLS_128_MLKEM768_AES256GCM_SHA384_Ed25519",
		Args:    exactly(1, "a conversation"),
	}, func(ctx context.Context, p *person, id wire.ConversationID, _ []string) error {
		to, err := mlscore.ParseCipherSuite(suite)
		if err != nil {
			return usageError{fmt.Errorf("--suite: %w", err)}
		}
		next, err := p.Migrate(ctx, id, client.MigrateOptions{Suite: to.Earlier()})
		if err != nil {
			return err
		}
		conv, err := p.Conversation(ctx, next)
		if err != nil {
			return err
		}
		if p.opts.json {
			return printJSON(p.out, migratedJSON{describe(conv), id.String()})
		}
		fmt.Fprintf(p.out, "%s goes on in %v, as %s, with %d devices\n", titled(conv), to, shortID(next), conv.Members)
		return nil
	})
	c.Flags().StringVar(&suite, "suite", mlscore.MLS128MLKEM768X25519AES128Ed25519.String(), "cipher suite to go to: a name or number of docs/suites.md")
	return c
}
