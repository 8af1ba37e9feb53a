//go:build integration

package integration

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/node"
	"github.com/mlsfed/mlsfed/wire"
)

// setup changes how a federation is started.
type setup struct {
	orgs        []string          // a, b, c if nil
	environment map[string]string // of the nodes: MLSFED_MAILBOX_AGE=30s
	compose     string            // more for Compose, as YAML
	image       string            // of the nodes; "" for the one of this checkout
	nodes       string            // of each organization: "3"; "" for one
}

// federation is a federation that runs in containers, for one test.
type federation struct {
	t       *testing.T
	ctx     context.Context // ends before the test's time does
	project string
	dir     string
	files   string // COMPOSE_FILE
	image   string // MLSFED_IMAGE
	nodes   string // NODES
	ports   map[string]string
	history *history
	started time.Time

	// A scenario with many devices changes these fields before it enrols them.
	inMemory bool
	limits   client.Limits

	mu      sync.Mutex // guards what follows
	orgs    []string
	links   map[string]client.Invitation // unused invitations, one for each organization
	devices []*device
	talks   []*conversation
	notes   bytes.Buffer // the course of events, for the archive
}

// scenarioWait returns the time limit of a scenario.
func scenarioWait() time.Duration {
	if full() {
		return 40 * time.Minute
	}
	return 5 * time.Minute * patience()
}

