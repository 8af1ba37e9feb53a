// Package postgres implements store.Store in a PostgreSQL database.
//
//	Write, Put, Change ──▶ group ──▶ one transaction for all requests that wait: lock, look up, decide, write, COMMIT
//	Acknowledge ─────────▶ acks  ──▶ the same for cursors, without waiting for the disk
//	Update ──────────────▶ records ▶ one transaction for each change, under the lock of its user
//
// # What holds
//
//   - Places in a stream come from the stream's row, which a transaction locks until its end. So they have no holes and
//     are in the order of the commits, also if two nodes write to one stream.
//   - A transaction is repeated as a whole after a conflict, and after a connection that was lost. A lost answer to COMMIT
//     is no failure: the repetition finds the ids.
//   - A duplicate is answered after the commit of the transaction that has found it. That transaction holds a row lock, so
//     that its commit waits for the disk, and for the standby if there is one.
//   - No request to cancel is ever sent for a transaction that writes: a cancelled wait for a standby is answered with
//     success, although no standby has the rows.
//
// The statements are plain SQL: no functions, triggers, notifications or advisory locks.
package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mlsfed/mlsfed/wire"
)

// Options are how a database is opened. A zero field takes its default.
type Options struct {
	URL  string      // a connection string of PostgreSQL
	Node wire.NodeID // whose clock is kept
	// Connections bounds the connections of this node; 16 by default, at least 4.
	Connections int
	// Quorum demands a server whose commits wait for a synchronous standby.
	Quorum bool
	// Patience is how long a caller waits for a database that does not answer; 10 seconds by default. A write continues
	// after that, and a repetition with the same ids gets its answer.
	Patience time.Duration
	// Report gets errors that no caller gets. May be nil.
	Report func(error)
}

// Defaults returns the numbers that are used where Options has none.
func Defaults() Options { return Options{Connections: 16, Patience: 10 * time.Second} }

// The connections that only the writers of groups use, so that no other work can hold all of them.
const ownConnections = 2

// leastConnections is the least number of connections that a node works with.
const leastConnections = 4

// lifetime is how long a connection is used. The settings of the server are verified for each new one.
const lifetime = 10 * time.Minute

func (o Options) withDefaults() (Options, error) {
	o.Connections = cmp.Or(o.Connections, Defaults().Connections)
	if o.Connections < leastConnections {
		return o, fmt.Errorf("%d connections to the database, at least %d", o.Connections, leastConnections)
	}
	o.Patience = cmp.Or(o.Patience, Defaults().Patience)
	if o.Report == nil {
		o.Report = func(error) {}
	}
	return o, nil
}

// Database is an open database. It has what a node reads before it knows how its mailbox is to work, as the state of
// its clock.
type Database struct {
	o      Options
	pool   *pgxpool.Pool // of all but the writers of groups
	own    *pgxpool.Pool // of the writers of groups
	lanes  *lanes
	group  *group
	joined *joined
}

// Open connects to a database whose schema is the one of this build, and verifies the settings of its server. It starts
// nothing.
func Open(ctx context.Context, o Options) (*Database, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	d := &Database{o: o}
	if d.pool, err = d.connect(ctx, o.Connections-ownConnections); err != nil {
		return nil, err
	}
	if d.own, err = d.connect(ctx, ownConnections); err != nil {
		d.pool.Close()
		return nil, err
	}
	if err := d.verify(ctx); err != nil {
		d.Close()
		return nil, fmt.Errorf("database %s: %w", Redacted(o.URL), err)
	}
	d.group = newGroup(d)
	d.lanes, d.joined = &lanes{d: d, opened: make(chan struct{})}, &joined{d}
	return d, nil
}

// Redacted returns a connection string without its password.
func Redacted(dsn string) string {
	if u, err := url.Parse(dsn); err == nil && u.Scheme != "" {
		return u.Redacted()
	}
	c, err := pgx.ParseConfig(dsn)
	if err != nil {
		return "of an unreadable connection string"
	}
	return fmt.Sprintf("%s on %s", c.Database, c.Host)
}

