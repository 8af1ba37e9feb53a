package main

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/test/interop/mlsclient"
	"github.com/mlsfed/mlsfed/test/interop/runner"
	"github.com/mlsfed/mlsfed/test/interop/server"
)

// patience is the time limit of one call: far more than any call takes.
const patience = time.Minute

// serving starts a server, whose answers change may replace, and connects to it.
func serving(t *testing.T, config server.Config, change func(*server.Server) mlsclient.MLSClientServer) *runner.Peer {
	t.Helper()
	l, err := server.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	s := server.New(config)
	var answers mlsclient.MLSClientServer = s
	if change != nil {
		answers = change(s)
	}
	ended.Go(func() {
		if err := s.ServeAs(ctx, l, answers); err != nil {
			t.Error(err)
		}
	})
	p, err := runner.Connect(ctx, l.Addr().String(), patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Close()
		cancel()
		ended.Wait()
	})
	return p
}

func scripts(t *testing.T) []runner.Script {
	t.Helper()
	files, err := filepath.Glob("scenarios/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	var list []runner.Script
	for _, file := range files {
		more, err := runner.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, more...)
	}
	return list
}

// TestScenarios plays all scripts with two servers, and makes every call of the protocol.
func TestScenarios(t *testing.T) {
	called := map[string]bool{}
	var mu sync.Mutex
	config := server.Config{Called: func(method string) {
		mu.Lock()
		defer mu.Unlock()
		called[method] = true
	}}
	peers := []*runner.Peer{serving(t, config, nil), serving(t, config, nil)}
	o := runner.Options{Suites: []uint32{1, 2}, Assignments: 2, Timeout: patience, Seed: 1}
	if testing.Short() {
		o.Suites, o.Assignments = o.Suites[:1], 1
	}
	results, err := runner.Play(context.Background(), peers, scripts(t), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Err != nil {
			t.Error(r)
		}
	}
	t.Logf("%d runs", len(results))
	for _, m := range mlsclient.MLSClient_ServiceDesc.Methods {
		if name := "/" + mlsclient.MLSClient_ServiceDesc.ServiceName + "/" + m.MethodName; !called[name] {
			t.Errorf("no script calls %s", name)
		}
	}
}

// wrong answers some calls wrongly.
type wrong struct {
	*server.Server
	what string
}

// damaged returns an answer of another state than the peer's.
func damaged(b []byte) []byte {
	b = bytes.Clone(b)
	if len(b) > 0 {
		b[0] ^= 1
	}
	return b
}

func (w wrong) StateAuth(ctx context.Context, r *mlsclient.StateAuthRequest) (*mlsclient.StateAuthResponse, error) {
	out, err := w.Server.StateAuth(ctx, r)
	if err == nil && w.what == "StateAuth" {
		out.StateAuthSecret = damaged(out.StateAuthSecret)
	}
	return out, err
}

func (w wrong) Export(ctx context.Context, r *mlsclient.ExportRequest) (*mlsclient.ExportResponse, error) {
	out, err := w.Server.Export(ctx, r)
	if err == nil && w.what == "Export" {
		out.ExportedSecret = damaged(out.ExportedSecret)
	}
	return out, err
}

func (w wrong) Unprotect(ctx context.Context, r *mlsclient.UnprotectRequest) (*mlsclient.UnprotectResponse, error) {
	out, err := w.Server.Unprotect(ctx, r)
	if err == nil && w.what == "Unprotect" {
		out.Plaintext = append(out.Plaintext, '!')
	}
	return out, err
}

func (w wrong) HandleCommit(ctx context.Context, r *mlsclient.HandleCommitRequest) (*mlsclient.HandleCommitResponse, error) {
	out, err := w.Server.HandleCommit(ctx, r)
	if err == nil && w.what == "HandleCommit" {
		out.EpochAuthenticator = damaged(out.EpochAuthenticator)
	}
	return out, err
}

func (w wrong) JoinGroup(ctx context.Context, r *mlsclient.JoinGroupRequest) (*mlsclient.JoinGroupResponse, error) {
	if w.what == "JoinGroup" {
		r.Welcome = damaged(r.Welcome)
	}
	return w.Server.JoinGroup(ctx, r)
}

