package mlscore

import (
	"bytes"
	"testing"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// checkSplit splits a message, and compares the parts with the whole. It reports whether the message can be split.
func checkSplit(t testing.TB, msg []byte) bool {
	t.Helper()
	head, rest, err := SplitPrivate(msg)
	m, whole := parseMessage(msg, codec.DefaultLimits)
	if private := whole == nil && m.private != nil; private != (err == nil) {
		t.Fatalf("%x: split %v, parsed %v", msg, err, whole)
	}
	if err != nil {
		return false
	}
	h, size, err := PeekHead(head)
	want, _ := Peek(msg)
	if err != nil || size != len(rest) || !bytes.Equal(append(head, rest...), msg) {
		t.Fatalf("%x: %d of %d bytes, %v", head, size, len(rest), err)
	}
	if h.WireFormat != want.WireFormat || !bytes.Equal(h.GroupID, want.GroupID) || h.Epoch != want.Epoch || h.ContentType != want.ContentType || !bytes.Equal(h.AuthenticatedData, want.AuthenticatedData) {
		t.Fatalf("%x: %+v, wanted %+v", head, h, want)
	}
	for n := range head {
		if _, _, err := PeekHead(head[:n]); err == nil {
			t.Fatalf("%x: the first %d bytes are a whole head", head, n)
		}
	}
	if len(rest) > 0 {
		if _, _, err := PeekHead(msg); err == nil {
			t.Fatalf("%x: a whole message is a head", msg)
		}
	}
	return true
}

// TestSplitPrivate checks that a PrivateMessage, and no other message, can be split where its ciphertext begins (RFC
// 9420 §6.3.1).
func TestSplitPrivate(t *testing.T) {
	messages, _, _ := allMessages(t)
	for format, msg := range messages {
		if cut := checkSplit(t, msg); cut != (format == WireFormatPrivateMessage) {
			t.Errorf("%v is cut: %v", format, cut)
		}
	}
	private := messages[WireFormatPrivateMessage]
	head, _, err := SplitPrivate(private)
	if err != nil {
		t.Fatal(err)
	}
	for at, octet := range map[int]byte{1: 2, 3: byte(WireFormatPublicMessage)} {
		bad := bytes.Clone(head)
		bad[at] = octet
		_, _, err := PeekHead(bad)
		requireKind(t, err, ErrMalformed)
	}
}

// FuzzPeekHead checks that every accepted head is one that the encoder makes, and that its announced length is below
// 2^30.
func FuzzPeekHead(f *testing.F) {
	for _, seed := range decoderSeeds(f)[messageDecoder.name] {
		if head, _, err := SplitPrivate(seed); err == nil {
			f.Add(head)
			f.Add(seed)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		checkSplit(t, b)
		h, size, err := PeekHead(b)
		if err != nil {
			return
		}
		if size < 0 || size >= 1<<30 || h.WireFormat != WireFormatPrivateMessage || h.ContentType == 0 {
			t.Fatalf("%x: %d bytes, %+v", b, size, h)
		}
		if size <= 1<<16 && !checkSplit(t, append(bytes.Clone(b), make([]byte, size)...)) {
			t.Fatalf("%x: is no head of a message", b)
		}
	})
}