// settings of each session. All statements reach their rows by an index: plans that read whole tables are excluded,
// whatever the statistics say. A node that stops inside a transaction must not hold its locks for long.
var settings = map[string]string{
	"application_name":                    "mlsfed",
	"idle_in_transaction_session_timeout": "5s",
	"lock_timeout":                        "3s",
	"client_connection_check_interval":    "1s",
	"plan_cache_mode":                     "force_generic_plan",
	"enable_seqscan":                      "off",
	"enable_hashjoin":                     "off",
	"enable_mergejoin":                    "off",
}

// warning is the key of a connection's data under which the last warning of the server is.
const warning = "warning"

func (d *Database) connect(ctx context.Context, connections int) (*pgxpool.Pool, error) {
	c, err := pgxpool.ParseConfig(d.o.URL)
	if err != nil {
		return nil, errors.New("postgres.url cannot be read as a connection string of PostgreSQL, as postgres://user@host/database") // the cause may have the password
	}
	for k, v := range settings {
		c.ConnConfig.RuntimeParams[k] = v
	}
	c.ConnConfig.OnNotice = func(c *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "WARNING" {
			c.CustomData()[warning] = n.Message
		}
	}
	c.ConnConfig.ConnectTimeout = cmp.Or(c.ConnConfig.ConnectTimeout, 5*time.Second)
	c.MaxConns, c.MaxConnLifetime = int32(connections), lifetime
	c.AfterConnect = func(ctx context.Context, c *pgx.Conn) error { return durable(ctx, c, d.o.Quorum) }
	return pgxpool.NewWithConfig(ctx, c)
}

// ErrNotDurable is wrapped by the error of a server that may lose committed transactions.
var ErrNotDurable = errors.New("the server does not promise that a commit is durable")

