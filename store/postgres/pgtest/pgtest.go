// Package pgtest starts a real PostgreSQL for tests: the server of Debian's package postgresql-15, with a data folder
// of its own, on a Unix socket, for the time of one test binary. Each test gets a database.
package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Binaries is the folder of the server's programs in Debian's package postgresql-15. The environment variable
// POSTGRES_BIN names another one.
const Binaries = "/usr/lib/postgresql/15/bin"

// start bounds the time in which a server must answer, in seconds.
const start = 60

func program(name string) string {
	dir := os.Getenv("POSTGRES_BIN")
	if dir == "" {
		dir = Binaries
	}
	return filepath.Join(dir, name)
}

// Server is a running PostgreSQL.
type Server struct {
	dir   string // with data and socket
	owner []string
	lead  *exec.Cmd // the shell that ends the server when this process ends
	alive io.Closer // its standard input
	names atomic.Int64
}

var shared struct {
	sync.Mutex
	server *Server
	err    error
}

// Need returns the server of this test binary, and starts it for the first caller. It skips the test where there is
// no PostgreSQL 15. The server ends with the process.
func Need(t testing.TB) *Server {
	t.Helper()
	skip(t)
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil && shared.err == nil {
		shared.server, shared.err = Start()
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.server
}

func skip(t testing.TB) {
	t.Helper()
	if _, err := os.Stat(program("postgres")); err != nil {
		t.Skip("NOT RUN: PostgreSQL 15 is missing (Debian: postgresql-15, which 'apt-get install postgresql-15' installs); POSTGRES_BIN can name the folder of its programs")
	}
	if os.Getuid() == 0 {
		if _, err := exec.LookPath("setpriv"); err != nil {
			t.Skip("NOT RUN: PostgreSQL does not run as root, and setpriv is missing (Debian: util-linux)")
		}
		if _, err := user.Lookup("postgres"); err != nil {
			t.Skip("NOT RUN: PostgreSQL does not run as root, and this machine has no user named postgres")
		}
	}
}

// Own starts a server for one test alone, which the test may crash. It ends with the test.
func Own(t testing.TB, settings ...string) *Server {
	t.Helper()
	skip(t)
	s, err := Start(settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// Start makes a data folder and starts a server on it, with settings in addition, each "name=value".
func Start(settings ...string) (*Server, error) {
	s, err := prepare()
	if err != nil {
		return nil, err
	}
	if err := s.run(s.as(program("initdb"), "-D", s.data(), "-U", "postgres", "-A", "trust", "-k", "--locale=C", "-E", "UTF8", "--no-sync", "--no-instructions")); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	lines := strings.Join(append([]string{
		"listen_addresses=''", "unix_socket_directories='" + s.dir + "'", "max_connections=300", "shared_buffers='64MB'",
		"log_min_messages=fatal", "wal_writer_delay='50ms'", "max_wal_size='256MB'",
	}, settings...), "\n")
	conf, err := os.OpenFile(filepath.Join(s.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = conf.WriteString("\n" + lines + "\n")
		err = errors.Join(err, conf.Close())
	}
	if err == nil {
		err = s.Restart()
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	return s, nil
}

// prepare makes the folder of a server, which the user of the server owns.
func prepare() (*Server, error) {
	dir, err := os.MkdirTemp("", "mlsfed-pg-")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir}
	if os.Getuid() != 0 {
		return s, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return nil, err
	}
	s.owner = []string{"setpriv", "--reuid=" + u.Uid, "--regid=" + u.Gid, "--clear-groups"}
	return s, os.Chown(dir, uid, gid)
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// as returns a command that runs as the user of the server.
func (s *Server) as(args ...string) *exec.Cmd {
	args = append(append([]string{}, s.owner...), args...)
	c := exec.Command(args[0], args[1:]...)
	c.Dir = s.dir
	return c
}

func (s *Server) run(c *exec.Cmd) error {
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", c.Path, err, bytes.TrimSpace(out))
	}
	return nil
}

// leadScript ends the server by its pid when standard input ends, which is when the test binary ends in any way, and
// then removes the folder, unless Kill keeps it.
const leadScript = `"$@" >>"$DIR/log" 2>&1 & server=$!
cat >/dev/null
kill -QUIT $server 2>/dev/null
wait $server
[ -e "$DIR/keep" ] || rm -rf "$DIR"
`

// Restart starts the server on its data folder, after Kill or Start.
func (s *Server) Restart() error {
	_ = os.Remove(filepath.Join(s.dir, "keep"))
	server := s.as(program("postgres"), "-D", s.data())
	s.lead = exec.Command("sh", append([]string{"-c", leadScript, "sh"}, server.Args...)...)
	s.lead.Dir, s.lead.Env = s.dir, append(os.Environ(), "DIR="+s.dir)
	in, err := s.lead.StdinPipe()
	if err != nil {
		return err
	}
	s.alive = in
	if err := s.lead.Start(); err != nil {
		return err
	}
	return s.answers()
}

// answers waits until the server accepts connections.
func (s *Server) answers() error {
	ctx, cancel := context.WithTimeout(context.Background(), start*time.Second)
	defer cancel()
	for {
		c, err := pgx.Connect(ctx, s.URL("postgres"))
		if err == nil {
			return c.Close(ctx)
		}
		select {
		case <-ctx.Done():
			log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			return fmt.Errorf("PostgreSQL does not answer: %w: %s", err, log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Close ends the server and removes its folder.
func (s *Server) Close() {
	if s.alive == nil {
		return
	}
	_ = s.alive.Close()
	_ = s.lead.Wait()
	s.alive = nil
}

// pid is the id of the server's first process.
func (s *Server) pid() (string, error) {
	b, err := os.ReadFile(filepath.Join(s.data(), "postmaster.pid"))
	first, _, _ := strings.Cut(string(b), "\n")
	return first, err
}

// processes lists the processes of the server, the first one first.
func (s *Server) processes() ([]string, error) {
	first, err := s.pid()
	if err != nil {
		return nil, err
	}
	list := []string{first}
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range all {
		if _, parent := stat(path); parent == first {
			list = append(list, filepath.Base(filepath.Dir(path)))
		}
	}
	return list, err
}

// stat returns the state and the parent of a process, or "" if the process has ended.
func stat(path string) (state, parent string) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", ""
	}
	// The fields after the name in parentheses: state, parent.
	_, rest, _ := strings.Cut(string(b[max(bytes.LastIndexByte(b, ')'), 0):]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return "", ""
	}
	return fields[0], fields[1]
}

// runs reports whether a process has not ended. One that has ended may remain as a zombie, without memory.
func runs(pid string) bool {
	state, _ := stat(filepath.Join("/proc", pid, "stat"))
	return state != "" && state != "Z" && state != "X"
}

// suspend stops the first process of the server, and returns its id.
func (s *Server) suspend() (string, error) {
	first, err := s.pid()
	if err != nil {
		return "", err
	}
	if err := s.run(exec.Command("kill", "-STOP", first)); err != nil {
		return "", err
	}
	for runs(first) {
		if state, _ := stat(filepath.Join("/proc", first, "stat")); state == "T" {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return first, nil
}

// Kill ends the server with all its processes, as a crash does: without a checkpoint, and without what was only in the
// memory of the server. The data folder stays.
func (s *Server) Kill() error {
	if err := os.WriteFile(filepath.Join(s.dir, "keep"), nil, 0o600); err != nil {
		return err
	}
	// The first process is stopped before the others are listed, so that it starts no further ones.
	if _, err := s.suspend(); err != nil {
		return err
	}
	list, err := s.processes()
	if err != nil {
		return err
	}
	if err := s.run(exec.Command("kill", "-KILL", list[0])); err != nil {
		return err
	}
	_ = exec.Command("kill", append([]string{"-KILL"}, list[1:]...)...).Run() // those that have noticed it are gone
	_ = s.alive.Close()
	_ = s.lead.Wait()
	s.alive = nil
	// A process that still ends holds the shared memory, with which no new server starts on the data folder.
	for end := time.Now().Add(start * time.Second); slices.ContainsFunc(list, runs); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("PostgreSQL: processes %v do not end", list)
		}
	}
	return os.Remove(filepath.Join(s.data(), "postmaster.pid"))
}

// Crash returns a server on the data as it is after a crash at this moment: without what is only in the memory of the
// server. The server is suspended while its files are copied, and continues.
func (s *Server) Crash(t testing.TB) *Server {
	t.Helper()
	after, err := s.crash()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(after.Close)
	return after
}

func (s *Server) crash() (after *Server, err error) {
	if after, err = prepare(); err != nil {
		return nil, err
	}
	err = s.still(func() error { return s.run(exec.Command("cp", "-a", s.data(), after.data())) })
	if err == nil {
		err = os.Remove(filepath.Join(after.data(), "postmaster.pid"))
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(after.dir))
	}
	conf, err := os.OpenFile(filepath.Join(after.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintf(conf, "\nunix_socket_directories='%s'\n", after.dir)
	if err := errors.Join(err, conf.Close()); err != nil {
		return nil, err
	}
	return after, after.Restart()
}

// still stops all processes of the server while do runs. The first one is stopped before the others are listed, so that
// it starts no further ones.
func (s *Server) still(do func() error) (err error) {
	first, err := s.suspend()
	if err != nil {
		return err
	}
	list, err := s.processes()
	defer func() {
		_ = exec.Command("kill", append([]string{"-CONT"}, append(list, first)...)...).Run()
	}()
	if err != nil {
		return err
	}
	_ = exec.Command("kill", append([]string{"-STOP"}, list...)...).Run() // one of them may have ended
	return do()
}

// URL returns the address of a database.
func (s *Server) URL(database string) string {
	return fmt.Sprintf("postgres:///%s?host=%s&user=postgres", database, s.dir)
}

// Exec runs statements in a database.
func (s *Server) Exec(database string, statements ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), start*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, s.URL(database))
	if err != nil {
		return err
	}
	for _, q := range statements {
		_, e := c.Exec(ctx, q)
		err = errors.Join(err, e)
	}
	return errors.Join(err, c.Close(ctx))
}

// Database makes an empty database, and returns its address. template names a database to copy; "" for none.
func (s *Server) Database(t testing.TB, template string) (url, name string) {
	t.Helper()
	name = "t" + strconv.FormatInt(s.names.Add(1), 10)
	q := "CREATE DATABASE " + name
	if template != "" {
		q += " TEMPLATE " + template
	}
	if err := s.Exec("postgres", q); err != nil {
		t.Fatal(err)
	}
	return s.URL(name), name
}
