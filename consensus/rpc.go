package consensus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/wire"
)

// The encoding of Raft's calls. Numbers are big-endian; a variable part is preceded by its length in four bytes.
// Every message has exactly one encoding. The header that Raft requires in each message holds the sender's name,
// which the connection has proved: the receiver sets it, and it is never sent.

var errRPC = errors.New("malformed Raft message")

// maxAppend is the largest number of entries in one AppendEntries: with entries of up to 1 MiB it also limits the
// size of a frame.
const maxAppend = 16

type rpcWriter struct{ b []byte }

func (w *rpcWriter) u8(v uint8)   { w.b = append(w.b, v) }
func (w *rpcWriter) u64(v uint64) { w.b = binary.BigEndian.AppendUint64(w.b, v) }
func (w *rpcWriter) bytes(v []byte) {
	w.b = binary.BigEndian.AppendUint32(w.b, uint32(len(v)))
	w.b = append(w.b, v...)
}
func (w *rpcWriter) bool(v bool) {
	if v {
		w.u8(1)
		return
	}
	w.u8(0)
}

type rpcReader struct {
	b   []byte
	bad bool
}

func (r *rpcReader) take(n int) []byte {
	if r.bad || n < 0 || n > len(r.b) {
		r.bad = true
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *rpcReader) u8() uint8 {
	if v := r.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *rpcReader) u64() uint64 {
	if v := r.take(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

// bytes returns nil for an empty part, as Raft does.
func (r *rpcReader) bytes() []byte {
	v := r.take(4)
	if v == nil {
		return nil
	}
	n := binary.BigEndian.Uint32(v)
	if uint64(n) > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	if n == 0 {
		return nil
	}
	return r.take(int(n))
}

func (r *rpcReader) bool() bool {
	v := r.u8()
	if v > 1 {
		r.bad = true
	}
	return v == 1
}

func (r *rpcReader) end() error {
	if r.bad || len(r.b) > 0 {
		return errRPC
	}
	return nil
}

func encodeAppend(a *raft.AppendEntriesRequest) []byte {
	size := 4*8 + 1
	for _, l := range a.Entries {
		size += 3*8 + 1 + 8 + len(l.Data) + len(l.Extensions)
	}
	w := &rpcWriter{b: make([]byte, 0, size)}
	w.u64(a.Term)
	w.u64(a.PrevLogEntry)
	w.u64(a.PrevLogTerm)
	w.u64(a.LeaderCommitIndex)
	w.u8(uint8(len(a.Entries)))
	for _, l := range a.Entries {
		w.u64(l.Index)
		w.u64(l.Term)
		w.u8(uint8(l.Type))
		w.u64(uint64(appendedAt(l)))
		w.bytes(l.Data)
		w.bytes(l.Extensions)
	}
	return w.b
}

// appendedAt returns the time in nanoseconds since 1970, 0 for unknown.
func appendedAt(l *raft.Log) int64 {
	if l.AppendedAt.IsZero() {
		return 0
	}
	return l.AppendedAt.UnixNano()
}

func decodeAppend(b []byte) (*raft.AppendEntriesRequest, error) {
	r := &rpcReader{b: b}
	a := &raft.AppendEntriesRequest{Term: r.u64(), PrevLogEntry: r.u64(), PrevLogTerm: r.u64(), LeaderCommitIndex: r.u64()}
	n := r.u8()
	if n > maxAppend {
		return nil, fmt.Errorf("%w: %d entries, at most %d", errRPC, n, maxAppend)
	}
	for range n {
		l := &raft.Log{Index: r.u64(), Term: r.u64(), Type: raft.LogType(r.u8())}
		if ns := r.u64(); ns != 0 {
			l.AppendedAt = time.Unix(0, int64(ns))
		}
		// Copy the data: a kept entry must not keep the whole frame in memory.
		l.Data, l.Extensions = bytes.Clone(r.bytes()), bytes.Clone(r.bytes())
		a.Entries = append(a.Entries, l)
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	return a, checkEntries(a)
}

// maxPlace limits log indexes and terms: no sum of them overflows.
const maxPlace = 1 << 60

// checkEntries checks what Raft assumes about entries: indexes ascend without a gap from the previous one, the types
// are those that Raft produces today, and configurations can be decoded and are sound.
func checkEntries(a *raft.AppendEntriesRequest) error {
	if a.PrevLogEntry > maxPlace || a.LeaderCommitIndex > maxPlace || a.PrevLogTerm > a.Term {
		return fmt.Errorf("%w: after entry %d of term %d, committed to %d in term %d", errRPC, a.PrevLogEntry, a.PrevLogTerm, a.LeaderCommitIndex, a.Term)
	}
	for i, l := range a.Entries {
		if l.Index != a.PrevLogEntry+1+uint64(i) || l.Term > a.Term || l.Term == 0 {
			return fmt.Errorf("%w: entry %d of term %d at place %d after %d in term %d", errRPC, l.Index, l.Term, i, a.PrevLogEntry, a.Term)
		}
		if err := checkContent(l); err != nil {
			return fmt.Errorf("entry %d: %w", l.Index, err)
		}
	}
	return nil
}

// checkContent refuses types that would make Raft panic or that are no longer produced, and content in entries that
// must be empty.
func checkContent(l *raft.Log) error {
	if len(l.Extensions) > 0 || len(l.Data) > wire.MaxEntry {
		return fmt.Errorf("%w: %d bytes with %d of extensions", errRPC, len(l.Data), len(l.Extensions))
	}
	switch l.Type {
	case raft.LogCommand:
		return nil // see vet.go
	case raft.LogNoop, raft.LogBarrier:
		if len(l.Data) > 0 {
			return fmt.Errorf("%w: %d bytes in an entry of Raft's own", errRPC, len(l.Data))
		}
		return nil
	case raft.LogConfiguration:
		c, err := decodeConfiguration(l.Data)
		if err != nil {
			return err
		}
		return checkConfiguration(c)
	}
	return fmt.Errorf("%w: type %d", errRPC, l.Type)
}

// checkConfiguration refuses a configuration that no leader produces: one without a voter, with a node twice, or with
// a node without a name.
func checkConfiguration(c raft.Configuration) error {
	if len(c.Servers) > wire.MaxReplicas {
		return fmt.Errorf("%w: configuration of %d nodes, at most %d", errRPC, len(c.Servers), wire.MaxReplicas)
	}
	seen, voters := make(map[raft.ServerID]bool, len(c.Servers)), 0
	for _, s := range c.Servers {
		if err := wire.NodeID(s.ID).Check(); err != nil {
			return fmt.Errorf("%w: configuration: %v", errRPC, err)
		}
		if seen[s.ID] || string(s.Address) != string(s.ID) || s.Suffrage != raft.Voter && s.Suffrage != raft.Nonvoter {
			return fmt.Errorf("%w: configuration: %s at %q in part %d, or twice", errRPC, s.ID, s.Address, s.Suffrage)
		}
		seen[s.ID] = true
		if s.Suffrage == raft.Voter {
			voters++
		}
	}
	if voters == 0 {
		return fmt.Errorf("%w: configuration without a voter", errRPC)
	}
	return nil
}

// maxConfiguration limits the encoding of a configuration, in bytes: MaxReplicas nodes with two names each.
const maxConfiguration = wire.MaxReplicas * (2*wire.MaxDomain + 64)

// checkServers refuses a configuration with too many nodes before memory is allocated for them: Raft's decoder
// allocates hundreds of bytes for one byte of an array. The encoding is a map with the single key Servers.
func checkServers(b []byte) error {
	rest, ok := bytes.CutPrefix(b, []byte("\x81\xa7Servers"))
	if !ok || len(b) > maxConfiguration || len(rest) == 0 {
		return fmt.Errorf("%w: %d bytes are no configuration", errRPC, len(b))
	}
	n := uint64(0)
	switch head := rest[0]; {
	case head == 0xc0: // nil
	case head&0xf0 == 0x90:
		n = uint64(head & 0x0f)
	case head == 0xdc && len(rest) >= 3:
		n = uint64(binary.BigEndian.Uint16(rest[1:]))
	case head == 0xdd && len(rest) >= 5:
		n = uint64(binary.BigEndian.Uint32(rest[1:]))
	default:
		return fmt.Errorf("%w: a configuration without a list of nodes", errRPC)
	}
	if n > wire.MaxReplicas {
		return fmt.Errorf("%w: configuration of %d nodes, at most %d", errRPC, n, wire.MaxReplicas)
	}
	return nil
}

// decodeConfiguration does the work of Raft's function, without its panic, and with a limit on its allocations.
func decodeConfiguration(b []byte) (c raft.Configuration, err error) {
	if err := checkServers(b); err != nil {
		return c, err
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: configuration: %v", errRPC, p)
		}
	}()
	return raft.DecodeConfiguration(b), nil
}

func encodeAppendReply(a *raft.AppendEntriesResponse) []byte {
	w := &rpcWriter{}
	w.u64(a.Term)
	w.u64(a.LastLog)
	w.bool(a.Success)
	w.bool(a.NoRetryBackoff)
	return w.b
}

func decodeAppendReply(b []byte) (*raft.AppendEntriesResponse, error) {
	r := &rpcReader{b: b}
	a := &raft.AppendEntriesResponse{Term: r.u64(), LastLog: r.u64(), Success: r.bool(), NoRetryBackoff: r.bool()}
	return a, r.end()
}

func encodeVote(v *raft.RequestVoteRequest) []byte {
	w := &rpcWriter{}
	w.u64(v.Term)
	w.u64(v.LastLogIndex)
	w.u64(v.LastLogTerm)
	w.bool(v.LeadershipTransfer)
	return w.b
}

func decodeVote(b []byte) (*raft.RequestVoteRequest, error) {
	r := &rpcReader{b: b}
	v := &raft.RequestVoteRequest{Term: r.u64(), LastLogIndex: r.u64(), LastLogTerm: r.u64(), LeadershipTransfer: r.bool()}
	return v, r.end()
}

func encodePreVote(v *raft.RequestPreVoteRequest) []byte {
	w := &rpcWriter{}
	w.u64(v.Term)
	w.u64(v.LastLogIndex)
	w.u64(v.LastLogTerm)
	return w.b
}

func decodePreVote(b []byte) (*raft.RequestPreVoteRequest, error) {
	r := &rpcReader{b: b}
	v := &raft.RequestPreVoteRequest{Term: r.u64(), LastLogIndex: r.u64(), LastLogTerm: r.u64()}
	return v, r.end()
}

// encodeVoteReply encodes replies to votes and pre-votes.
func encodeVoteReply(term uint64, granted bool) []byte {
	w := &rpcWriter{}
	w.u64(term)
	w.bool(granted)
	return w.b
}

func decodeVoteReply(b []byte) (term uint64, granted bool, err error) {
	r := &rpcReader{b: b}
	term, granted = r.u64(), r.bool()
	return term, granted, r.end()
}

// encodeRPC returns the payload and the kind of a request that Raft makes.
func encodeRPC(cmd any) (frameKind, []byte) {
	switch c := cmd.(type) {
	case *raft.AppendEntriesRequest:
		return kindAppend, encodeAppend(c)
	case *raft.RequestVoteRequest:
		return kindVote, encodeVote(c)
	case *raft.RequestPreVoteRequest:
		return kindPreVote, encodePreVote(c)
	}
	return kindTimeoutNow, nil
}

// decodeRPC is the inverse of encodeRPC; it adds the header that Raft expects.
func decodeRPC(kind frameKind, payload []byte, from raft.RPCHeader) (any, error) {
	switch kind {
	case kindAppend:
		c, err := decodeAppend(payload)
		if err != nil {
			return nil, err
		}
		c.RPCHeader = from
		return c, nil
	case kindVote:
		c, err := decodeVote(payload)
		if err != nil {
			return nil, err
		}
		c.RPCHeader = from
		return c, nil
	case kindPreVote:
		c, err := decodePreVote(payload)
		if err != nil {
			return nil, err
		}
		c.RPCHeader = from
		return c, nil
	case kindTimeoutNow:
		if len(payload) > 0 {
			return nil, errRPC
		}
		return &raft.TimeoutNowRequest{RPCHeader: from}, nil
	}
	return nil, fmt.Errorf("%w: kind %d", errRPC, kind)
}

// encodeRPCReply returns the payload of Raft's answer.
func encodeRPCReply(resp any) ([]byte, error) {
	switch r := resp.(type) {
	case *raft.AppendEntriesResponse:
		return encodeAppendReply(r), nil
	case *raft.RequestVoteResponse:
		return encodeVoteReply(r.Term, r.Granted), nil
	case *raft.RequestPreVoteResponse:
		return encodeVoteReply(r.Term, r.Granted), nil
	case *raft.TimeoutNowResponse:
		return nil, nil
	}
	return nil, fmt.Errorf("no encoding for %T", resp)
}
