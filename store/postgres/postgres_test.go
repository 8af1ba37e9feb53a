package postgres

import (
	"context"
	"errors"
	"flag"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/directory/directorytest"
	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/federation/outbox/lanestest"
	"github.com/mlsfed/mlsfed/federation/outbox/lanestore"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/mailbox/mailboxtest"
	"github.com/mlsfed/mlsfed/store/postgres/pgtest"
)

// patience is longer than any restart of a server in a test.
const patience = 2 * time.Minute

var made struct {
	sync.Mutex
	on map[*pgtest.Server]bool // servers with a template
}

// database makes a database with the schema of this build on a server, and returns its name.
func database(t testing.TB, s *pgtest.Server) string {
	t.Helper()
	made.Lock()
	defer made.Unlock()
	if !made.on[s] {
		if err := s.Exec("postgres", "CREATE DATABASE template_mlsfed"); err != nil {
			t.Fatal(err)
		}
		if _, err := Init(t.Context(), s.URL("template_mlsfed")); err != nil {
			t.Fatal(err)
		}
		if made.on == nil {
			made.on = make(map[*pgtest.Server]bool)
		}
		made.on[s] = true
	}
	_, name := s.Database(t, "template_mlsfed")
	return name
}

func open(t testing.TB, s *pgtest.Server, name string) *Database {
	t.Helper()
	d, err := Open(context.Background(), Options{
		URL: s.URL(name), Node: "n1.a.example", Patience: patience, Connections: 6,
		Report: func(err error) { t.Log(err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// start runs a store until stop is called, or the test ends. The database stays open.
func start(t testing.TB, s *Store) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// place implements mailboxtest.Place in a database.
type place struct {
	t    testing.TB
	on   *pgtest.Server
	name string
	open *Database
	stop func()
}

func newPlace(t testing.TB) *place {
	s := pgtest.Need(t)
	p := &place{t: t, on: s, name: database(t, s)}
	t.Cleanup(p.Close)
	return p
}

// Open implements mailboxtest.Place.
func (p *place) Open(t testing.TB, cfg mailbox.Config) (mailbox.Box, func()) {
	p.Close()
	p.open = open(t, p.on, p.name)
	s := p.open.Store(cfg)
	p.stop = start(t, s)
	return s.Mailbox(), p.stop
}

// Close implements mailboxtest.Place.
func (p *place) Close() {
	if p.open == nil {
		return
	}
	p.stop()
	if err := p.open.Close(); err != nil {
		p.t.Error(err)
	}
	p.open = nil
}

// Crash implements mailboxtest.Place.
func (p *place) Crash(t testing.TB) mailboxtest.Place {
	after := &place{t: t, on: p.on.Crash(t), name: p.name}
	t.Cleanup(after.Close)
	return after
}

// Stored implements mailboxtest.Place.
func (p *place) Stored(t testing.TB, what mailboxtest.Record) (n int) {
	table := map[mailboxtest.Record]string{
		mailboxtest.Items: "item", mailboxtest.Cursors: "reader", mailboxtest.IDs: "item_id", mailboxtest.Streams: "stream",
		mailboxtest.Senders: "sent", mailboxtest.KeptEntries: "kept",
	}
	if err := p.open.pool.QueryRow(context.Background(), "SELECT count(*) FROM "+table[what]).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// checks returns the number of random walks of the model, unless the command line says another one.
func checks() string {
	if long() {
		return "5"
	}
	return "1"
}

func long() bool { return os.Getenv("MLSFED_LONG") != "" }

func TestMain(m *testing.M) {
	flag.Parse()
	set := false
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == "rapid.checks" })
	if !set {
		if err := flag.Set("rapid.checks", checks()); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

func TestMailboxConformance(t *testing.T) { mailboxConformance(t) }

// TestLongMailboxConformance runs the tests of the suite that crash a server.
func TestLongMailboxConformance(t *testing.T) {
	needLong(t)
	mailboxConformance(t)
}

// needLong skips a test whose smallest form is no test at all.
func needLong(t *testing.T) {
	if !long() {
		t.Skip("it crashes and starts servers for minutes: MLSFED_LONG=short runs it")
	}
}

// skipOther skips the tests of a suite that crash a server, except in a long test, which has those alone.
func skipOther(t testing.TB) {
	switch inLong := strings.HasPrefix(t.Name(), "TestLong"); {
	case inLong && !crashes(t):
		t.Skip("the form without MLSFED_LONG runs it")
	case !inLong && crashes(t):
		t.Skip("a test that crashes a server: MLSFED_LONG=short runs it")
	}
}

func mailboxConformance(t *testing.T) {
	pgtest.Need(t)
	mailboxtest.Run(t, func(t testing.TB) mailboxtest.Place {
		skipOther(t)
		if crashes(t) {
			s := pgtest.Own(t)
			p := &place{t: t, on: s, name: database(t, s)}
			t.Cleanup(p.Close)
			return p
		}
		return newPlace(t)
	})
}

// recordPlace implements directorytest.Place.
type recordPlace struct {
	on   *pgtest.Server
	name string
}

// Open implements directorytest.Place.
func (p *recordPlace) Open(t testing.TB) (recordstore.Store, func()) {
	d := open(t, p.on, p.name)
	return d.Records(), sync.OnceFunc(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
}

// Crash implements directorytest.Place.
func (p *recordPlace) Crash(t testing.TB) directorytest.Place {
	return &recordPlace{p.on.Crash(t), p.name}
}

func TestDirectoryConformance(t *testing.T) { directoryConformance(t) }

// TestLongDirectoryConformance runs the tests of the suite that crash a server.
func TestLongDirectoryConformance(t *testing.T) {
	needLong(t)
	directoryConformance(t)
}

func directoryConformance(t *testing.T) {
	pgtest.Need(t)
	directorytest.Run(t, func(t testing.TB) directorytest.Place {
		skipOther(t)
		s := pgtest.Need(t)
		if crashes(t) {
			s = pgtest.Own(t)
		}
		return &recordPlace{s, database(t, s)}
	})
}

// lanePlace implements lanestest.Place in a database.
type lanePlace struct {
	on   *pgtest.Server
	name string
}

// Open implements lanestest.Place.
func (p *lanePlace) Open(t testing.TB) (lanestore.Store, func()) {
	d := open(t, p.on, p.name)
	s := d.Store(mailbox.Config{})
	stop := start(t, s)
	t.Cleanup(func() {
		stop()
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return s.Lanes(), stop
}

// Crash implements lanestest.Place.
func (p *lanePlace) Crash(t testing.TB) lanestest.Place { return &lanePlace{p.on.Crash(t), p.name} }

func TestLanesConformance(t *testing.T) { lanesConformance(t) }

// TestLongLanesConformance runs the tests of the suite that crash a server.
func TestLongLanesConformance(t *testing.T) {
	needLong(t)
	lanesConformance(t)
}

func lanesConformance(t *testing.T) {
	pgtest.Need(t)
	lanestest.Run(t, func(t testing.TB) lanestest.Place {
		skipOther(t)
		s := pgtest.Need(t)
		if crashes(t) {
			s = pgtest.Own(t)
		}
		return &lanePlace{s, database(t, s)}
	})
}

// crashes reports whether a test of a suite crashes its server, so that it needs one of its own.
func crashes(t testing.TB) bool { return strings.Contains(t.Name(), "/Crash") }

// TestSettings checks that a server that may lose committed transactions is refused, by the name of the setting.
func TestSettings(t *testing.T) {
	pgtest.Need(t)
	s := pgtest.Own(t)
	name := database(t, s)
	for _, c := range []struct {
		set, value, want string
		quorum           bool
	}{
		{set: "fsync", value: "off", want: "fsync"},
		{set: "full_page_writes", value: "off", want: "full_page_writes"},
		{set: "synchronous_commit", value: "off", want: "synchronous_commit"},
		{set: "synchronous_commit", value: "local", want: "synchronous_commit", quorum: true},
		{set: "synchronous_standby_names", value: "", want: "synchronous_standby_names", quorum: true},
	} {
		if err := s.Exec(name, "ALTER SYSTEM SET "+c.set+" = '"+c.value+"'"); err != nil {
			t.Fatal(err)
		}
		if err := s.Exec(name, "SELECT pg_reload_conf()"); err != nil {
			t.Fatal(err)
		}
		o := Options{URL: s.URL(name), Quorum: c.quorum}
		refused := func(err error) bool { return errors.Is(err, ErrNotDurable) && strings.Contains(err.Error(), c.want) }
		_, err := Check(t.Context(), o)
		for tries := 0; !refused(err) && tries < 200; tries++ { // the server reads its settings a moment later, the reset ones too
			time.Sleep(20 * time.Millisecond)
			_, err = Check(t.Context(), o)
		}
		if !refused(err) {
			t.Errorf("%s = %q: %v", c.set, c.value, err)
		}
		if err := errors.Join(s.Exec(name, "ALTER SYSTEM RESET "+c.set), s.Exec(name, "SELECT pg_reload_conf()")); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSchema checks that a database without the schema of this build is refused, and that Init makes it once.
func TestSchema(t *testing.T) {
	s := pgtest.Need(t)
	url, name := s.Database(t, "")
	_, err := Open(t.Context(), Options{URL: url})
	if !errors.Is(err, ErrNoSchema) {
		t.Fatalf("an empty database: %v", err)
	}
	version, err := Init(t.Context(), url)
	if err != nil || version == 0 {
		t.Fatalf("version %d, %v", version, err)
	}
	if _, err := Init(t.Context(), url); err == nil {
		t.Error("the tables were made twice")
	}
	if from, to, err := Migrate(t.Context(), url); err != nil || from != version || to != version {
		t.Errorf("migrated from %d to %d, %v", from, to, err)
	}
	if have, err := Check(t.Context(), Options{URL: url}); err != nil || have != version {
		t.Errorf("version %d, %v", have, err)
	}
	if err := s.Exec(name, "INSERT INTO schema_version (version_id, is_applied) VALUES (9999, true)"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Options{URL: url}); !errors.Is(err, ErrNewSchema) {
		t.Errorf("a newer schema: %v", err)
	}
	if _, err := Open(t.Context(), Options{URL: "postgres://u:secret@[bad"}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("an unreadable address: %v", err)
	}
}