func (w wrong) Commit(ctx context.Context, r *mlsclient.CommitRequest) (*mlsclient.CommitResponse, error) {
	if w.what == "Commit" {
		r.ByReference = nil // it leaves the chosen proposals out
	}
	return w.Server.Commit(ctx, r)
}

func (w wrong) HandleBranch(ctx context.Context, r *mlsclient.HandleBranchRequest) (*mlsclient.HandleBranchResponse, error) {
	out, err := w.Server.HandleBranch(ctx, r)
	if err == nil && w.what == "HandleBranch" {
		out.EpochAuthenticator = nil
	}
	return out, err
}

func (w wrong) HandleReInitWelcome(ctx context.Context, r *mlsclient.HandleReInitWelcomeRequest) (*mlsclient.JoinGroupResponse, error) {
	out, err := w.Server.HandleReInitWelcome(ctx, r)
	if err == nil && w.what == "HandleReInitWelcome" {
		out.EpochAuthenticator = damaged(out.EpochAuthenticator)
	}
	return out, err
}

// TestRunnerNotices checks that a peer that answers one kind of call wrongly fails, and that a peer that answers
// correctly passes.
func TestRunnerNotices(t *testing.T) {
	all := scripts(t)
	good := serving(t, server.Config{Name: "good"}, nil)
	whats := []string{"", "StateAuth", "Export", "Unprotect", "HandleCommit", "JoinGroup", "Commit", "HandleBranch", "HandleReInitWelcome"}
	if testing.Short() {
		whats = whats[:2]
	}
	for _, what := range whats {
		bad := serving(t, server.Config{Name: "bad"}, func(s *server.Server) mlsclient.MLSClientServer { return wrong{s, what} })
		results, err := runner.Play(context.Background(), []*runner.Peer{good, bad}, all, runner.Options{Suites: []uint32{1}, Private: true, Assignments: 2, Timeout: patience})
		if err != nil {
			t.Fatal(err)
		}
		failed := 0
		for _, r := range results {
			if r.Err != nil {
				failed++
			}
		}
		if (failed > 0) != (what != "") {
			t.Errorf("wrong answers of %q: %d of %d runs fail", what, failed, len(results))
		}
	}
}

// TestPlayNothing checks that a run in which nothing is played is an error.
func TestPlayNothing(t *testing.T) {
	p := serving(t, server.Config{}, nil)
	if _, err := runner.Play(context.Background(), []*runner.Peer{p}, scripts(t), runner.Options{Suites: []uint32{0xff00}}); err == nil {
		t.Error("no error")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := runner.Play(ctx, []*runner.Peer{p}, scripts(t), runner.Options{}); err == nil {
		t.Error("no error after the end")
	}
}

// TestCommand checks the exit codes of the program.
func TestCommand(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		say  string
	}{
		{nil, 2, "usage"},
		{[]string{"dance"}, 2, "usage"},
		{[]string{"run"}, 2, "usage"},
		{[]string{"run", "-suite", "65536", "x"}, 2, "suite"},
		{[]string{"run", "no such file"}, 1, "no such file"},
		{[]string{"run", "-suite", "0xff00", "scenarios/talk.json"}, 1, "nothing was played"},
		{[]string{"run", "-suite", "1", "-private", "-assignments", "2", "scenarios/talk.json"}, 0, "6 of 6 passed"},
		{[]string{"run", "-peer", "127.0.0.1:1", "-timeout", "10ms", "scenarios/talk.json"}, 1, "127.0.0.1:1"},
		{[]string{"serve", "-listen", "0.0.0.0:0"}, 1, "only loopback"},
		{[]string{"serve", "more"}, 2, ""},
	} {
		var out bytes.Buffer
		if code := command(context.Background(), c.args, &out, &out); code != c.code || !strings.Contains(out.String(), c.say) {
			t.Errorf("%v: exit code %d, want %d and %q, said:\n%s", c.args, code, c.code, c.say, &out)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var out bytes.Buffer
	if code := command(ctx, []string{"serve", "-pq", "-compressed-keys"}, &out, &out); code != 0 {
		t.Errorf("serving until it is ended: exit code %d: %s", code, &out)
	}
}
