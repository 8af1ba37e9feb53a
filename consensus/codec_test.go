package consensus

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"math"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/wire"
)

func sampleConfiguration() []byte {
	return raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "n1.a.example", Address: "n1.a.example"}}})
}

func sampleRPCs() []any {
	return []any{
		&raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 7, PrevLogTerm: 2, LeaderCommitIndex: 6, Entries: []*raft.Log{
			{Index: 8, Term: 3, Type: raft.LogCommand, Data: []byte("data"), AppendedAt: time.Unix(5, 6)},
			{Index: 9, Term: 3, Type: raft.LogConfiguration, Data: sampleConfiguration()},
		}},
		&raft.AppendEntriesRequest{Term: 1},
		&raft.RequestVoteRequest{Term: 3, LastLogIndex: 2, LastLogTerm: 1, LeadershipTransfer: true},
		&raft.RequestPreVoteRequest{Term: 3, LastLogIndex: 2, LastLogTerm: 1},
		&raft.TimeoutNowRequest{},
	}
}

func TestRaftMessagesRoundTrip(t *testing.T) {
	for _, cmd := range sampleRPCs() {
		kind, b := encodeRPC(cmd)
		back, err := decodeRPC(kind, b, header("n1.a.example"))
		if err != nil {
			t.Fatalf("%T: %v", cmd, err)
		}
		if h := back.(raft.WithRPCHeader).GetRPCHeader(); string(h.ID) != "n1.a.example" || string(h.Addr) != "n1.a.example" {
			t.Errorf("%T: header %+v", cmd, h)
		}
		if _, again := encodeRPC(back); !bytes.Equal(again, b) {
			t.Errorf("%T: encodes to %x, then to %x", cmd, b, again)
		}
		for n := range b {
			if _, err := decodeRPC(kind, b[:n], raft.RPCHeader{}); err == nil {
				t.Errorf("%T: a prefix of %d bytes is accepted", cmd, n)
			}
		}
		if _, err := decodeRPC(kind, append(bytes.Clone(b), 0), raft.RPCHeader{}); err == nil {
			t.Errorf("%T: a trailing byte is accepted", cmd)
		}
	}
}

