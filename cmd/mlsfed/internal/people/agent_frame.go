package people

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

// Only one process at a time can have a profile's store open. A process that keeps it open for long (chat, read
// --follow, agent) is the holder: it listens on a socket in the profile's folder and runs the commands of other
// processes, the callers, with its own device. A command that the holder runs is a guest.
//
//	caller                           holder
//	  ── run (arguments, folder) ──▶
//	  ◀── taken, or refused ────────
//	  ◀── out, err, position ───────   what the command prints, and where it would go on
//	  ◀── flush ── flushed ────────▶   before the command marks as done what it has printed
//	  ◀── want ── input ───────────▶   standard input, when the command reads it
//	  ◀── execute ── executed ─────▶   a program, which is the caller's child
//	  ── size, interrupt ──────────▶
//	  ◀── ended (exit code) ────────
//
// A frame is the length as four bytes in big-endian order, and an agentFrame in CBOR.

// agentVersion is the version of these frames. A holder refuses a caller with another version.
const agentVersion = 3

// Limits of what crosses the socket, in bytes: a frame, and the part of a stream in one frame. An argument of a
// command has at most 128 KiB on Linux, and the input of a program is one message.
const (
	maxAgentFrame = 4 << 20
	agentChunk    = 32 << 10
)

// agentKind is the kind of a frame.
type agentKind uint8

// The kinds, and the fields that are set in addition to Kind.
const (
	agentRun       agentKind = iota + 1 // from the caller, first: Request
	agentStop                           // from the caller, first: asks the holder to end
	agentInput                          // from the caller: Data; none at the end of the input
	agentSize                           // from the caller: Width and Height of its terminal, in cells
	agentInterrupt                      // from the caller: asks the command to end
	agentExecuted                       // from the caller: Data, what the program printed; Text, how it failed
	agentTaken                          // the command begins
	agentRefused                        // Text; or Again, if the holder is about to end
	agentWant                           // input
	agentOut                            // Data
	agentErr                            // Data
	agentExecute                        // Execute
	agentPosition                       // Position
	agentEnded                          // Code; or Again, if the caller has to continue the command by itself
	agentFlush                          // the caller answers when it has written all output before
	agentFlushed                        // from the caller
	agentKinds                          // the number of kinds plus one
)

// agentFrame is a message on the socket.
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
	Position *Position     `cbor:"10,keyasint,omitempty"`
}

// agentRequest is a command that a caller asks the holder to run.
type agentRequest struct {
	Version   uint8     `cbor:"1,keyasint"`
	Arguments [][]byte  `cbor:"2,keyasint"` // after the name of the program
	Folder    []byte    `cbor:"3,keyasint"` // that the command runs in
	In        bool      `cbor:"4,keyasint,omitempty"`
	Out       bool      `cbor:"5,keyasint,omitempty"`
	Err       bool      `cbor:"6,keyasint,omitempty"` // whether each is a terminal
	Colours   bool      `cbor:"7,keyasint,omitempty"` // that terminal shows colours
	From      *Position `cbor:"8,keyasint,omitempty"` // where an earlier process of this command has ended
	Zone      []byte    `cbor:"9,keyasint,omitempty"` // the caller's TZ, where HasZone says that it is set
	HasZone   bool      `cbor:"10,keyasint,omitempty"`
	Home      []byte    `cbor:"11,keyasint,omitempty"` // the person's folder
	Height    uint16    `cbor:"12,keyasint,omitempty"` // of the terminal that it prints to, in lines; 0 if not known
}

// agentProgram is a program that the caller runs through the shell.
type agentProgram struct {
	Command     []byte   `cbor:"1,keyasint"`
	Environment [][]byte `cbor:"2,keyasint,omitempty"` // NAME=VALUE, in addition to the caller's own
	Input       []byte   `cbor:"3,keyasint,omitempty"`
	Capture     bool     `cbor:"4,keyasint,omitempty"` // return the output instead of showing it
}

// Position is the place at which a long command continues in another process.
type Position struct {
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

// errOtherVersion reports that the received data is no frame of this version.
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

// readWithin is read with a timeout.
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

// IsTerminal reports whether the output goes to a terminal.
func (s *agentStream) IsTerminal() bool { return s.terminal }
