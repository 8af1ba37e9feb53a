package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// One process at a time has a profile's store open. Where that process runs for long (chat, read --follow, agent), it
// is the holder: it listens on a socket in the profile's folder and runs the commands of other processes, the callers,
// with its own device. A command that the holder runs is a guest.
//
//	caller                           holder
//	  ── run (arguments, folder) ──▶
//	  ◀── taken, or refused ────────
//	  ◀── out, err, position ───────   what the command prints, and where it would go on
//	  ◀── want ── input ───────────▶   standard input, when the command reads it
//	  ◀── execute ── executed ─────▶   a program, which is the caller's child
//	  ── size, interrupt ──────────▶
//	  ◀── ended (exit code) ────────
//
// Each frame is its length in bytes, four of them, the highest first, and an agentFrame in CBOR.

// agentVersion is the version of these frames. A holder and a caller of two versions do not talk.
const agentVersion = 1

// Limits of what crosses the socket, in bytes: a frame, and the part of a stream in one. An argument of a command has
// at most 128 KiB on Linux, and the input of a program is one message.
const (
	maxAgentFrame = 4 << 20
	agentChunk    = 32 << 10
)

// agentKind is what a frame is.
type agentKind uint8

// The kinds, and what is set beside Kind.
const (
	agentRun       agentKind = iota + 1 // from the caller, first: Request
	agentStop                           // from the caller, first: the holder is to end
	agentInput                          // from the caller: Data; none at the end of the input
	agentSize                           // from the caller: Width and Height of its terminal, in cells
	agentInterrupt                      // from the caller: the command is to end
	agentExecuted                       // from the caller: Data, what the program printed; Text, how it failed
	agentTaken                          // the command begins
	agentRefused                        // Text; or Again, if the holder is about to end
	agentWant                           // input
	agentOut                            // Data
	agentErr                            // Data
	agentExecute                        // Execute
	agentPosition                       // Position
	agentEnded                          // Code; or Again, if the caller is to go on with the command by itself
	agentKinds                          // the number of kinds, and one
)

// agentFrame is what crosses the socket.
type agentFrame struct {
	Kind     agentKind     `cbor:"1,keyasint"`
	Data     []byte        `cbor:"2,keyasint,omitempty"`
	Text     string        `cbor:"3,keyasint,omitempty"`
	Code     uint8         `cbor:"4,keyasint,omitempty"`
	Again    bool          `cbor:"5,keyasint,omitempty"`
	Width    uint16        `cbor:"6,keyasint,omitempty"`
	Height   uint16        `cbor:"7,keyasint,omitempty"`
	Request  *agentRequest `cbor:"8,keyasint,omitempty"`
	Execute  *agentProgram `cbor:"9,keyasint,omitempty"`
	Position *position     `cbor:"10,keyasint,omitempty"`
}

// agentRequest is a command that a caller wants to be run.
type agentRequest struct {
	Version   uint8     `cbor:"1,keyasint"`
	Arguments [][]byte  `cbor:"2,keyasint"` // after the name of the program
	Folder    []byte    `cbor:"3,keyasint"` // that the command runs in
	In        bool      `cbor:"4,keyasint,omitempty"`
	Out       bool      `cbor:"5,keyasint,omitempty"`
	Err       bool      `cbor:"6,keyasint,omitempty"` // whether each is a terminal
	Colours   bool      `cbor:"7,keyasint,omitempty"` // that terminal shows colours
	From      *position `cbor:"8,keyasint,omitempty"` // where an earlier process of this command has ended
}

// agentProgram is a program that the caller runs, by the shell.
type agentProgram struct {
	Command     []byte   `cbor:"1,keyasint"`
	Environment [][]byte `cbor:"2,keyasint,omitempty"` // NAME=VALUE, beside the caller's own
	Input       []byte   `cbor:"3,keyasint,omitempty"`
	Capture     bool     `cbor:"4,keyasint,omitempty"` // what it prints is wanted, instead of shown
}

// position is where a command that runs for long goes on in another process.
type position struct {
	Conversation string `cbor:"1,keyasint,omitempty"` // id in hexadecimal
	Next         uint64 `cbor:"2,keyasint,omitempty"` // number of the first message that was not shown
	Draft        string `cbor:"3,keyasint,omitempty"` // what the person was writing
}

// Check implements wire.Checker.
func (f *agentFrame) Check() error {
	if f.Kind == 0 || f.Kind >= agentKinds {
		return fmt.Errorf("a frame of kind %d, which this mlsfed does not know", f.Kind)
	}
	if (f.Request != nil) != (f.Kind == agentRun) || (f.Execute != nil) != (f.Kind == agentExecute) || f.Position != nil && f.Kind != agentPosition {
		return fmt.Errorf("a frame of kind %d with the fields of another", f.Kind)
	}
	return nil
}

// agentConn is one side of a connection. Its writes may come from several goroutines; one reads.
type agentConn struct {
	net.Conn
	mu sync.Mutex // held for a write
}

func (c *agentConn) write(f *agentFrame) error {
	b, err := wire.Encode(f)
	if err != nil {
		return err
	}
	if len(b) > maxAgentFrame {
		return fmt.Errorf("a frame of %d bytes, at most %d are taken", len(b), maxAgentFrame)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err = c.Conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

// errOtherVersion: what came is no frame of this version.
var errOtherVersion = errors.New("the mlsfed at the other side is of another version")

func (c *agentConn) read() (*agentFrame, error) { return readAgentFrame(c.Conn) }

func readAgentFrame(r io.Reader) (*agentFrame, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxAgentFrame {
		return nil, fmt.Errorf("%w: a frame of %d bytes, at most %d are taken", errOtherVersion, n, maxAgentFrame)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	f := new(agentFrame)
	if err := wire.Decode(b, maxAgentFrame, f); err != nil {
		return nil, fmt.Errorf("%w: %w", errOtherVersion, err)
	}
	return f, nil
}

// readWithin is read that fails after a time.
func (c *agentConn) readWithin(t time.Duration) (*agentFrame, error) {
	if err := c.SetReadDeadline(time.Now().Add(t)); err != nil {
		return nil, err
	}
	f, err := c.read()
	return f, errors.Join(err, c.SetReadDeadline(time.Time{}))
}

// agentStream writes what a guest prints to its caller.
type agentStream struct {
	conn     *agentConn
	kind     agentKind
	terminal bool
}

// Write implements io.Writer.
func (s *agentStream) Write(b []byte) (int, error) {
	for done := 0; done < len(b); done += agentChunk {
		if err := s.conn.write(&agentFrame{Kind: s.kind, Data: b[done:min(done+agentChunk, len(b))]}); err != nil {
			return done, err
		}
	}
	return len(b), nil
}

// isTerminal reports whether a person looks at what is written.
func (s *agentStream) isTerminal() bool { return s.terminal }