// TestAppendsThatWouldHarmRaft checks that requests are refused which would make Raft panic or leave a gap: Raft
// trusts its peers.
func TestAppendsThatWouldHarmRaft(t *testing.T) {
	entry := func(change func(*raft.Log)) *raft.AppendEntriesRequest {
		l := &raft.Log{Index: 8, Term: 3, Type: raft.LogCommand}
		change(l)
		return &raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 7, PrevLogTerm: 3, Entries: []*raft.Log{l}}
	}
	configured := func(servers ...raft.Server) *raft.AppendEntriesRequest {
		return entry(func(l *raft.Log) {
			l.Type, l.Data = raft.LogConfiguration, raft.EncodeConfiguration(raft.Configuration{Servers: servers})
		})
	}
	for name, a := range map[string]*raft.AppendEntriesRequest{
		"gap":                          entry(func(l *raft.Log) { l.Index = 10 }),
		"before the previous":          entry(func(l *raft.Log) { l.Index = 7 }),
		"term ahead":                   entry(func(l *raft.Log) { l.Term = 4 }),
		"term zero":                    entry(func(l *raft.Log) { l.Term = 0 }),
		"unknown type":                 entry(func(l *raft.Log) { l.Type = 77 }),
		"the snapshot's end":           entry(func(l *raft.Log) { l.Type = snapshotEnd }),
		"broken configuration":         entry(func(l *raft.Log) { l.Type, l.Data = raft.LogConfiguration, []byte{0xc1, 0xff} }),
		"extensions":                   entry(func(l *raft.Log) { l.Extensions = []byte("x") }),
		"a type of old":                entry(func(l *raft.Log) { l.Type = raft.LogAddPeerDeprecated }),
		"content where there is none":  entry(func(l *raft.Log) { l.Type, l.Data = raft.LogNoop, []byte("x") }),
		"no voter":                     configured(raft.Server{Suffrage: raft.Nonvoter, ID: "n1.a.example", Address: "n1.a.example"}),
		"nobody":                       configured(),
		"a node twice":                 configured(raft.Server{ID: "n1.a.example", Address: "n1.a.example"}, raft.Server{ID: "n1.a.example", Address: "n1.a.example"}),
		"a node at another's place":    configured(raft.Server{ID: "n1.a.example", Address: "n1.b.example"}),
		"a node without a name":        configured(raft.Server{}),
		"a part that nobody has":       configured(raft.Server{Suffrage: raft.Staging, ID: "n1.a.example", Address: "n1.a.example"}),
		"more nodes than there may be": configured(manyServers(wire.MaxReplicas + 1)...),
		"the end of the log":           {Term: 3, PrevLogEntry: math.MaxUint64, PrevLogTerm: 3, Entries: []*raft.Log{{Index: 0, Term: 3}}},
		"nearly the end of the log":    {Term: 3, PrevLogEntry: math.MaxUint64 - 2, PrevLogTerm: 3},
		"committed to the end":         {Term: 3, PrevLogEntry: 1, PrevLogTerm: 3, LeaderCommitIndex: math.MaxUint64},
		"a term before its leader's":   {Term: 3, PrevLogEntry: 1, PrevLogTerm: 4},
	} {
		if _, err := decodeAppend(encodeAppend(a)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	many := &raft.AppendEntriesRequest{Term: 1}
	for i := range uint64(maxAppend + 1) {
		many.Entries = append(many.Entries, &raft.Log{Index: i + 1, Term: 1})
	}
	if _, err := decodeAppend(encodeAppend(many)); err == nil {
		t.Error("more entries than agreed: accepted")
	}
}

// manyServers returns voters with different names.
func manyServers(n int) []raft.Server {
	list := make([]raft.Server, n)
	for i := range list {
		name := fmt.Sprintf("n%d.a.example", i+1)
		list[i] = raft.Server{ID: raft.ServerID(name), Address: raft.ServerAddress(name)}
	}
	return list
}

// TestSnapshotRequestsThatWouldHarmRaft checks that requests with contradictory numbers, or with configurations that
// nobody makes, are refused.
func TestSnapshotRequestsThatWouldHarmRaft(t *testing.T) {
	good := snapshotRequest{Conversation: conv, Term: 3, Index: 9, IndexTerm: 2, ConfigIndex: 4, Configuration: sampleConfiguration(), Size: 100}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*snapshotRequest){
		"entry 0":                   func(s *snapshotRequest) { s.Index = 0 },
		"the end of the log":        func(s *snapshotRequest) { s.Index = math.MaxUint64 },
		"term 0":                    func(s *snapshotRequest) { s.IndexTerm = 0 },
		"a term before its own":     func(s *snapshotRequest) { s.Term = 1 },
		"the last term":             func(s *snapshotRequest) { s.Term = math.MaxUint64 },
		"a later configuration":     func(s *snapshotRequest) { s.ConfigIndex = 10 },
		"a size below nothing":      func(s *snapshotRequest) { s.Size = -1 },
		"a size over the bound":     func(s *snapshotRequest) { s.Size = maxSnapshot + 1 },
		"a configuration of nobody": func(s *snapshotRequest) { s.Configuration = raft.EncodeConfiguration(raft.Configuration{}) },
		"a broken configuration":    func(s *snapshotRequest) { s.Configuration = []byte{0xc1, 0xff} },
	} {
		s := good
		change(&s)
		if s.Check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestFrames(t *testing.T) {
	f := &frame{kind: kindOrder, number: 7, generation: 2, conversation: conv, payload: []byte("payload")}
	b := f.append(nil)
	if len(b) != f.size() {
		t.Fatalf("%d bytes, size says %d", len(b), f.size())
	}
	got, err := readFrame(bufio.NewReader(bytes.NewReader(b)), 1000)
	if err != nil || !reflect.DeepEqual(got, f) {
		t.Fatalf("read %+v (%v)", got, err)
	}
	for n := range b {
		if _, err := readFrame(bufio.NewReader(bytes.NewReader(b[:n])), 1000); err == nil {
			t.Errorf("a prefix of %d bytes is a frame", n)
		}
	}
	if _, err := readFrame(bufio.NewReader(bytes.NewReader(b)), len(b)-5); err == nil {
		t.Error("a frame over the limit is accepted")
	}
	huge := binary.BigEndian.AppendUint32(nil, 1<<31)
	if _, err := readFrame(bufio.NewReader(bytes.NewReader(append(huge, b...))), maxPeerFrame); err == nil {
		t.Error("a length of 2 GiB is accepted")
	}
}

func TestHeartbeatFrames(t *testing.T) {
	beats := []*beat{{id: conv, generation: 1, term: 2}, {id: "conversation-two", term: 9}}
	back, err := decodeBeats(encodeBeats(beats))
	if err != nil || len(back) != 2 || back[1].id != "conversation-two" || back[0].generation != 1 || back[1].term != 9 {
		t.Fatalf("%+v, %v", back, err)
	}
	replies := []beatReply{{resp: raft.AppendEntriesResponse{Term: 4, LastLog: 5, Success: true}}, {err: errAsleep()}, {err: wire.Errorf(wire.NotReplica, "raft", "no")}}
	b := encodeBeatReplies(replies)
	got, err := decodeBeatReplies(b, 3)
	if err != nil || got[0].resp.Term != 4 || !got[0].resp.Success || wire.CodeOf(got[1].err) != codeAsleep || wire.CodeOf(got[2].err) != wire.NotReplica {
		t.Fatalf("%+v, %v", got, err)
	}
	for n := range b {
		if _, err := decodeBeatReplies(b[:n], 3); err == nil {
			t.Errorf("a prefix of %d bytes answers three heartbeats", n)
		}
	}
	if _, err := decodeBeatReplies(b, 2); err == nil {
		t.Error("three answers to two heartbeats")
	}
}

func FuzzRaftMessage(f *testing.F) {
	for _, cmd := range sampleRPCs() {
		kind, b := encodeRPC(cmd)
		f.Add(byte(kind), b)
	}
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		cmd, err := decodeRPC(frameKind(kind), b, raft.RPCHeader{})
		if err != nil {
			return
		}
		if k, again := encodeRPC(cmd); k != frameKind(kind) || !bytes.Equal(again, b) {
			t.Fatalf("kind %d: decoded from %x, encodes to %x", kind, b, again)
		}
		for n := range min(len(b), 128) {
			if _, err := decodeRPC(frameKind(kind), b[:n], raft.RPCHeader{}); err == nil {
				t.Fatalf("prefix of %d bytes decodes", n)
			}
		}
	})
}

