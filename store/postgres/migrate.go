package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

// The migrations go forward only: a database is never brought back to an earlier schema.
//
//go:embed migrations/*.sql
var migrations embed.FS

// versionTable is the table in which the versions of the schema are recorded.
const versionTable = "schema_version"

// The errors of a database whose schema is not the one of this build.
var (
	ErrNoSchema  = errors.New("the database has no tables of mlsfed: run 'mlsfed storage init'")
	ErrOldSchema = errors.New("the schema of the database is older than this build: stop the nodes and run 'mlsfed storage migrate'")
	ErrNewSchema = errors.New("the schema of the database is newer than this build: upgrade the node")
)

// provider returns the migrations on a database. closed closes its connection.
func provider(dsn string) (p *goose.Provider, closed func() error, err error) {
	c, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, nil, errors.New("postgres.url cannot be read as a connection string of PostgreSQL, as postgres://user@host/database")
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, nil, err
	}
	db := stdlib.OpenDB(*c)
	p, err = goose.NewProvider(goose.DialectPostgres, db, files, goose.WithTableName(versionTable), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return p, db.Close, nil
}

// Init makes the tables in a database without tables of mlsfed. It returns the version of the schema.
func Init(ctx context.Context, dsn string) (int64, error) {
	have, err := Version(ctx, dsn)
	if err == nil && have > 0 {
		return have, fmt.Errorf("database %s: it has the tables of mlsfed, version %d, already: 'mlsfed storage migrate' brings them up to date", Redacted(dsn), have)
	}
	if err != nil && !errors.Is(err, ErrNoSchema) {
		return 0, err
	}
	return up(ctx, dsn)
}

// Migrate brings the tables of a database to the schema of this build, while no node runs on it. It returns the versions
// before and after.
func Migrate(ctx context.Context, dsn string) (from, to int64, err error) {
	if from, err = Version(ctx, dsn); err != nil {
		return 0, 0, err
	}
	if to, err = newest(); err != nil {
		return from, from, err
	}
	if from > to {
		return from, from, fmt.Errorf("version %d, this build knows %d: %w", from, to, ErrNewSchema)
	}
	to, err = up(ctx, dsn)
	return from, to, err
}

func up(ctx context.Context, dsn string) (int64, error) {
	p, closed, err := provider(dsn)
	if err != nil {
		return 0, err
	}
	_, err = p.Up(ctx)
	version, e := p.GetDBVersion(ctx)
	return version, errors.Join(err, e, closed())
}

// newest is the version of this build's schema.
func newest() (int64, error) {
	p, closed, err := provider("postgres:///")
	if err != nil {
		return 0, err
	}
	list := p.ListSources()
	return list[len(list)-1].Version, closed()
}

// Version returns the version of a database's schema, or ErrNoSchema.
func Version(ctx context.Context, dsn string) (int64, error) {
	pool, err := pgxpool.New(ctx, dsn)
	if err != nil {
		return 0, errors.New("postgres.url cannot be read as a connection string of PostgreSQL, as postgres://user@host/database")
	}
	defer pool.Close()
	v, err := version(ctx, pool)
	if err != nil {
		return 0, fmt.Errorf("database %s: %w", Redacted(dsn), err)
	}
	return v, nil
}

func version(ctx context.Context, pool *pgxpool.Pool) (v int64, err error) {
	err = pool.QueryRow(ctx, "SELECT coalesce(max(version_id), 0) FROM "+versionTable+" WHERE is_applied").Scan(&v)
	var e *pgconn.PgError
	if errors.As(err, &e) && e.Code == "42P01" || err == nil && v == 0 { // no such table
		return 0, ErrNoSchema
	}
	return v, err
}

// fits compares the version of a schema with this build's.
func fits(have int64) error {
	want, err := newest()
	switch {
	case err != nil:
		return err
	case have < want:
		return fmt.Errorf("version %d, this build needs %d: %w", have, want, ErrOldSchema)
	case have > want:
		return fmt.Errorf("version %d, this build knows %d: %w", have, want, ErrNewSchema)
	}
	return nil
}

// Check opens a database as a node does, and closes it again. It returns the version of the schema.
func Check(ctx context.Context, o Options) (int64, error) {
	d, err := Open(ctx, o)
	if err != nil {
		return 0, err
	}
	v, err := version(ctx, d.pool)
	return v, errors.Join(err, d.Close())
}

// Rebase moves every stream on by a number of places, in a database that comes from a backup and that no node runs on.
// Devices have seen items that the backup does not know: their places must not be given to others. Readers see a gap
// from their cursors on, and then what they had not acknowledged when the backup was made.
func (d *Database) Rebase(ctx context.Context, by uint64) error {
	return d.transact(ctx, d.pool, false, func(b *pgx.Batch) {
		b.Queue("UPDATE reader r SET until = r.until + $1 FROM stream s WHERE s.number = r.stream AND r.until > s.removed", by)
		b.Queue("UPDATE item SET seq = seq + $1", by)
		b.Queue("DELETE FROM kept")
		b.Queue("DELETE FROM sent") // the shares of a restored stream are counted from here on
		b.Queue("UPDATE stream SET last = last + $1, removed = removed + $1", by)
	})
}
