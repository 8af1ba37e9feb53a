package people

import (
	"bytes"
	"context"
	"errors"
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

// TestSavedFilesAreTheirOwn checks that a file which a sender names like the part of another file is not continued,
// that links are not followed, that a name which is taken gets a number, and that the longest legal name can be
// saved.
func TestSavedFilesAreTheirOwn(t *testing.T) {
	c, err := cluster.New(t.TempDir(), cluster.Options{}, "a.example")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.StartAll(ctx); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	alice, err := c.Device(ctx, "a.example", "alice", "phone")
	if err != nil {
		t.Fatal(err)
	}
	id, err := alice.Create(ctx, client.CreateOptions{Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	evil, good := "transfer to account 666.", "transfer to account 123."
	long := strings.Repeat("x", 251) + ".jpg"
	texts := map[string]string{"order.txt.part": evil, "order.txt": good, long: "long"}
	for name, text := range texts {
		if _, err := alice.SendFile(ctx, id, name, bytes.NewReader([]byte(text)), int64(len(text)), ""); err != nil {
			t.Fatal(err)
		}
	}
	files := make(map[string]*client.Message)
	if err := cluster.Await(ctx, alice, func() (bool, error) {
		page, err := alice.History(ctx, id, client.Query{})
		for i := range page.Messages {
			if f := page.Messages[i].Content.File; f != nil {
				files[f.Name] = &page.Messages[i]
			}
		}
		return len(files) == len(texts), err
	}); err != nil {
		t.Fatal(err)
	}
	p := &Person{Device: alice, Options: &Options{}}
	folder, outside := t.TempDir(), filepath.Join(t.TempDir(), "outside")
	save := func(name string) (string, error) { return p.SaveFileAt(ctx, files[name], folder) }
	if err := os.WriteFile(filepath.Join(folder, "order.txt.part"), []byte("transfer to account 000."), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, want string }{
		{"order.txt.part", "order.txt (2).part"}, {"order.txt", "order.txt"}, {"order.txt", "order (2).txt"}, {long, long},
		{long, strings.Repeat("x", 247) + " (2).jpg"},
	} {
		path, err := save(c.name)
		if err != nil || filepath.Base(path) != c.want {
			t.Fatalf("%.20s… was saved as %q, %v", c.name, filepath.Base(path), err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != texts[c.name] {
			t.Errorf("%s: %q, %v", c.want, b, err)
		}
	}
	conv, err := alice.Conversation(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.FindFile(ctx, conv, ""); err == nil || !strings.Contains(err.Error(), "3 messages begin with") {
		t.Errorf("a message that nothing names: %v", err)
	}
	if m, err := p.FindFile(ctx, conv, "#1"); err != nil || m.Number != 1 {
		t.Errorf("a message by its number: %v, %v", m, err)
	}
	for _, named := range []string{"#3", "#-1", "#x", "#18446744073709551615"} {
		if m, err := p.FindFile(ctx, conv, named); err == nil {
			t.Errorf("%s is message %d", named, m.Number)
		}
	}
	if _, err := p.SaveFileAt(ctx, files["order.txt"], filepath.Join(folder, "order.txt")); err == nil {
		t.Error("a file that exists was written over")
	}
	part := filepath.Join(folder, ".mlsfed-"+files["order.txt"].Content.File.Blob.Hash.String()+".part")
	if err := os.Symlink(outside, part); err != nil {
		t.Fatal(err)
	}
	if _, err := save("order.txt"); err == nil {
		t.Error("a link was followed")
	}
	if _, err := os.Stat(outside); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a link was written to: %v", err)
	}
	// The part of an earlier attempt must match the whole file, or the file is refused.
	for begin, taken := range map[string]bool{good[:9]: true, "": true} {
		_ = os.Remove(part)
		if err := os.WriteFile(part, []byte(begin), 0o600); err != nil {
			t.Fatal(err)
		}
		path, err := save("order.txt")
		if b, _ := os.ReadFile(path); (err == nil) != taken || string(b) != good {
			t.Errorf("after %q: %q, %v, %v", begin, b, err, wire.CodeOf(err))
		}
	}
}
