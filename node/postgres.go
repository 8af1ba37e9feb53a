package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/store/postgres"
)

// onPostgres refuses a configuration whose storage is not postgres.
func onPostgres(cfg *config.Config) error {
	if cfg.Storage == config.StoragePostgres {
		return nil
	}
	return fmt.Errorf("storage is %q: the commands of 'mlsfed storage' are for storage: postgres", cfg.Storage)
}

// InitPostgres makes the tables in the PostgreSQL database of a configuration. It returns the version of the schema.
func InitPostgres(ctx context.Context, cfg *config.Config) (version int64, err error) {
	if err := onPostgres(cfg); err != nil {
		return 0, err
	}
	return postgres.Init(ctx, cfg.Postgres.URL)
}

// MigratePostgres brings the tables to the schema of this build, and returns the versions before and after.
func MigratePostgres(ctx context.Context, cfg *config.Config) (from, to int64, err error) {
	if err := onPostgres(cfg); err != nil {
		return 0, 0, err
	}
	return postgres.Migrate(ctx, cfg.Postgres.URL)
}

// CheckPostgres opens the database as the node does. It returns the version of the schema.
func CheckPostgres(ctx context.Context, cfg *config.Config) (version int64, err error) {
	if err := onPostgres(cfg); err != nil {
		return 0, err
	}
	return postgres.Check(ctx, PostgresOptions(cfg, nil))
}

// RebasePostgres makes a PostgreSQL database safe to use that was restored to an earlier time. No node runs on it.
func RebasePostgres(ctx context.Context, cfg *config.Config) (err error) {
	if err := onPostgres(cfg); err != nil {
		return err
	}
	kept, err := postgres.Open(ctx, PostgresOptions(cfg, nil))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, kept.Close()) }()
	if err := kept.Rebase(ctx, streamsMoveBy); err != nil {
		return err
	}
	return forgetRecords(ctx, kept.Records(), cfg.Identity)
}

// PostgresOptions returns how a node opens its PostgreSQL database. report gets errors that no caller gets.
func PostgresOptions(cfg *config.Config, report func(error)) postgres.Options {
	return postgres.Options{
		URL: cfg.Postgres.URL, Node: cfg.Node, Connections: cfg.Postgres.Connections,
		Quorum: cfg.Postgres.Durability == config.DurabilityQuorum, Report: report,
	}
}
