package test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// TestLongIdleSessions measures what an idle session costs a whole node, its feed included, over real sockets with
// TLS. The node is a process of its own, so that only its memory is measured: live heap and stacks, from its metrics
// after a garbage collection.
func TestLongIdleSessions(t *testing.T) {
	sessions := map[string]int{"short": 500, "full": 10_000}[os.Getenv("MLSFED_LONG")]
	if sessions == 0 {
		t.Skip("opens thousands of sockets: set MLSFED_LONG to short or full")
	}
	if runtime.GOOS != "linux" {
		t.Skip("reads a process's memory from /proc, which is Linux's")
	}
	c, err := cluster.New(t.TempDir(), cluster.Options{Edit: func(cfg *config.Config) {
		cfg.Gateway.EnrolPerMinute, cfg.Gateway.ConnectPerSec = 1e9, 1e6 // all come from one address
		cfg.Gateway.Ping = config.Duration(5 * time.Minute)
		cfg.Admin.Listen = freePort(t)
	}}, "a.example")
	if err != nil {
		t.Fatal(err)
	}
	n := spawn(t, c.File("a.example"))
	defer n.stop(t)
	open := func(from, to int) []*rawSession {
		list := make([]*rawSession, to-from)
		var all sync.WaitGroup
		var next atomic.Int64
		for range 8 {
			all.Go(func() {
				for i := int(next.Add(1)) - 1; i < len(list); i = int(next.Add(1)) - 1 {
					var err error
					if list[i], err = dialRaw(t.Context(), c, "a.example", fmt.Sprintf("user%d", from+i), func(*wire.Push) {}); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		if t.Failed() {
			t.FailNow()
		}
		return list
	}
	warm := open(0, sessions/10) // memory that the first sessions make the node hold permanently is not counted
	admin := c.Config("a.example").Admin.Listen
	before, beforeResident := held(t, admin), resident(t, n.cmd.Process.Pid)
	start := time.Now()
	list := open(sessions/10, sessions/10+sessions)
	took := time.Since(start).Round(time.Second)
	each := (held(t, admin) - before) / sessions
	all := (resident(t, n.cmd.Process.Pid) - beforeResident) / sessions
	t.Logf("%d idle sessions, enrolled and opened in %v: %d bytes of heap and stacks each; %d of resident memory, with what their enrolment left",
		sessions, took, each, all)
	if sessions >= 10_000 && each > 32<<10 {
		t.Errorf("more than 32 KiB")
	}
	for _, s := range append(warm, list...) {
		s.close()
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// held returns the live heap and the stacks of a node after a garbage collection, in bytes.
func held(t *testing.T, admin string) int {
	t.Helper()
	get := func(path string) string {
		r, err := http.Get("http://" + admin + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil || r.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s (%v)", path, r.Status, err)
		}
		return string(b)
	}
	get("/debug/pprof/heap?gc=1")
	sum, found := 0, 0
	for _, line := range strings.Split(get("/metrics"), "\n") {
		name, value, _ := strings.Cut(line, " ")
		if name != "go_memstats_heap_alloc_bytes" && name != "go_memstats_stack_inuse_bytes" {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += int(v)
		found++
	}
	if found != 2 {
		t.Fatalf("found %d of 2 figures in the metrics", found)
	}
	return sum
}

// resident returns the resident memory of a process, in bytes.
func resident(t *testing.T, pid int) int {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			n, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}
