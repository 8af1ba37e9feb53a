package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
)

// maxLine bounds the lines that are read from the other network, in bytes.
const maxLine = 64 << 10

// message is one line. A message with Ack acknowledges the message with that id, and has no other field.
type message struct {
	ID           string `json:"id,omitempty"`
	Conversation string `json:"conversation,omitempty"`
	From         string `json:"from,omitempty"`
	Text         string `json:"text,omitempty"`
	Ack          string `json:"ack,omitempty"`
}

// network is a connection to the other network.
type network struct {
	conn net.Conn

	mu      sync.Mutex
	waiting map[string]chan struct{} // sends that wait for an acknowledgement, by id
}

func dial(ctx context.Context, address string) (*network, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &network{conn: conn, waiting: make(map[string]chan struct{})}, nil
}

func (n *network) close() { n.conn.Close() }

// write writes one line.
func (n *network) write(m *message) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	_, err = n.conn.Write(append(b, '\n'))
	return err
}

// send sends a message, and returns when it has been acknowledged.
func (n *network) send(ctx context.Context, m *message) error {
	acknowledged := make(chan struct{})
	n.mu.Lock()
	n.waiting[m.ID] = acknowledged
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		delete(n.waiting, m.ID)
		n.mu.Unlock()
	}()
	if err := n.write(m); err != nil {
		return err
	}
	select {
	case <-acknowledged:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// read reads until the connection ends, and returns the error. It acknowledges a message once take has returned.
func (n *network) read(take func(*message) error) error {
	lines := bufio.NewScanner(n.conn)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var m message
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			return fmt.Errorf("read a line: %w", err)
		}
		if m.Ack != "" {
			n.mu.Lock()
			if acknowledged := n.waiting[m.Ack]; acknowledged != nil {
				close(acknowledged)
				delete(n.waiting, m.Ack)
			}
			n.mu.Unlock()
			continue
		}
		if err := take(&m); err != nil {
			return err
		}
		if err := n.write(&message{Ack: m.ID}); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return errors.New("the other network has closed the connection")
}