// start brings a federation up by docker/up.sh, and removes it at the end of the test.
func start(t *testing.T, s setup) *federation {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), scenarioWait())
	t.Cleanup(cancel)
	project, err := the.project()
	if err != nil {
		t.Fatal(err)
	}
	if s.orgs == nil {
		s.orgs = []string{"a", "b", "c"}
	}
	f := &federation{
		t: t, ctx: ctx, project: project, dir: t.TempDir(), ports: make(map[string]string), orgs: s.orgs,
		links: make(map[string]client.Invitation), history: newHistory(), started: time.Now(), image: cmp.Or(s.image, the.image), nodes: cmp.Or(s.nodes, "1"),
	}
	for _, org := range []string{"a", "b", "c", "d"} {
		if f.ports[org], err = freePort(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(f.end)
	f.must(f.writeFiles(s))
	f.up(s.orgs...)
	return f
}

// laterKeys lists the variables of docker-compose.yml that earlier builds do not know.
var laterKeys = []string{"MLSFED_FEDERATION_ALLOW_NETWORKS"}

// writeEnvironment writes the environments of the nodes for Compose. Nodes of the organizations in older run another
// build than this one.
func (f *federation) writeEnvironment(environment map[string]string, older ...string) error {
	type service struct {
		Environment map[string]*string `json:"environment"`
	}
	services := make(map[string]service)
	for _, org := range []string{"a", "b", "c", "d", "a2", "a3", "b2", "b3", "c2", "c3"} {
		level := "info"
		services[org] = service{Environment: map[string]*string{"MLSFED_LOG_LEVEL": &level}}
		for key, value := range environment {
			services[org].Environment[key] = &value
		}
		for _, key := range laterKeys {
			if slices.Contains(older, org[:1]) {
				services[org].Environment[key] = nil // as in the environment of this process, which lacks it
			}
		}
	}
	raw, err := json.Marshal(map[string]any{"services": services}) // which is YAML
	if err != nil {
		return err
	}
	return os.WriteFile(f.environmentFile(), raw, 0o600)
}

func (f *federation) environmentFile() string { return filepath.Join(f.dir, "environment.yml") }

// writeFiles writes the files that are used in addition to docker-compose.yml.
func (f *federation) writeFiles(s setup) error {
	var older []string
	if s.image != "" {
		older = s.orgs
	}
	if err := f.writeEnvironment(s.environment, older...); err != nil {
		return err
	}
	files := []string{filepath.Join(the.root, "docker-compose.yml"), f.environmentFile()}
	if s.compose != "" {
		files = append(files, filepath.Join(f.dir, "more.yml"))
		if err := os.WriteFile(files[2], []byte(s.compose), 0o600); err != nil {
			return err
		}
	}
	f.files = strings.Join(files, ":")
	return nil
}

// freePort finds a free port of this machine below the kernel's range for outgoing connections: the port must still
// be free when a container is started again.
func freePort() (string, error) {
	for range 100 {
		port := strconv.Itoa(20000 + rand.IntN(12000))
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err == nil {
			return port, l.Close()
		}
	}
	return "", errors.New("no free port was found in 100 tries")
}

// up calls docker/up.sh and keeps the invitations that it prints.
func (f *federation) up(orgs ...string) {
	f.t.Helper()
	c := f.script("up.sh")
	c.Env = append(c.Env, "ORGANIZATIONS="+strings.Join(orgs, " "), "NODES="+f.nodes)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		f.t.Fatalf("docker/up.sh: %v\n%s", err, errs.String())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.orgs = orgs
	for line := range strings.Lines(out.String()) {
		i, err := client.ParseInvitation(line)
		if err != nil {
			f.t.Fatalf("docker/up.sh printed %q: %v", line, err)
		}
		f.links[strings.TrimSuffix(string(i.Domain), ".example")] = i
	}
}

// script returns a command for a script of docker/ for this federation.
func (f *federation) script(name string, args ...string) *exec.Cmd {
	c := bounded(f.ctx, "sh", append([]string{filepath.Join(the.root, "docker", name)}, args...)...)
	c.Env = append(os.Environ(), "COMPOSE_PROJECT_NAME="+f.project, "COMPOSE_FILE="+f.files, "MLSFED_IMAGE="+f.image,
		"PORT_A="+f.ports["a"], "PORT_B="+f.ports["b"], "PORT_C="+f.ports["c"], "PORT_D="+f.ports["d"])
	return c
}

// compose calls Compose on the federation's files.
func (f *federation) compose(args ...string) {
	f.t.Helper()
	f.note("compose %s", strings.Join(args, " "))
	if out, err := f.script("compose.sh", args...).CombinedOutput(); err != nil {
		f.must(fmt.Errorf("compose %v: %w\n%s", args, err, out))
	}
}

// end stops the clients, keeps what a failed test needs, and removes the federation.
func (f *federation) end() {
	ctx := context.WithoutCancel(f.ctx)
	var histories map[string][]byte
	if f.t.Failed() {
		histories = f.histories(ctx)
	}
	f.stopDevices()
	if f.t.Failed() {
		path, err := f.archive(ctx, histories)
		if err != nil {
			f.t.Logf("the archive is not whole: %v", err)
		}
		f.t.Logf("logs and histories are kept in %s", path)
	}
	f.mu.Lock()
	course := strings.SplitAfter(f.notes.String(), "\n")
	f.mu.Unlock()
	if os.Getenv("MLSFED_LOG") != "" {
		f.t.Logf("course of events:\n%s", strings.Join(course, ""))
	} else if f.t.Failed() { // the archive may be deleted before a person reads it
		f.t.Logf("the last events:\n%s", strings.Join(course[max(0, len(course)-40):], ""))
	}
	if err := removeProject(ctx, f.project); err != nil {
		f.t.Error(err)
	}
}

// began returns when the scenario began.
func (f *federation) began() time.Time { return f.started }

// must ends the test on an error.
func (f *federation) must(err error) {
	f.t.Helper()
	if err != nil {
		f.note("failed: %v", err)
		f.t.Fatal(err)
	}
}

// note records a line of the course of events.
func (f *federation) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fmt.Fprintf(&f.notes, "%s %s\n", time.Now().UTC().Format("15:04:05.000"), fmt.Sprintf(format, args...))
}

// container returns the name of a node's container. If an organization has several nodes, the first has the name of
// the organization, a, and the others are a2 and a3.
func (f *federation) container(service string) string { return f.project + "-" + service }

// services returns the nodes of all organizations.
func (f *federation) services() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := slices.Clone(f.orgs)
	if f.nodes == "3" {
		for _, org := range f.orgs {
			list = append(list, org+"2", org+"3")
		}
	}
	return list
}

func domain(org string) wire.Domain { return wire.Domain(org + ".example") }

