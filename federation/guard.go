package federation

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/memberlist"
)

// Input for memberlist is checked first: memberlist is made for peers that trust each other. It allocates what a
// header announces, unpacks what is compressed without a bound, and indexes into versions without looking at their
// length.

// The types of memberlist's messages.
const (
	mlPing     = 0
	mlIndirect = 1
	mlAck      = 2
	mlSuspect  = 3
	mlAlive    = 4
	mlDead     = 5
	mlPushPull = 6
	mlCompound = 7
	mlUser     = 8
	mlNack     = 11
	mlCRC      = 12
	mlError    = 13
)

// maxCompound is how deep packets nest: a checksum around a compound of messages.
const maxCompound = 2

// checkPacket refuses a packet with messages that have no business in it.
func checkPacket(b []byte, depth int) error {
	if len(b) == 0 {
		return errors.New("an empty message")
	}
	kind, rest := b[0], b[1:]
	switch kind {
	case mlPing, mlIndirect, mlAck, mlSuspect, mlAlive, mlDead, mlUser, mlNack:
		return nil
	case mlCRC:
		if len(rest) < 5 || depth > maxCompound {
			return errors.New("a checksum around nothing, or too deep")
		}
		return checkPacket(rest[4:], depth+1)
	case mlCompound:
		if depth > maxCompound {
			return errors.New("compounds nest too deep")
		}
		return checkCompound(rest, depth+1)
	}
	return fmt.Errorf("a message of type %d", kind)
}

// checkCompound goes through the parts: their number, their lengths, and they themselves.
func checkCompound(b []byte, depth int) error {
	if len(b) == 0 || len(b)-1 < 2*int(b[0]) {
		return errors.New("a compound that is cut off")
	}
	n := int(b[0])
	lengths, parts := b[1:1+2*n], b[1+2*n:]
	for ; len(lengths) > 0; lengths = lengths[2:] {
		size := int(binary.BigEndian.Uint16(lengths))
		if size > len(parts) {
			return errors.New("a part that is cut off")
		}
		if err := checkPacket(parts[:size], depth); err != nil {
			return err
		}
		parts = parts[size:]
	}
	return nil
}

// Bounds of an exchange of state.
const (
	maxStates   = 4096 // nodes
	maxErrorLen = 1024
)

// readStream reads one whole message of a stream, at most limit bytes, and returns it as memberlist will read it.
// Bytes after it are left unread.
func readStream(r io.Reader, limit int) ([]byte, error) {
	p := &packed{in: bufio.NewReader(io.LimitReader(r, int64(limit)))}
	kind, err := p.byte()
	if err != nil {
		return nil, err
	}
	switch kind {
	case mlPushPull:
		err = p.pushPull(limit)
	case mlPing:
		err = p.fields(map[string]check{"SeqNo": number(0, 1<<32-1), "Node": text(253),
			"SourceAddr": text(16), "SourcePort": number(0, 1<<16-1), "SourceNode": text(253)})
	case mlAck:
		err = p.fields(map[string]check{"SeqNo": number(0, 1<<32-1), "Payload": text(1024)})
	case mlError:
		err = p.fields(map[string]check{"Error": text(maxErrorLen)})
	default:
		err = fmt.Errorf("a stream with a message of type %d", kind)
	}
	if err != nil {
		return nil, err
	}
	return p.out, nil
}

// pushPull is a header, the states of nodes, and what the delegate has to say.
func (p *packed) pushPull(limit int) error {
	var nodes, state int64
	if err := p.fields(map[string]check{
		"Nodes": keep(&nodes, number(0, maxStates)), "UserStateLen": keep(&state, number(0, int64(limit))), "Join": flag,
	}); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	for range nodes {
		if err := p.fields(map[string]check{
			"Name": text(253), "Addr": text(16), "Port": number(0, 1<<16-1), "Meta": text(memberlist.MetaMaxSize),
			"Incarnation": number(0, 1<<32-1), "State": number(0, 3), "Vsn": versions,
		}); err != nil {
			return fmt.Errorf("state of a node: %w", err)
		}
	}
	return p.copy(int(state))
}

// check holds what the value of a field must be.
type check func(v value) error

// value is one value of MessagePack: a number, a flag, or bytes.
type value struct {
	kind  byte // 'n', 'b', 's'; 0 is nil
	n     int64
	bytes []byte
}

func number(low, high int64) check {
	return func(v value) error {
		if v.kind != 'n' || v.n < low || v.n > high {
			return fmt.Errorf("wanted a number from %d to %d", low, high)
		}
		return nil
	}
}

func keep(to *int64, c check) check {
	return func(v value) error {
		*to = v.n
		return c(v)
	}
}

func text(longest int) check {
	return func(v value) error {
		if v.kind != 0 && v.kind != 's' || len(v.bytes) > longest {
			return fmt.Errorf("wanted at most %d bytes", longest)
		}
		return nil
	}
}

