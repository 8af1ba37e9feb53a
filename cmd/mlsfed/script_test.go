package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/mlsfed/mlsfed/test/issuer"
)

// TestMain lets the scripts run this binary as mlsfed.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"mlsfed": main, "browser": browser})
}

// browser acts as the user BROWSE_AS, who logs in at an address.
func browser() {
	if _, err := issuer.Browse(context.Background(), os.Args[1], os.Getenv("BROWSE_AS")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// TestScripts plays testdata/script: what people and operators type, and the output that they get. The commands in
// addition to those of testscript are:
//
//	ports VAR…            sets variables to free addresses on loopback
//	serve CONFIG          starts a node and waits until it answers; it is stopped at the script's end
//	stop CONFIG           stops it, and wants it to end with 0
//	federation DOMAIN…    makes organizations, lets each admit the others, and serves them
//	person USER@DOMAIN/DEVICE   invites a user and enrols a device
//	provider USER:GROUP…  starts a login service, and sets ISSUER to its address
//	keep VAR [PATTERN]    sets a variable to the last output, or to what a pattern finds in it
//	exits CODE COMMAND…   runs a command and wants an exit code
//	until PATTERN COMMAND…  runs a command until its output matches, for a minute
//	terminal STEP… -- COMMAND…  runs a command on a terminal and types (on Linux)
//	objects COUNT KEY…    wants the last output to be so many lines, an object with these keys in each, or with any if
//	                      none is named
func TestScripts(t *testing.T) {
	p := scriptParams()
	p.Dir = "testdata/script"
	testscript.Run(t, p)
}

func scriptParams() testscript.Params {
	s := &scripts{used: make(map[string]bool)}
	return testscript.Params{
		Setup: func(e *testscript.Env) error {
			e.Setenv("MLSFED_HOME", filepath.Join(e.WorkDir, "home"))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("DBUS_SESSION_BUS_ADDRESS", "")
			e.Values["nodes"] = make(map[string]*exec.Cmd)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ports": s.ports, "serve": s.serve, "stop": s.stop, "federation": s.federation, "person": s.person,
			"keep": s.keep, "exits": s.exits, "until": s.until, "objects": s.objects, "terminal": s.terminal, "provider": s.provider,
		},
	}
}

// scripts holds the state of the commands that the scripts have in addition to those of testscript.
type scripts struct {
	mu   sync.Mutex      // guards what follows
	used map[string]bool // addresses that were given to a script
}

// free finds a free address that no other script has got.
func (s *scripts) free(ts *testscript.TestScript) string {
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		address := l.Addr().String()
		ts.Check(l.Close())
		s.mu.Lock()
		fresh := !s.used[address]
		s.used[address] = true
		s.mu.Unlock()
		if fresh {
			return address
		}
	}
}

func (s *scripts) ports(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		ts.Setenv(name, s.free(ts))
	}
}

func nodes(ts *testscript.TestScript) map[string]*exec.Cmd {
	return ts.Value("nodes").(map[string]*exec.Cmd)
}

