package discovery

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestUnreachableServer checks a web server that neither accepts nor refuses connections: Linux drops the SYN of a
// connection to a socket whose queue is full. A refused connection is the other case.
func TestUnreachableServer(t *testing.T) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(name.(*syscall.SockaddrInet4).Port)
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String()
	full := false
	for range 64 {
		conn, err := net.DialTimeout("tcp", at, 200*time.Millisecond)
		if err != nil {
			full = true
			break
		}
		defer conn.Close()
	}
	if !full {
		t.Fatal("the queue of the socket does not become full")
	}
	w := newWorld(t)
	f := w.finder(t, port, func(s *Settings) { s.Timeouts = Timeouts{Connect: 300 * time.Millisecond} })
	before := goleak.IgnoreCurrent()
	_, err = w.find(t, f)
	checkError(t, err, ReasonConnect, "no connection to mlsfed.b.example: its web server does not answer at 127.0.0.1")
	goleak.VerifyNone(t, before)

	_, err = w.find(t, w.finder(t, 1, nil)) // nobody listens at port 1
	checkError(t, err, ReasonConnect, "no connection to mlsfed.b.example")
}