func flag(v value) error {
	if v.kind != 'b' {
		return errors.New("wanted true or false")
	}
	return nil
}

// versions are none, or the six that this memberlist knows: least, greatest and current of the protocol
// and of the delegate. A node that claims others would keep all from exchanging state.
func versions(v value) error {
	if v.kind == 0 || v.kind == 's' && len(v.bytes) == 0 {
		return nil
	}
	if v.kind != 's' || len(v.bytes) != 6 || !knownVersions([6]uint8(v.bytes)) {
		return errors.New("wanted the six versions of this protocol")
	}
	return nil
}

func knownVersions(v [6]uint8) bool {
	return v == [6]uint8{memberlist.ProtocolVersionMin, memberlist.ProtocolVersionMax, memberlist.ProtocolVersion2Compatible, 0, 0, 0}
}

// packed reads MessagePack and keeps what it has read.
type packed struct {
	in  *bufio.Reader
	out []byte
}

func (p *packed) byte() (byte, error) {
	b, err := p.in.ReadByte()
	if err != nil {
		return 0, cutOff(err)
	}
	p.out = append(p.out, b)
	return b, nil
}

func cutOff(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// copy takes n bytes over. It grows with what comes, not with what was announced.
func (p *packed) copy(n int) error {
	for n > 0 {
		step := min(n, 16<<10)
		at := len(p.out)
		p.out = append(p.out, make([]byte, step)...)
		if _, err := io.ReadFull(p.in, p.out[at:]); err != nil {
			return cutOff(err)
		}
		n -= step
	}
	return nil
}

// fields reads a map with some of the fields, each once at most.
func (p *packed) fields(known map[string]check) error {
	b, err := p.byte()
	if err != nil {
		return err
	}
	if b&0xf0 != 0x80 {
		return fmt.Errorf("byte %#x, wanted a map of less than 16", b)
	}
	seen := make(map[string]bool, len(known))
	for range b & 0x0f {
		key, err := p.value(32)
		if err != nil {
			return err
		}
		name := string(key.bytes)
		want := known[name]
		if key.kind != 's' || want == nil || seen[name] {
			return fmt.Errorf("field %q is unknown or repeated", name)
		}
		seen[name] = true
		v, err := p.value(64 << 10)
		if err != nil {
			return fmt.Errorf("field %s: %w", name, err)
		}
		if err := want(v); err != nil {
			return fmt.Errorf("field %s: %w", name, err)
		}
	}
	return nil
}

// value reads one value, of at most longest bytes.
func (p *packed) value(longest int) (value, error) {
	b, err := p.byte()
	if err != nil {
		return value{}, err
	}
	switch {
	case b < 0x80:
		return value{kind: 'n', n: int64(b)}, nil
	case b >= 0xe0:
		return value{kind: 'n', n: int64(int8(b))}, nil
	case b&0xe0 == 0xa0:
		return p.bytes(int(b&0x1f), longest)
	}
	switch b {
	case 0xc0:
		return value{}, nil
	case 0xc2, 0xc3:
		return value{kind: 'b', n: int64(b & 1)}, nil
	case 0xc4, 0xd9:
		return p.sized(1, longest)
	case 0xc5, 0xda:
		return p.sized(2, longest)
	case 0xc6, 0xdb:
		return p.sized(4, longest)
	case 0xcc, 0xcd, 0xce, 0xcf:
		n, err := p.uint(1 << (b - 0xcc))
		if err == nil && n > 1<<62 {
			err = errors.New("a number that is too large")
		}
		return value{kind: 'n', n: int64(n)}, err
	case 0xd0, 0xd1, 0xd2, 0xd3:
		size := 1 << (b - 0xd0)
		n, err := p.uint(size)
		shift := 64 - 8*size
		return value{kind: 'n', n: int64(n<<shift) >> shift}, err
	}
	return value{}, fmt.Errorf("byte %#x begins no value that belongs here", b)
}

func (p *packed) sized(lengthBytes, longest int) (value, error) {
	n, err := p.uint(lengthBytes)
	if err != nil {
		return value{}, err
	}
	if n > uint64(longest) {
		return value{}, fmt.Errorf("%d bytes, at most %d", n, longest)
	}
	return p.bytes(int(n), longest)
}

func (p *packed) bytes(n, longest int) (value, error) {
	if n > longest {
		return value{}, fmt.Errorf("%d bytes, at most %d", n, longest)
	}
	at := len(p.out)
	err := p.copy(n)
	return value{kind: 's', bytes: p.out[at:]}, err
}

func (p *packed) uint(size int) (uint64, error) {
	var n uint64
	for range size {
		b, err := p.byte()
		if err != nil {
			return 0, err
		}
		n = n<<8 | uint64(b)
	}
	return n, nil
}