func (s *scripts) serve(ts *testscript.TestScript, _ bool, args []string) {
	config := ts.MkAbs(args[0])
	c := exec.Command("mlsfed", "serve", "-c", config)
	c.Env = []string{"PATH=" + ts.Getenv("PATH"), "HOME=" + ts.Getenv("HOME"), "TMPDIR=" + os.Getenv("TMPDIR")}
	path, err := lookPath("mlsfed", ts.Getenv("PATH"))
	ts.Check(err)
	c.Path, c.Err = path, nil
	log := new(bytes.Buffer)
	c.Stderr = log
	ts.Check(c.Start())
	nodes(ts)[config] = c
	ts.Defer(func() {
		if nodes(ts)[config] == c { // stop has not removed it
			_ = c.Process.Signal(syscall.SIGTERM)
			_ = c.Wait()
		}
	})
	for range 500 {
		if ts.Exec("mlsfed", "status", "-c", config) == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	_ = c.Process.Kill()
	_ = c.Wait()
	delete(nodes(ts), config)
	ts.Fatalf("the node of %s does not answer:\n%s", config, log)
}

// lookPath finds a program in a PATH that is not this process's.
func lookPath(name, path string) (string, error) {
	for _, dir := range filepath.SplitList(path) {
		if file := filepath.Join(dir, name); isFile(file) {
			return file, nil
		}
	}
	return "", exec.ErrNotFound
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func (s *scripts) stop(ts *testscript.TestScript, _ bool, args []string) {
	config := ts.MkAbs(args[0])
	c := nodes(ts)[config]
	if c == nil {
		ts.Fatalf("no node of %s was started", config)
	}
	delete(nodes(ts), config)
	ts.Check(c.Process.Signal(syscall.SIGTERM))
	ts.Check(c.Wait())
}

func (s *scripts) federation(ts *testscript.TestScript, _ bool, domains []string) {
	for _, d := range domains {
		ts.Check(ts.Exec("mlsfed", "init", "--domain", d, "--gateway", s.free(ts), "--federation", s.free(ts)))
	}
	for _, here := range domains {
		for _, there := range domains {
			if here != there {
				ts.Check(ts.Exec("mlsfed", "peer", "add", there+"/bundle.json", "-c", here+"/mlsfed.yaml"))
			}
		}
	}
	for _, d := range domains {
		s.serve(ts, false, []string{d + "/mlsfed.yaml"})
	}
}

func (s *scripts) person(ts *testscript.TestScript, _ bool, args []string) {
	user, device, _ := strings.Cut(args[0], "/")
	name, domain, _ := strings.Cut(user, "@")
	ts.Check(ts.Exec("mlsfed", "user", "invite", name, "-c", domain+"/mlsfed.yaml"))
	ts.Check(ts.Exec("mlsfed", "login", strings.TrimSpace(ts.ReadFile("stdout")), "--device", device, "--key", "file"))
}

func (s *scripts) provider(ts *testscript.TestScript, _ bool, args []string) {
	groups := make(map[string][]string)
	for _, a := range args {
		name, group, _ := strings.Cut(a, ":")
		groups[name] = append(groups[name], group)
	}
	i, err := issuer.New(groups)
	ts.Check(err)
	ts.Defer(i.Close)
	ts.Setenv("ISSUER", i.URL)
}

func (s *scripts) keep(ts *testscript.TestScript, _ bool, args []string) {
	out := strings.TrimSpace(ts.ReadFile("stdout"))
	if len(args) > 1 {
		m := regexp.MustCompile(args[1]).FindStringSubmatch(out)
		if m == nil {
			ts.Fatalf("%q is not in the output", args[1])
		}
		out = m[len(m)-1]
	}
	ts.Setenv(args[0], out)
}

func (s *scripts) exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, wanted %d", got, want)
	}
}

func (s *scripts) until(ts *testscript.TestScript, _ bool, args []string) {
	pattern := regexp.MustCompile("(?m)" + args[0])
	for range 1200 {
		_ = ts.Exec(args[1], args[2:]...) // the output shows the result
		if pattern.MatchString(ts.ReadFile("stdout") + ts.ReadFile("stderr")) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	ts.Fatalf("%q never prints %q", strings.Join(args[1:], " "), args[0])
}

func (s *scripts) objects(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	out := ts.ReadFile("stdout")
	lines := strings.SplitAfter(out, "\n")
	if last := len(lines) - 1; lines[last] != "" || last != want {
		ts.Fatalf("%d lines, wanted %d:\n%s", last, want, out)
	}
	for _, line := range lines[:want] {
		var object map[string]any
		ts.Check(json.Unmarshal([]byte(line), &object))
		if keys := slices.Sorted(maps.Keys(object)); len(args) > 1 && !slices.Equal(keys, slices.Sorted(slices.Values(args[1:]))) {
			ts.Fatalf("an object with the keys %q:\n%s", keys, line)
		}
	}
}

// TestLongScripts plays two long scripts: the nodes of this build are compared with themselves, as processes; and a
// user brings back a device that was away for too long.
func TestLongScripts(t *testing.T) {
	if os.Getenv("MLSFED_LONG") == "" {
		t.Skip("about a minute: set MLSFED_LONG to short or full")
	}
	p := scriptParams()
	p.Dir = "testdata/long"
	testscript.Run(t, p)
}
