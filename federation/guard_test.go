package federation

import (
	"bytes"
	"io"
	"log"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

// packedState is a push/pull message with one node's state and some of the delegate's.
func packedState(edit func(*packing)) []byte {
	p := &packing{nodes: 1, state: 3, versions: []byte{memberlist.ProtocolVersionMin, memberlist.ProtocolVersionMax, memberlist.ProtocolVersion2Compatible, 0, 0, 0}}
	if edit != nil {
		edit(p)
	}
	var b bytes.Buffer
	text := func(s string) { b.WriteByte(0xa0 | byte(len(s))); b.WriteString(s) }
	b.Write([]byte{mlPushPull, 0x83})
	text("Nodes")
	b.Write(p.number(p.nodes))
	text("UserStateLen")
	b.Write(p.number(p.state))
	text("Join")
	b.WriteByte(0xc3)
	for range min(max(p.nodes, 0), 3) {
		b.WriteByte(0x87)
		text("Name")
		text("n1.b.example")
		text("Addr")
		text(string(memberAddress("n1.b.example")))
		text("Port")
		b.WriteByte(1)
		text("Meta")
		b.WriteByte(0xc0)
		text("Incarnation")
		b.WriteByte(5)
		text("State")
		b.WriteByte(0)
		text("Vsn")
		text(string(p.versions))
	}
	b.WriteString("abc")
	return append(b.Bytes(), p.after...)
}

type packing struct {
	nodes, state int64
	versions     []byte
	after        []byte
}

// number is an int64 of MessagePack.
func (*packing) number(n int64) []byte {
	b := []byte{0xd3}
	for shift := 56; shift >= 0; shift -= 8 {
		b = append(b, byte(n>>shift))
	}
	return b
}

// TestReadStream holds what of a stream is passed on, and the edges of what is not.
func TestReadStream(t *testing.T) {
	good := packedState(nil)
	for name, c := range map[string]struct {
		in    []byte
		limit int
		ok    bool
	}{
		"good":                       {good, len(good), true},
		"with something after":       {packedState(func(p *packing) { p.after = []byte("more") }), 1 << 20, true},
		"over the limit":             {good, len(good) - 1, false},
		"most nodes, without them":   {packedState(func(p *packing) { p.nodes = maxStates }), 1 << 20, false},
		"too many nodes":             {packedState(func(p *packing) { p.nodes = maxStates + 1 }), 1 << 20, false},
		"minus one node":             {packedState(func(p *packing) { p.nodes = -1 }), 1 << 20, false},
		"minus one byte of state":    {packedState(func(p *packing) { p.state = -1 }), 1 << 20, false},
		"state over the limit":       {packedState(func(p *packing) { p.state = 1<<20 + 1 }), 1 << 20, false},
		"state that does not come":   {packedState(func(p *packing) { p.state = 4 }), 1 << 20, false},
		"one version":                {packedState(func(p *packing) { p.versions = p.versions[:1] }), 1 << 20, false},
		"no version":                 {packedState(func(p *packing) { p.versions = nil }), 1 << 20, true},
		"another version":            {packedState(func(p *packing) { p.versions[2] = 9 }), 1 << 20, false},
		"compressed":                 {[]byte{9, 0x81}, 1 << 20, false},
		"a message of users":         {[]byte{mlUser, 0x81}, 1 << 20, false},
		"a ping":                     {append([]byte{mlPing, 0x81, 0xa5}, "SeqNo\x05"...), 1 << 20, true},
		"an error":                   {append([]byte{mlError, 0x81, 0xa5}, "Error\xa2no"...), 1 << 20, true},
		"an unknown field":           {append([]byte{mlPing, 0x81, 0xa5}, "Other\x05"...), 1 << 20, false},
		"a field twice":              {append([]byte{mlPing, 0x82, 0xa5}, "SeqNo\x05\xa5SeqNo\x05"...), 1 << 20, false},
		"a number where text is due": {append([]byte{mlError, 0x81, 0xa5}, "Error\x05"...), 1 << 20, false},
		"nothing":                    {nil, 1 << 20, false},
	} {
		got, err := readStream(bytes.NewReader(c.in), c.limit)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if !bytes.HasPrefix(c.in, got) {
			t.Errorf("%s: %x became %x", name, c.in, got)
		}
	}
	for n := range good {
		if _, err := readStream(bytes.NewReader(good[:n]), 1<<20); err == nil {
			t.Errorf("%d of %d bytes were read as a message", n, len(good))
		}
	}
}

// TestCheckPacket holds how deep packets may nest.
func TestCheckPacket(t *testing.T) {
	b := []byte{mlUser, 1}
	for depth, want := range []bool{true, true, true, true, false} {
		if err := checkPacket(b, 0); (err == nil) != want {
			t.Errorf("compounds %d deep: %v", depth, err)
		}
		b = append([]byte{mlCompound, 1, 0, byte(len(b))}, b...)
	}
	if err := checkPacket([]byte{mlCRC, 0, 0, 0, 0, mlUser}, 0); err != nil {
		t.Errorf("checksum: %v", err)
	}
	if err := checkPacket([]byte{mlCRC, 0, 0, 0, 0}, 0); err == nil {
		t.Error("a checksum around nothing")
	}
}

// lonely is a transport that leads nowhere: memberlist gets what a test gives it.
type lonely struct {
	packets chan *memberlist.Packet
	streams chan net.Conn
}

func (l *lonely) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return memberAddress("n1.a.example"), 1, nil
}
func (l *lonely) PacketCh() <-chan *memberlist.Packet                 { return l.packets }
func (l *lonely) StreamCh() <-chan net.Conn                           { return l.streams }
func (l *lonely) Shutdown() error                                     { return nil }
func (l *lonely) WriteTo([]byte, string) (time.Time, error)           { return time.Now(), nil }
func (l *lonely) DialTimeout(string, time.Duration) (net.Conn, error) { return nil, io.EOF }
func (l *lonely) WriteToAddress([]byte, memberlist.Address) (time.Time, error) {
	return time.Now(), nil
}
func (l *lonely) DialAddressTimeout(memberlist.Address, time.Duration) (net.Conn, error) {
	return nil, io.EOF
}