func FuzzFrame(f *testing.F) {
	f.Add((&frame{kind: kindBeats, number: 7, payload: encodeBeats([]*beat{{id: conv, term: 2}})}).append(nil)[4:])
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseFrame(b)
		if err != nil {
			return
		}
		if again := got.append(nil)[4:]; !bytes.Equal(again, b) {
			t.Fatalf("parsed from %x, writes %x", b, again)
		}
		if beats, err := decodeBeats(got.payload); err == nil && !bytes.Equal(encodeBeats(beats), got.payload) {
			t.Fatalf("heartbeats of %x", got.payload)
		}
	})
}

func FuzzSnapshotHeader(f *testing.F) {
	var out bytes.Buffer
	s := &fileSink{head: snapshotHeader{Index: 3, Term: 2, Configuration: sampleConfiguration(), ConfigIndex: 1}}
	if err := s.writeHeader(&out); err != nil {
		f.Fatal(err)
	}
	f.Add(out.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := readSnapshotHeader(bytes.NewReader(b))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := (&fileSink{head: *h}).writeHeader(&again); err != nil || !bytes.HasPrefix(b, again.Bytes()) {
			t.Fatalf("header of %x writes %x (%v)", b, again.Bytes(), err)
		}
	})
}

// messages are the CBOR messages that nodes send to each other and store.
func messages() []any {
	return []any{
		&record{Version: 1, Group: 3, Generation: 1, Applied: 9, Sequence: 4, Voters: three, Learners: []wire.NodeID{nodeD}, Leader: nodeA, Last: 9, LastTerm: 2},
		&invitation{Generation: 1, Members: three},
		&stateSummary{List: []replicaSummary{{ID: conv, Generation: 1, End: position{Term: 1, Last: 2}}}},
		&position{Term: 4, Last: 5},
		&blobRequest{Op: blobGet, Conversation: conv, Ref: wire.BlobRef{Size: 3}},
		&snapshotRequest{Conversation: conv, Term: 1, Index: 2, IndexTerm: 1, Configuration: sampleConfiguration(), Size: 10},
		&recovery{Generation: 2, Act: wire.Recovery{Lost: three, Note: "fire"}},
		&logStatus{End: position{Term: 4, Last: 5}, Committed: 3},
		&question{About: nodeB, Claim: 3, Sequence: 9, Order: wire.Hash{1}, Index: 12},
		&testimony{Role: roleVoter, Generation: 1, Term: 2, Contradicts: true, Out: true, Sequence: 9, Order: wire.Hash{2}, Content: wire.Hash{3}, Covered: true},
		&Aside{Group: 3, ID: conv, Generation: 1, Sequence: 9, Order: wire.Hash{1}, Since: 5, Why: "generation 2 began", Record: []byte{0xa0}, Probation: true, Expires: true, Log: 7},
		&Quarantine{Reason: ReasonDiverged, Detail: "order hash", Since: 5},
		&complaint{nodeA, author.Create(conv, author.Submission(1), wire.Policy{}, author.Addresses(1, "a.example"))},
		&snapshotHeader{Index: 3, Term: 2, Configuration: sampleConfiguration(), ConfigIndex: 1},
	}
}

