package federation

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/federation/outbox"
	"github.com/mlsfed/mlsfed/federation/outbox/lanestore"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/store/pebblestore"
	"github.com/mlsfed/mlsfed/store/pebblestore/pebbletest"
	"github.com/mlsfed/mlsfed/wire"
)

// The crash tests run this binary again, once as the node that sends and once as the one that receives,
// with a bad network between them, and kill them with SIGKILL.
const (
	crashRole      = "MLSFED_FEDERATION_CRASH"
	crashDir       = "MLSFED_FEDERATION_CRASH_DIR"
	crashAdvertise = "MLSFED_FEDERATION_CRASH_ADVERTISE"
	crashFrom      = "MLSFED_FEDERATION_CRASH_FROM" // how many of each lane are accepted
	crashCount     = "MLSFED_FEDERATION_CRASH_COUNT"
	crashLanes     = 20
)

func crashLane(l int) wire.ConversationID {
	return wire.ConversationID(fmt.Sprintf("conversation-%02d", l))
}

// childOfCrashTest does the work if this process is a child. It never returns from it.
func childOfCrashTest() bool {
	role := os.Getenv(crashRole)
	if role == "" {
		return false
	}
	var err error
	if role == "sender" {
		err = crashSender(os.Getenv(crashDir))
	} else {
		err = crashReceiver(os.Getenv(crashDir))
	}
	fmt.Fprintln(os.Stderr, role, err)
	os.Exit(3)
	return true
}

// crashNode runs a federation and prints its address.
func crashNode(dir string, edit func(*Config)) (*Federation, <-chan error, error) {
	id, err := organization.LoadIdentity(dir)
	if err != nil {
		return nil, nil, err
	}
	peers, err := organization.OpenPeers(filepath.Join(dir, "peers"))
	if err != nil {
		return nil, nil, err
	}
	cfg := Config{Identity: id, Peers: peers, Listen: "127.0.0.1:0", Advertise: os.Getenv(crashAdvertise), Dir: dir}
	fast(&cfg)
	cfg.Timers.Call, cfg.Timers.Stall, cfg.Timers.KeepAlive = 2*time.Second, 500*time.Millisecond, 500*time.Millisecond
	cfg.Limits.Calls, cfg.Limits.CallBurst = 1e6, 1e6
	edit(&cfg)
	l := make(chan error, 1)
	f, err := New(cfg)
	if err != nil {
		return nil, nil, err
	}
	go func() { l <- f.Run(context.Background()) }()
	select {
	case <-f.Ready():
	case err := <-l:
		return nil, nil, err
	}
	fmt.Println("listens", f.bound) // Ready is closed after it was set
	return f, l, nil
}

// crashSender continues after the message that its arguments give for each lane, and prints each accepted message.
func crashSender(dir string) error {
	db, err := pebblestore.Open(filepath.Join(dir, "db"), pebblestore.Options{})
	if err != nil {
		return err
	}
	kept := db.Store(mailbox.Config{})
	f, failed, err := crashNode(dir, func(*Config) {})
	if err != nil {
		return err
	}
	o, err := outbox.New(kept.Lanes(), outbox.Config{Link: f, BatchItems: 64, Timeout: 5 * time.Second,
		RetryMin: 5 * time.Millisecond, RetryMax: 100 * time.Millisecond})
	if err != nil {
		return err
	}
	ended := make(chan error, 3)
	go func() { ended <- kept.Run(context.Background()) }()
	go func() { ended <- o.Run(context.Background()) }()
	go func() { ended <- <-failed }()
	count, err := strconv.Atoi(os.Getenv(crashCount))
	if err != nil {
		return err
	}
	go func() { ended <- crashProduce(o, kept.Lanes(), count) }()
	return <-ended
}

