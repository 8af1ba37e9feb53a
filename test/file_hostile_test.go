package test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// TestFileHasOneContent checks that the sender of a file cannot give a recipient another file under the same message
// and hash.
func TestFileHasOneContent(t *testing.T) {
	dir := t.TempDir()
	c := newClusterIn(t, dir, cluster.Options{}, "a.example", "b.example", "mallory.example")
	alice, bob, dave := device(t, c, "a.example", "alice", "phone"), device(t, c, "b.example", "bob", "phone"), device(t, c, "mallory.example", "dave", "phone")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	id, err := alice.Create(ctx, client.CreateOptions{Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	add(ctx, t, alice, id, "mimi://b.example/u/bob")
	add(ctx, t, alice, id, "mimi://mallory.example/u/dave")
	for _, d := range []*client.Device{alice, bob, dave} {
		if err := cluster.Await(ctx, d, func() (bool, error) { m, _ := d.Members(ctx, id); return len(m) == 3, nil }); err != nil {
			t.Fatal(err)
		}
	}
	one, two := []byte("the contract: 100 a month"), []byte("the contract: 900 a month")
	if _, err := dave.SendFile(ctx, id, "contract.txt", bytes.NewReader(one), int64(len(one)), ""); err != nil {
		t.Fatal(err)
	}
	get := func(d *client.Device, who string) *client.File {
		var f *client.File
		if err := cluster.Await(ctx, d, func() (bool, error) {
			p, err := d.History(ctx, id, client.Query{})
			for _, m := range p.Messages {
				if m.Content.File != nil {
					f = m.Content.File
				}
			}
			return f != nil, err
		}); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		err := d.SaveFile(ctx, id, f, &out, 0)
		if who == "alice" && (err != nil || !bytes.Equal(out.Bytes(), one)) {
			t.Errorf("alice saves %q, %v", out.Bytes(), err)
		}
		if who == "bob" && (wire.CodeOf(err) != wire.Forged || out.Len() != 0) {
			t.Errorf("bob is handed %q, %v", out.Bytes(), err)
		}
		return f
	}
	f := get(alice, "alice")
	// mallory's node returns another blob under the same name
	block, _ := aes.NewCipher(f.Key)
	aead, _ := cipher.NewGCM(block)
	nonce := make([]byte, 12)
	nonce[11] = 1
	sealed := aead.Seal(nil, nonce, two, nil)
	replaced := 0
	name := hex.EncodeToString(f.Blob.Hash[:])
	_ = filepath.WalkDir(filepath.Join(dir, "mallory.example", "data"), func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.Contains(strings.ReplaceAll(p, "/", ""), name) {
			replaced++
			if err := os.WriteFile(p, sealed, 0o600); err != nil {
				t.Error(err)
			}
		}
		return nil
	})
	if replaced == 0 {
		t.Fatal("the blob was not found")
	}
	get(bob, "bob")
}