// TestEveryMessageIsTried reads this package's source and checks that each type that is encoded as CBOR is in
// messages, or inside one of them.
func TestEveryMessageIsTried(t *testing.T) {
	tried := make(map[string]bool)
	var enter func(reflect.Type)
	enter = func(v reflect.Type) {
		switch v.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Array:
			enter(v.Elem())
		case reflect.Struct:
			if !tried[v.Name()] {
				tried[v.Name()] = true
				for i := range v.NumField() {
					enter(v.Field(i).Type)
				}
			}
		}
	}
	for _, v := range messages() {
		enter(reflect.TypeOf(v))
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(gotoken.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if s, ok := spec.Type.(*ast.StructType); ok && slices.ContainsFunc(s.Fields.List, func(f *ast.Field) bool { return f.Tag != nil && strings.Contains(f.Tag.Value, "cbor:") }) {
				if found++; !tried[spec.Name.Name] {
					t.Errorf("%s: %s is not among the messages that are tried", name, spec.Name.Name)
				}
			}
			return true
		})
	}
	if found < 12 {
		t.Errorf("%d types were found", found)
	}
}

func TestMessagesRoundTrip(t *testing.T) {
	for _, v := range messages() {
		b, err := wire.Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		back := reflect.New(reflect.TypeOf(v).Elem()).Interface()
		if err := wire.Decode(b, maxRecordSize, back); err != nil {
			t.Fatalf("%T: %v", v, err)
		}
		for n := range b {
			if err := wire.Decode(b[:n], maxRecordSize, reflect.New(reflect.TypeOf(v).Elem()).Interface()); err == nil {
				t.Errorf("%T: a prefix of %d bytes is accepted", v, n)
			}
		}
	}
}