func crashProduce(o *outbox.Outbox, lanes lanestore.Store, count int) error {
	var out sync.Mutex
	var all sync.WaitGroup
	failed := make(chan error, crashLanes)
	for l, from := range strings.Split(os.Getenv(crashFrom), ",") {
		at, err := strconv.Atoi(from)
		if err != nil {
			return err
		}
		all.Go(func() {
			for n := at; n < count; n++ {
				if err := o.Put(context.Background(), crashItem(l, n)); err != nil {
					failed <- err
					return
				}
				out.Lock()
				fmt.Println("accepted", l, n)
				out.Unlock()
			}
		})
	}
	all.Wait()
	select {
	case err := <-failed:
		return err
	default:
	}
	if _, err := lanes.Append(context.Background()); err != nil { // waits until what waited when this process began is among the lanes
		return err
	}
	for len(o.Lanes()) > 0 {
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Println("done")
	select {}
}

func crashItem(l, n int) lanestore.Item {
	id := wire.SubmissionID{1, byte(l)}
	binary.BigEndian.PutUint32(id[12:], uint32(n))
	m := wire.Message{Version: wire.MessageVersion, Conversation: crashLane(l), ID: id, Content: fmt.Appendf(nil, "%d %d", l, n),
		Signature: make([]byte, 64)}
	b, err := wire.Encode(&m)
	if err != nil {
		panic(err)
	}
	return lanestore.Item{Organization: orgB, Conversation: m.Conversation, ID: id, Payload: b}
}

// crashStore is a receiver that keeps each message once, by its id, in the order of arrival, and answers
// when it is on disk.
type crashStore struct {
	box   mailbox.Box
	locks [crashLanes]sync.Mutex
}

var crashReader = wire.Token{1}

func crashReceiver(dir string) error {
	db, err := pebblestore.Open(filepath.Join(dir, "db"), pebblestore.Options{})
	if err != nil {
		return err
	}
	kept := db.Store(mailbox.Config{})
	s := &crashStore{box: kept.Mailbox()}
	_, failed, err := crashNode(dir, func(c *Config) {
		c.Handlers = map[wire.Method]Handler{wire.CallNotify: s.notify}
	})
	if err != nil {
		return err
	}
	ended := make(chan error, 2)
	go func() { ended <- kept.Run(context.Background()) }()
	go func() { ended <- <-failed }()
	return <-ended
}

func (s *crashStore) notify(_ context.Context, _ wire.NodeID, body []byte) (any, error) {
	var r wire.NotifyRequest
	if err := wire.Decode(body, len(body), &r); err != nil {
		return nil, err
	}
	if len(r.Messages) == 0 {
		return nil, wire.Errorf(wire.Malformed, "notify", "no message")
	}
	l, err := strconv.Atoi(strings.TrimPrefix(string(r.Messages[0].Conversation), "conversation-"))
	if err != nil {
		return nil, err
	}
	s.locks[l].Lock()
	defer s.locks[l].Unlock()
	answer := &wire.NotifyAnswer{Results: make([]*wire.Error, len(r.Messages))}
	var puts []mailbox.Put
	for i, m := range r.Messages {
		if rand.IntN(500) == 0 { // one in a while has to wait, with all after it
			for ; i < len(r.Messages); i++ {
				answer.Results[i] = wire.Errorf(wire.Busy, "notify", "later")
			}
			break
		}
		puts = append(puts, mailbox.Put{
			Stream: mailbox.Conversation(m.Conversation), ID: m.ID, Kind: mailbox.KindMessage, Payload: m.Content, Join: []wire.Token{crashReader},
		})
	}
	results, err := s.box.Put(context.Background(), puts...)
	if err != nil {
		return nil, err
	}
	for _, result := range results {
		if result.Err != nil {
			return nil, result.Err
		}
		fmt.Println("stored", l, result.Sequence)
	}
	return answer, nil
}

// numbers are those of a lane's messages, in the order in which they were stored.
func (s *crashStore) numbers(l int) []int {
	var list []int
	for after := uint64(0); ; after = uint64(len(list)) {
		page, err := s.box.Read(context.Background(), mailbox.Conversation(crashLane(l)), crashReader, after, mailbox.Limit{})
		if err != nil || page.Gap != nil {
			panic(fmt.Sprintf("lane %d: gap %v, %v", l, page.Gap, err))
		}
		for _, it := range page.Items {
			var lane, n int
			if c, _ := fmt.Sscan(string(it.Payload), &lane, &n); c != 2 || lane != l {
				panic(fmt.Sprintf("lane %d has %q", l, it.Payload))
			}
			list = append(list, n)
		}
		if !page.More {
			return list
		}
	}
}

// crashRun is the parent's view of both children.
type crashRun struct {
	t        *testing.T
	count    int // of each lane
	dirs     map[string]string
	proxies  map[string]*faultProxy
	children map[string]*exec.Cmd
	lines    chan [2]string // role and line; a line "" is the end of a child
	accepted [crashLanes]int
}

func (c *crashRun) start(role string) {
	c.t.Helper()
	cmd := exec.Command(os.Args[0])
	from := make([]string, crashLanes)
	for l, n := range c.accepted {
		from[l] = strconv.Itoa(n)
	}
	cmd.Env = append(os.Environ(), crashRole+"="+role, crashDir+"="+c.dirs[role], crashAdvertise+"="+c.proxies[role].address(),
		crashFrom+"="+strings.Join(from, ","), crashCount+"="+strconv.Itoa(c.count))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.children[role] = cmd
	go c.read(role, out)
}

func (c *crashRun) read(role string, out io.Reader) {
	in := bufio.NewReader(out)
	for {
		line, err := in.ReadString('\n')
		if err != nil { // and with it the last line, cut off
			c.lines <- [2]string{role, ""}
			return
		}
		c.lines <- [2]string{role, strings.TrimSpace(line)}
	}
}

// kill ends a child and takes in what it still said.
func (c *crashRun) kill(role string) {
	c.t.Helper()
	cmd := c.children[role]
	if err := cmd.Process.Kill(); err != nil {
		c.t.Fatal(err)
	}
	for ended := false; !ended; {
		l := <-c.lines
		if ended = l[0] == role && l[1] == ""; !ended {
			c.take(l)
		}
	}
	err := cmd.Wait()
	if cmd.ProcessState.ExitCode() != -1 {
		c.t.Fatalf("the %s ended by itself: %v", role, err)
	}
}

// take deals with a line and reports whether all is done.
func (c *crashRun) take(l [2]string) bool {
	c.t.Helper()
	role, line := l[0], l[1]
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "":
		c.t.Fatalf("the %s ended by itself", role)
	case "listens":
		c.proxies[role].aim(rest)
	case "accepted":
		var lane, n int
		if _, err := fmt.Sscan(rest, &lane, &n); err != nil || n != c.accepted[lane] {
			c.t.Fatalf("line %q, %d were accepted", line, c.accepted[lane])
		}
		c.accepted[lane]++
	case "done":
		return true
	}
	return false
}

