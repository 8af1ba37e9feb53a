package streams

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// decoders read a record and write it again.
var decoders = map[string]func(key, b []byte) ([]byte, error){
	"item": func(key, b []byte) ([]byte, error) {
		i, err := decodeItem(key, b)
		return i.encode(key, make([]byte, i.size())), err
	},
	"head":   func(key, b []byte) ([]byte, error) { h, err := decodeHead(key, b); return h.encode(key), err },
	"cursor": func(key, b []byte) ([]byte, error) { c, err := decodeCursor(key, b); return c.encode(key), err },
	"global": func(key, b []byte) ([]byte, error) { g, err := decodeGlobal(key, b); return g.encode(key), err },
	"id": func(key, b []byte) ([]byte, error) {
		s, err := decodeSequence(key, b)
		return encodeSequence(key, s), err
	},
}

func records(key []byte) map[string][]byte {
	i := item{kind: KindEntry, ordered: true, id: id(7), time: 1, bytes: 2, position: 3, payload: []byte("payload")}
	return map[string][]byte{
		"item":   i.encode(key, make([]byte, i.size())),
		"head":   head{1, 9, 4, 100, 40, 7, 12345}.encode(key),
		"cursor": cursor{5, 6}.encode(key),
		"global": global{3, 4}.encode(key),
		"id":     encodeSequence(key, 8),
	}
}

func TestRecords(t *testing.T) {
	key := []byte("m/key")
	for name, b := range records(key) {
		decode := decoders[name]
		again, err := decode(key, b)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%s: %x, %v; want %x", name, again, err, b)
		}
		for n := range b {
			if _, err := decode(key, b[:n]); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s: prefix of %d bytes: %v", name, n, err)
			}
		}
		if _, err := decode([]byte("m/other"), b); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s under another key: %v", name, err)
		}
		newer := resum(key, append([]byte{2}, b[1:len(b)-4]...))
		if _, err := decode(key, newer); !errors.Is(err, wire.Version) {
			t.Errorf("%s of version 2: %v", name, err)
		}
	}
}

func resum(key, body []byte) []byte {
	sum := crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, body)
	return binary.BigEndian.AppendUint32(bytes.Clone(body), sum)
}

// FuzzRecords gives each decoder the bytes as they are and with a right checksum, behind which the
// fields themselves are reached.
func FuzzRecords(f *testing.F) {
	key := []byte("m/key")
	for _, b := range records(key) {
		f.Add(b)
		f.Add(b[:len(b)-4])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, decode := range decoders {
			for _, in := range [][]byte{b, resum(key, b)} {
				out, err := decode(key, in)
				if err != nil {
					continue
				}
				if !bytes.Equal(out, in) {
					t.Fatalf("%s: %x became %x", name, in, out)
				}
				for n := range in {
					if _, err := decode(key, in[:n]); err == nil {
						t.Fatalf("%s: prefix of %d of %x was accepted", name, n, in)
					}
				}
			}
		}
	})
}
