package lanes

import (
	"bytes"
	"testing"

	"github.com/mlsfed/mlsfed/federation/outbox/lanestore"
	"github.com/mlsfed/mlsfed/wire"
)

func FuzzItem(f *testing.F) {
	k := keys{[]byte("o/")}
	key := k.item("b.example", "conversation", 7)
	f.Add(key, encodeItem(key, lanestore.Stored{ID: wire.SubmissionID{1}, Time: 5, Payload: []byte("payload")}))
	f.Add(k.item(wire.Domain(make([]byte, 255)), "conversation", 7), []byte{}) // the longest length
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if d, c, sequence, err := k.parseItem(key); err == nil && len(key) > 3 && string(key[:3]) == "o/i" {
			if again := k.item(d, c, sequence); !bytes.Equal(again, key) {
				t.Fatalf("key %x is made again as %x", key, again)
			}
		}
		if it, err := decodeItem(key, value); err == nil {
			if again := encodeItem(key, it); !bytes.Equal(again, value) {
				t.Fatalf("value %x is made again as %x", value, again)
			}
		}
	})
}