// crash sends count messages over each lane while both sides are killed again and again, and looks at
// what the receiver has stored.
func crash(t *testing.T, count, killEvery int) {
	c := &crashRun{t: t, count: count, dirs: make(map[string]string), proxies: make(map[string]*faultProxy),
		children: make(map[string]*exec.Cmd), lines: make(chan [2]string, 64)}
	for role, d := range map[string]wire.Domain{"sender": "a.example", "receiver": orgB} {
		c.proxies[role] = newProxy(t, 0.02)
		address := c.proxies[role].address()
		c.dirs[role] = newOrganization(t, d, func(o *organization.InitOptions) { o.Address = address })
	}
	for role, other := range map[string]string{"sender": "receiver", "receiver": "sender"} {
		b, err := organization.ReadBundle(filepath.Join(c.dirs[other], "bundle.json"))
		if err != nil {
			t.Fatal(err)
		}
		peers, err := organization.OpenPeers(filepath.Join(c.dirs[role], "peers"))
		if err == nil {
			err = peers.Add(b)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	roles := []string{"receiver", "sender"}
	for _, r := range roles {
		c.start(r)
	}
	kills := 0
	for left, done := killEvery, false; !done; left-- {
		if left == 0 {
			role := roles[rand.IntN(2)]
			c.kill(role)
			c.start(role)
			kills++
			left = 1 + rand.IntN(2*killEvery)
		}
		done = c.take(<-c.lines)
	}
	for _, r := range roles {
		c.kill(r)
	}
	c.verify()
	t.Logf("%d messages over %d lanes, %d kills, faults of the network: %v to the receiver, %v to the sender",
		count*crashLanes, crashLanes, kills, c.proxies["receiver"].faulted(), c.proxies["sender"].faulted())
}

func (c *crashRun) verify() {
	c.t.Helper()
	kept := pebbletest.Folder(filepath.Join(c.dirs["receiver"], "db")).Open(c.t)
	defer kept.Close()
	s := &crashStore{box: kept.Mailbox()}
	for l := range crashLanes {
		got := s.numbers(l)
		for i, n := range got {
			if n != i {
				c.t.Fatalf("lane %d: message %d came as number %d", l, n, i)
			}
		}
		if len(got) != c.count {
			c.t.Fatalf("lane %d has %d messages of %d", l, len(got), c.count)
		}
	}
}

// TestOutboxKill is the short form of TestLongOutboxKill.
func TestOutboxKill(t *testing.T) {
	if testing.Short() {
		crash(t, 20, 100)
		return
	}
	crash(t, 100, 500)
}

// TestLongOutboxKill sends 100,000 messages over 20 lanes through a network that delays, cuts, swallows
// and damages, while both sides are killed again and again. Each message that was accepted arrives, once
// after the receiver's check, and each lane is in order.
func TestLongOutboxKill(t *testing.T) {
	switch os.Getenv("MLSFED_LONG") {
	case "full":
		crash(t, 5000, 1000)
	case "short":
		crash(t, 500, 800)
	default:
		t.Skip("set MLSFED_LONG to short or full: this takes minutes")
	}
}