func nodeOf(service string) wire.NodeID {
	return wire.NodeID("n" + cmp.Or(service[1:], "1") + "." + service[:1] + ".example")
}

// act runs a docker command on a container.
func (f *federation) act(org string, command ...string) {
	f.t.Helper()
	began := time.Now()
	_, err := docker(f.ctx, append(command, f.container(org))...)
	f.note("docker %s %s, in %v", strings.Join(command, " "), org, time.Since(began).Round(time.Millisecond))
	f.must(err)
}

func (f *federation) kill(org string)    { f.t.Helper(); f.act(org, "kill") }
func (f *federation) pause(org string)   { f.t.Helper(); f.act(org, "pause") }
func (f *federation) unpause(org string) { f.t.Helper(); f.act(org, "unpause") }
func (f *federation) stop(org string)    { f.t.Helper(); f.act(org, "stop", "--time", "30") }

// run starts a container that was stopped or killed, and returns when its node serves.
func (f *federation) run(org string) {
	f.t.Helper()
	f.act(org, "start")
	f.waitHealthy(org)
}

// waitHealthy returns when the node reports that it can serve.
func (f *federation) waitHealthy(org string) {
	f.t.Helper()
	f.eventually("node of "+org+" can serve", func() error {
		_, err := f.mlsfed(org, "health")
		return err
	})
}

// mlsfed runs a command of the binary in an organization's container.
func (f *federation) mlsfed(org string, args ...string) (string, error) {
	return docker(f.ctx, append([]string{"exec", f.container(org), "/mlsfed"}, args...)...)
}

// cut takes organizations off the network between organizations; their clients still reach them.
func (f *federation) cut(orgs ...string) {
	f.t.Helper()
	for _, org := range orgs {
		f.note("cut %s off", org)
		_, err := docker(f.ctx, "network", "disconnect", f.project+"-federation", f.container(org))
		f.must(err)
	}
}

// heal puts them back.
func (f *federation) heal(orgs ...string) {
	f.t.Helper()
	for _, org := range orgs {
		f.note("heal %s", org)
		_, err := docker(f.ctx, "network", "connect", "--alias", string(nodeOf(org)), f.project+"-federation", f.container(org))
		f.must(err)
	}
}

// status returns the status that an operator of an organization sees.
func (f *federation) status(org string) (*node.Status, error) {
	s := new(node.Status)
	return s, f.readStatus(org, s)
}

// readStatus reads the part of a status for which the caller has fields: an earlier build may write the rest
// differently.
func (f *federation) readStatus(org string, into any) error {
	out, err := f.mlsfed(org, "status", "--json")
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), into)
}

// replica returns one node's view of a conversation, nil if the node holds no replica.
func (f *federation) replica(org string, id wire.ConversationID) (*node.Conversation, error) {
	var s struct {
		Conversations []node.Conversation `json:"conversations"`
	}
	if err := f.readStatus(org, &s); err != nil {
		return nil, err
	}
	for i := range s.Conversations {
		if s.Conversations[i].ID == id.String() {
			return &s.Conversations[i], nil
		}
	}
	return nil, nil
}

// leader returns the organization whose node leads a conversation.
func (f *federation) leader(id wire.ConversationID, asked ...string) string {
	f.t.Helper()
	var found string
	f.eventually("conversation has a leader", func() error {
		for _, org := range asked {
			r, err := f.replica(org, id)
			if err != nil {
				return err
			}
			if r != nil && r.Role == "leader" {
				found = org
				return nil
			}
		}
		return fmt.Errorf("none of %v leads", asked)
	})
	return found
}

// eventually polls until done returns nil. It ends the test when the scenario's time is over.
func (f *federation) eventually(what string, done func() error) {
	f.t.Helper()
	f.within(what, time.Minute, done)
}

// within is eventually with another time limit.
func (f *federation) within(what string, d time.Duration, done func() error) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.ctx, d*patience())
	defer cancel()
	for {
		err := done()
		if err == nil {
			return
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			f.must(fmt.Errorf("%s: not within %v: %w", what, d, err))
		}
	}
}
