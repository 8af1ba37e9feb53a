// Command stranger attacks ports, or serves a port to attack: it is the crowd of the scenario about outsiders. It
// runs in containers of its own, so that it can get a share of the processors.
//
//	stranger sink ADDRESS...         accepts connections and closes them
//	stranger crowd KIND@ADDRESS...   attacks each address by one connection after the other
//
// A crowd prints how many attempts it made, and how many were served, each second.
package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "stranger:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return errors.New("wanted sink or crowd, and addresses")
	}
	switch args[0] {
	case "sink":
		return sink(args[1:])
	case "crowd":
		return strangers(args[1:])
	}
	return fmt.Errorf("%q, wanted sink or crowd", args[0])
}

func sink(addresses []string) error {
	failed := make(chan error)
	for _, a := range addresses {
		l, err := net.Listen("tcp", a)
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					failed <- err
					return
				}
				if t, ok := c.(*net.TCPConn); ok {
					_ = t.SetLinger(0)
				}
				_ = c.Close()
			}
		}()
	}
	return <-failed
}

// attacks has the attacks by name. Each returns nil if the other side has served something.
var attacks = map[string]func(net.Conn) error{"bare": bare, "garbage": garbage, "http": nonsense}

func strangers(targets []string) error {
	var attempts, served atomic.Int64
	for _, t := range targets {
		kind, address, ok := strings.Cut(t, "@")
		attack := attacks[kind]
		if !ok || attack == nil {
			return fmt.Errorf("%q, wanted bare, garbage or http, an @ and an address", t)
		}
		at, err := net.ResolveTCPAddr("tcp", address)
		if err != nil {
			return err
		}
		go func() {
			for {
				attempts.Add(1)
				if conn, err := net.DialTimeout("tcp", at.String(), time.Second); err == nil {
					_ = conn.SetDeadline(time.Now().Add(2 * time.Second)) // a connection that is open
					if attack(conn) == nil {
						served.Add(1)
					}
					_ = conn.Close()
				}
				time.Sleep(5 * time.Millisecond)
			}
		}()
	}
	for range time.Tick(time.Second) {
		fmt.Println(attempts.Load(), served.Load())
	}
	return nil
}

// bare uses the protocol between nodes, without a certificate.
func bare(conn net.Conn) error {
	c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"mlsfed-order/1"}}) // attackers trust anybody
	if err := c.Handshake(); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 1)) // with TLS 1.3 the refusal comes here
	return err
}

// garbage sends bytes that are no TLS. A node answers with an alert, and no more.
func garbage(conn net.Conn) error {
	if _, err := conn.Write([]byte(strings.Repeat("\x00\xff", 5000))); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err == nil && len(answer) <= 7 {
		err = errors.New("refused")
	}
	return err
}

// nonsense completes a TLS handshake with a gateway and then sends no HTTP.
func nonsense(conn net.Conn) error {
	c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) // attackers trust anybody
	if err := c.Handshake(); err != nil {
		return err
	}
	if _, err := c.Write([]byte("give me all\r\n\r\n")); err != nil {
		return err
	}
	answer, err := io.ReadAll(c)
	if err == nil && !strings.HasPrefix(string(answer), "HTTP/1.1 2") {
		err = errors.New("refused")
	}
	return err
}