// durable verifies that a server promises what a node promises its devices. The error names the setting.
func durable(ctx context.Context, c *pgx.Conn, quorum bool) error {
	var version int
	var fsync, full, commit, standbys string
	var standby bool
	err := c.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, current_setting('fsync'), current_setting('full_page_writes'),
		current_setting('synchronous_commit'), current_setting('synchronous_standby_names'), pg_is_in_recovery()`).
		Scan(&version, &fsync, &full, &commit, &standbys, &standby)
	switch {
	case err != nil:
		return err
	case version < 150000:
		return fmt.Errorf("PostgreSQL %d.%d, at least 15 is needed: upgrade the server", version/10000, version%10000)
	case standby:
		return errors.New("the server is a standby: postgres.url must name the primary")
	case fsync != "on":
		return fmt.Errorf("%w: fsync is %s, set it to on", ErrNotDurable, fsync)
	case full != "on":
		return fmt.Errorf("%w: full_page_writes is %s, set it to on", ErrNotDurable, full)
	case quorum && commit != "on" && commit != "remote_apply":
		return fmt.Errorf("%w: synchronous_commit is %s, set it to on for postgres.durability: quorum", ErrNotDurable, commit)
	case commit == "off":
		return fmt.Errorf("%w: synchronous_commit is off, set it to on", ErrNotDurable)
	case quorum && standbys == "":
		return fmt.Errorf("%w: synchronous_standby_names is empty, so that no standby has a commit: name the standbys, or set postgres.durability to local", ErrNotDurable)
	}
	return nil
}

// verify connects once and compares the schema with this build's.
func (d *Database) verify(ctx context.Context) error {
	if err := d.pool.Ping(ctx); err != nil {
		return err
	}
	have, err := version(ctx, d.pool)
	if err != nil {
		return err
	}
	return fits(have)
}

// Close closes the connections.
func (d *Database) Close() error {
	d.own.Close()
	d.pool.Close()
	return nil
}

// transient reports whether a transaction can succeed if it is repeated: after a conflict, a lost connection, or a
// server that restarts, has no room, or has become a standby.
func transient(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	var stage errStage
	if errors.As(err, &stage) {
		return false
	}
	if errors.Is(err, ErrNotDurable) {
		return true // what a failover has left may be set right
	}
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return !refusal(err) && !errors.Is(err, errData) && !errors.Is(err, ErrNoSchema) && !errors.Is(err, pgx.ErrNoRows)
	}
	switch e.Code[:2] {
	case "08", "40", "53", "57":
		return true // connection, conflict, resources, intervention of an operator
	}
	return e.Code == "55P03" || e.Code == "25P03" || e.Code == "25006" // lock_timeout; idle in a transaction; read only
}

// errData is wrapped by the error of a row that is not as it was written.
var errData = errors.New("stored record is damaged: restore the database from a backup")

// The pauses between repetitions.
const (
	firstPause = 10 * time.Millisecond
	maxPause   = time.Second
)

// pause waits before a repetition, and returns the next pause.
func pause(ctx context.Context, p time.Duration) time.Duration {
	select {
	case <-ctx.Done():
	case <-time.After(p):
	}
	return min(2*p, maxPause)
}

// retry repeats what can be repeated, for as long as a caller waits.
func (d *Database) retry(ctx context.Context, do func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, d.o.Patience)
	defer cancel()
	for p := firstPause; ; {
		err := do(ctx)
		if ctx.Err() != nil && err != nil {
			return ctx.Err() // a connection that the end of the context has closed
		}
		if !transient(err) {
			return err
		}
		if p = pause(limit, p); limit.Err() != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			d.o.Report(err)
			return unavailable()
		}
	}
}

func unavailable() error {
	return wire.Errorf(wire.Unavailable, "store", "the database does not answer: repeat the request with the same id")
}

func stopped() error {
	return wire.Errorf(wire.Unavailable, "write", "the node is stopping: repeat the request with the same id")
}

// query runs one query and calls row for each row. It is not repeated after the first row, and an error of row is
// returned as it is.
func (d *Database) query(ctx context.Context, q string, args []any, row func(pgx.Rows) error) error {
	var failed error
	err := d.retry(ctx, func(ctx context.Context) error {
		rows, err := d.pool.Query(ctx, q, args...)
		begun := false
		err = each(rows, err, func(rows pgx.Rows) error {
			begun = true
			failed = row(rows)
			return failed
		})
		switch {
		case failed != nil:
			return nil
		case begun && transient(err):
			d.o.Report(err)
			return unavailable()
		}
		return err
	})
	return cmp.Or(failed, err)
}

func each(rows pgx.Rows, err error, row func(pgx.Rows) error) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// lazy makes a change that does not wait for the disk.
func (d *Database) lazy(ctx context.Context, fill func(*pgx.Batch)) error {
	return d.retry(ctx, func(ctx context.Context) error {
		return d.transact(ctx, d.pool, true, fill)
	})
}

// eager makes a change that waits for the disk.
func (d *Database) eager(ctx context.Context, fill func(*pgx.Batch)) error {
	return d.retry(ctx, func(ctx context.Context) error { return d.transact(ctx, d.pool, false, fill) })
}

// transact runs statements as one transaction, in one round trip. The end of ctx does not interrupt it.
func (d *Database) transact(ctx context.Context, pool *pgxpool.Pool, lazy bool, fill func(*pgx.Batch)) error {
	c, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer c.Release()
	b := begin(lazy)
	fill(b)
	return commit(c.Conn(), b)
}

func begin(lazy bool) *pgx.Batch {
	b := &pgx.Batch{}
	b.Queue("BEGIN")
	if lazy {
		b.Queue("SET LOCAL synchronous_commit = off")
	}
	return b
}

// send sends statements of a transaction, and ends the transaction after an error.
func send(c *pgx.Conn, b *pgx.Batch) error {
	err := c.SendBatch(context.Background(), b).Close() // no context: pgx sends a request to cancel when one ends
	if err != nil {
		rollback(c)
	}
	return err
}

func rollback(c *pgx.Conn) {
	if c.IsClosed() {
		return
	}
	if _, err := c.Exec(context.Background(), "ROLLBACK"); err != nil {
		_ = c.Close(context.Background())
	}
}

// errUnknown is the outcome of a COMMIT that was answered with a warning: the wait for a standby was cancelled, so that
// the commit is there, and may not be on the standby.
var errUnknown = errors.New("the commit did not wait for a standby")

// commit sends the last statements of a transaction, with COMMIT.
func commit(c *pgx.Conn, b *pgx.Batch) error {
	data := c.PgConn().CustomData()
	delete(data, warning)
	b.Queue("COMMIT")
	if err := send(c, b); err != nil {
		return err
	}
	if w, ok := data[warning]; ok {
		_ = c.Close(context.Background())
		return fmt.Errorf("%w: %v", errUnknown, w)
	}
	return nil
}
