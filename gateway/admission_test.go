package gateway

import (
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/internal/admission"
	"github.com/mlsfed/mlsfed/wire"
)

// intolerant shuts an address out after two failures, for the length of a test.
func intolerant(c *Config) {
	c.Admission = admission.Limits{Failures: Rate{Burst: 2, Every: time.Hour}, ShutFirst: time.Hour, ShutLast: time.Hour}
}

// dialFrom opens a bare connection from an address of this machine.
func (w *world) dialFrom(ip string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}, Timeout: 10 * time.Second}
	conn, err := d.Dial("tcp", strings.TrimPrefix(w.base, "https://"))
	if err == nil {
		w.t.Cleanup(func() { _ = conn.Close() })
	}
	return conn, err
}

// TestLimitOfFailures: whatever a stranger does instead of logging in counts, and after the third time he
// is not even shaken hands with. Others are not concerned.
func TestLimitOfFailures(t *testing.T) {
	for name, fail := range map[string]func(*world){
		"no TLS": func(w *world) {
			c, err := w.dialFrom("127.0.0.2")
			if err == nil {
				_, _ = c.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
				_, _ = c.Read(make([]byte, 100))
				_ = c.Close()
			}
		},
		"no request": func(w *world) {
			if c, err := w.dialFrom("127.0.0.2"); err == nil {
				s := tls.Client(c, &tls.Config{RootCAs: w.roots, ServerName: "127.0.0.1"})
				_ = s.Handshake()
				_ = s.Close()
			}
		},
		"no HTTP": func(w *world) {
			if c, err := w.dialFrom("127.0.0.2"); err == nil {
				s := tls.Client(c, &tls.Config{RootCAs: w.roots, ServerName: "127.0.0.1"})
				_, _ = s.Write([]byte("hello\r\n\r\n"))
				_, _ = s.Read(make([]byte, 100))
				_ = s.Close()
			}
		},
		"no login": func(w *world) {
			if c, err := w.from("127.0.0.2"); err == nil {
				_ = c.conn.Close()
			}
		},
		"a login that is refused": func(w *world) {
			if c, err := w.from("127.0.0.2"); err == nil {
				c.fail(laptop)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil, intolerant)
			eventually(t, "it is shut out", func() bool {
				fail(w)
				return w.value("refused_total", string(admission.Shut)) > 0
			})
			if _, err := w.from("127.0.0.2"); err == nil {
				t.Error("the address is let in")
			}
			w.login(phone, false)
		})
	}
}

// TestLimitOfSlowed: an address that a device logs in from is not shut out for what its neighbours do.
func TestLimitOfSlowed(t *testing.T) {
	w := newWorld(t, nil, intolerant, func(c *Config) { c.Admission.Slowed = Rate{Burst: 2, Every: time.Hour} })
	w.login(phone, true)
	for range 2 {
		c, err := w.from("127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		if code := c.fail(laptop); code != wire.CloseLogin {
			t.Fatalf("closed with %d", code)
		}
	}
	for range 2 {
		w.login(phone, false)
	}
	if _, err := w.from("127.0.0.1"); err == nil {
		t.Error("it is not slowed")
	}
	w.counted("refused_total", string(admission.Shut), 1)
}

// TestLimitOfUnproved: who stays before a request has come takes one of the places, three quarters of which
// are for strangers.
func TestLimitOfUnproved(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.Admission.Unproved = 4 })
	w.login(phone, true)
	var unresponsive []net.Conn
	for range 3 {
		c, err := w.dialFrom("127.0.0.2")
		if err != nil {
			t.Fatal(err)
		}
		unresponsive = append(unresponsive, c)
	}
	fourth, err := w.dialFrom("127.0.0.2")
	if err == nil {
		_, err = fourth.Read(make([]byte, 1))
	}
	if err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("the fourth: %v, wanted a reset", err)
	}
	w.counted("refused_total", string(admission.Overloaded), 1)
	w.login(laptop, true) // the last place is for a known address
	_ = unresponsive[0].Close()
	eventually(t, "there is a place again", func() bool {
		_, err := w.from("127.0.0.2")
		return err == nil
	})
}