func FuzzMessages(f *testing.F) {
	for i, v := range messages() {
		b, err := wire.Encode(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), b)
	}
	f.Fuzz(func(t *testing.T, i uint8, b []byte) {
		all := messages()
		v := reflect.New(reflect.TypeOf(all[int(i)%len(all)]).Elem()).Interface()
		if wire.Decode(b, maxRecordSize, v) != nil {
			return
		}
		if again, err := wire.Encode(v); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%T: decoded from %x, encodes to %x (%v)", v, b, again, err)
		}
		for n := range min(len(b), 128) {
			if wire.Decode(b[:n], maxRecordSize, reflect.New(reflect.TypeOf(v).Elem()).Interface()) == nil {
				t.Fatalf("%T: the first %d bytes of %x decode too", v, n, b)
			}
		}
	})
}

// FuzzConfiguration gives configurations that a leader may send to the functions that judge a Raft configuration.
func FuzzConfiguration(f *testing.F) {
	f.Add(sampleConfiguration())
	f.Add([]byte{0x81, 0xa7, 'S', 'e', 'r', 'v', 'e', 'r', 's', 0xdd, 0xff, 0xff, 0xff, 0xff})
	own, err := decodeConfiguration(sampleConfiguration())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeConfiguration(b)
		if err != nil || wellFormed(c) != nil {
			return
		}
		voters, learners := splitServers(c.Servers)
		if len(voters) == 0 || len(voters)+len(learners) != len(c.Servers) {
			t.Fatalf("%x: %d voters and %d learners of %d servers", b, len(voters), len(learners), len(c.Servers))
		}
		for _, n := range append(voters, learners...) {
			if err := n.Check(); err != nil {
				t.Fatalf("%x: %v", b, err)
			}
		}
		if list := changes(c, c); len(list) > 0 {
			t.Fatalf("%x: changes against itself: %v", b, list)
		}
		_ = changes(own, c)
		again, err := decodeConfiguration(raft.EncodeConfiguration(c))
		if err != nil || len(changes(c, again)) > 0 {
			t.Fatalf("%x: encoded again it is another one (%v)", b, err)
		}
	})
}

// FuzzSized reads the data before the content of streams: sizes, and answers about blobs.
func FuzzSized(f *testing.F) {
	refusal, err := wire.Encode(wire.Errorf(wire.BlobMissing, "blob", "no"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{blobError, 0, 0, 0, byte(len(refusal))})
	f.Add(append([]byte{blobError, 0, 0, 0, byte(len(refusal))}, refusal...))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 1024
		if body, err := readSized(bytes.NewReader(b), limit); err == nil && (len(body) > limit || !bytes.HasPrefix(b[4:], body)) {
			t.Fatalf("%x: read %x", b, body)
		}
		if kind, err := readBlobAnswer(bytes.NewReader(b)); err == nil && (kind == blobError || kind != b[0]) {
			t.Fatalf("%x: answer %d", b, kind)
		}
	})
}

// TestInvitationIsChecked checks that invalid invitations are refused: a replica begins with the content of its
// invitation, and a node that it names twice would count as two voters.
func TestInvitationIsChecked(t *testing.T) {
	many := make([]wire.NodeID, wire.MaxReplicas+1)
	for i := range many {
		many[i] = wire.NodeID(fmt.Sprintf("n%d.a.example", i))
	}
	for name, c := range map[string]struct {
		members []wire.NodeID
		fine    bool
	}{
		"nobody":           {nil, false},
		"one":              {many[:1], true},
		"as many as fit":   {many[:wire.MaxReplicas], true},
		"one more":         {many, false},
		"a name twice":     {[]wire.NodeID{nodeA, nodeB, nodeA}, false},
		"what is no name":  {[]wire.NodeID{nodeA, "B"}, false},
		"an empty name":    {[]wire.NodeID{""}, false},
		"two of one place": {[]wire.NodeID{"n1.a.example", "n2.a.example"}, true},
	} {
		if err := (&invitation{Members: c.members}).Check(); (err == nil) != c.fine {
			t.Errorf("%s: %v", name, err)
		}
	}
}