// heard is a connection over which one message came.
type heard struct {
	net.Conn
	in     *bytes.Reader
	once   sync.Once
	closed chan struct{}
}

func (c *heard) Read(b []byte) (int, error)  { return c.in.Read(b) }
func (c *heard) Write(b []byte) (int, error) { return len(b), nil }
func (c *heard) SetDeadline(time.Time) error { return nil }
func (c *heard) RemoteAddr() net.Addr        { return &net.TCPAddr{} }
func (c *heard) Close() error                { c.once.Do(func() { close(c.closed) }); return nil }

// FuzzGuard gives memberlist what the guard lets through: it must survive it.
func FuzzGuard(f *testing.F) {
	l := &lonely{make(chan *memberlist.Packet), make(chan net.Conn)}
	cfg := memberlist.DefaultLocalConfig()
	cfg.Name, cfg.Transport, cfg.Logger = "n1.a.example", l, log.New(io.Discard, "", 0)
	cfg.ProbeInterval, cfg.PushPullInterval, cfg.DisableTcpPings = 0, 0, true
	m, err := memberlist.Create(cfg)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = m.Shutdown() })
	f.Add(packedState(nil))
	f.Add(packedState(func(p *packing) { p.versions = p.versions[:3] }))
	f.Add([]byte{mlCompound, 2, 0, 2, 0, 1, mlUser, 0, mlPing})
	f.Add(append([]byte{mlPing, 0x81, 0xa5}, "SeqNo\x05"...))
	f.Add(append([]byte{mlAlive, 0x82, 0xa4}, "Node\xa2n2\xa3Vsn\xa1\x01"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if checkPacket(b, 0) == nil {
			l.packets <- &memberlist.Packet{Buf: bytes.Clone(b), From: &net.TCPAddr{IP: memberAddress("n1.b.example"), Port: 1}, Timestamp: time.Now()}
		}
		message, err := readStream(bytes.NewReader(b), 64<<10)
		if err != nil {
			return
		}
		if !bytes.HasPrefix(b, message) {
			t.Fatalf("%x became %x", b, message)
		}
		c := &heard{in: bytes.NewReader(message), closed: make(chan struct{})}
		l.streams <- c
		<-c.closed
	})
}
