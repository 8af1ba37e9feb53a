package gateway

import (
	"bufio"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mlsfed/mlsfed/wire"
)

// The environment of the process with the clients: the address, their number, the root certificate.
const (
	idleURL   = "GATEWAY_IDLE_URL"
	idleCount = "GATEWAY_IDLE_COUNT"
	idleRoot  = "GATEWAY_IDLE_ROOT"
)

// mostOfIdleSession is what one may take of the node's memory, in bytes.
const mostOfIdleSession = 32 << 10

// TestLongIdleSessions opens 10,000 sessions over TLS from another process and measures what they take of
// this one: its heap and stacks, and what the system counts as resident.
func TestLongIdleSessions(t *testing.T) {
	sessions := 10_000
	switch os.Getenv("MLSFED_LONG") {
	case "full", "short":
	default:
		t.Skip("opens 10,000 sessions: set MLSFED_LONG to short or full")
	}
	w := newWorld(t, nil, func(c *Config) {
		c.MaxOfAddress, c.ConnectRate = sessions, Rate{Burst: sessions, Every: time.Millisecond}
	})
	devices := anyDevice{w.devices}
	w.cfg.Devices = devices
	heap, resident := memory(t)
	began := time.Now()
	end := idleSwarm(t, w, sessions)
	took := time.Since(began)
	heapAfter, residentAfter := memory(t)
	each := func(before, after uint64) float64 {
		return (float64(after) - float64(before)) / float64(sessions)
	}
	t.Logf("%d idle sessions with TLS, opened in %.1f s: %.1f KiB each on heap and stacks, %.1f KiB resident, %d goroutines",
		w.Sessions(), took.Seconds(), each(heap, heapAfter)/1024, each(resident, residentAfter)/1024, runtime.NumGoroutine())
	if w.Sessions() != sessions {
		t.Errorf("%d sessions, wanted %d", w.Sessions(), sessions)
	}
	if perSession := each(heap, heapAfter); perSession > mostOfIdleSession {
		t.Errorf("%.0f bytes a session, at most %d", perSession, mostOfIdleSession)
	}
	// Sessions that were busy must shrink again: all get a push and acknowledge it.
	w.feeds.put(inbox, strings.Repeat("x", 8<<10))
	w.counted("frames_total", "in", float64(2*sessions))
	busy, busyResident := memory(t)
	t.Logf("after a push of 8 KiB to each: %.1f KiB each on heap and stacks, %.1f KiB resident", each(heap, busy)/1024, each(resident, busyResident)/1024)
	if perSession := each(heap, busy); perSession > mostOfIdleSession {
		t.Errorf("%.0f bytes a session after a push, at most %d", perSession, mostOfIdleSession)
	}
	end()
}

// anyDevice admits a device that signs with the key which belongs to its name.
type anyDevice struct{ *registered }

func (a anyDevice) key(d wire.DeviceID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys[d] = keyOf(d).Public().(ed25519.PublicKey)
}

// memory is what this process uses: heap and stacks, and resident.
func memory(t testing.TB) (heap, resident uint64) {
	t.Helper()
	runtime.GC()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skipf("needs /proc: %v", err)
	}
	pages, err := strconv.ParseUint(strings.Fields(string(b))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return m.HeapInuse + m.StackInuse, pages * uint64(os.Getpagesize())
}

// idleSwarm has another process open sessions, and returns when all are there.
func idleSwarm(t *testing.T, w *world, n int) (end func()) {
	t.Helper()
	a := anyDevice{w.devices}
	for i := range n {
		a.key(idleDevice(i))
	}
	swarm := exec.Command(os.Args[0])
	swarm.Env = append(os.Environ(), idleURL+"="+w.url, idleCount+"="+strconv.Itoa(n), idleRoot+"="+base64.StdEncoding.EncodeToString(w.rootPEM))
	swarm.Stderr = os.Stderr
	in, err := swarm.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := swarm.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := swarm.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		_ = in.Close()
		_, _ = io.Copy(io.Discard, out)
		_ = swarm.Wait()
	})
	t.Cleanup(end)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("the clients say %q, %v", line, err)
	}
	return end
}

func idleDevice(i int) wire.DeviceID {
	return wire.DeviceID(fmt.Sprintf("mimi://a.example/d/user%d/phone", i))
}

// idleClients is the process with the clients, if this one is.
func idleClients() bool {
	url := os.Getenv(idleURL)
	if url == "" {
		return false
	}
	if err := runIdle(url); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	return true
}

func runIdle(url string) error {
	n, err := strconv.Atoi(os.Getenv(idleCount))
	if err != nil {
		return err
	}
	pem, err := base64.StdEncoding.DecodeString(os.Getenv(idleRoot))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	dialer := &websocket.Dialer{
		TLSClientConfig: &tls.Config{RootCAs: roots}, Subprotocols: []string{wire.Subprotocol},
		ReadBufferSize: 1024, WriteBufferSize: 1024,
	}
	next, failed := make(chan int), make(chan error, 64)
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for i := range next {
				if err := idleSession(dialer, url, idleDevice(i)); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	for i := range n {
		select {
		case next <- i:
		case err := <-failed:
			return err
		}
	}
	close(next)
	all.Wait()
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

// idleSession logs in, and then acknowledges what comes and answers pings until the process ends.
func idleSession(dialer *websocket.Dialer, url string, d wire.DeviceID) error {
	conn, _, err := dialer.Dial(url, nil)
	if err != nil {
		return err
	}
	var f wire.Frame
	var c wire.Challenge
	if err := readFrame(conn, &f, &c); err != nil {
		return err
	}
	input, err := c.LoginInput(d)
	if err != nil {
		return err
	}
	if err := writeFrame(conn, wire.FrameLogin, &wire.Login{Device: d, Signature: ed25519.Sign(keyOf(d), input), Receive: true}); err != nil {
		return err
	}
	if err := readFrame(conn, &f, new(wire.Session)); err != nil {
		return err
	}
	go func() {
		var p wire.Push
		for readFrame(conn, &f, &p) == nil {
			if writeFrame(conn, wire.FrameAck, &wire.Ack{Conversation: p.Conversation, Token: p.Token, Sequence: p.Sequence}) != nil {
				return
			}
		}
	}()
	return nil
}

func readFrame(conn *websocket.Conn, f *wire.Frame, body any) error {
	_, b, err := conn.ReadMessage()
	if err != nil {
		return err
	}
	*f = wire.Frame{}
	if err := wire.Decode(b, wire.MaxSessionFrame, f); err != nil {
		return err
	}
	return wire.Decode(f.Body, wire.MaxSessionFrame, body)
}

func writeFrame(conn *websocket.Conn, t wire.FrameType, body any) error {
	b, err := frameOf(t, 0, body)
	if err != nil {
		return err
	}
	return conn.WriteMessage(websocket.BinaryMessage, b)
}
