package content_test

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/content"
)

// documented are the examples of docs/spec/content.md, with the sender alice@a.example.
func documented() []struct {
	name    string
	content *content.Content
} {
	at := time.UnixMilli(1796099400000)
	text := content.Text("Hello **world**")
	text.SetTime(at)
	original := content.MessageID{0: 1, 31: 0xaa}
	file := content.Reference{
		URL:         content.ChunkedURL("a.example", make([]byte, 32)),
		Size:        21, // five bytes and a tag
		Encryption:  content.ChunkedAES256GCM,
		Key:         make([]byte, 32),
		Hash:        content.HashSHA256,
		ContentHash: make([]byte, 32),
		Filename:    "a.txt",
	}
	return []struct {
		name    string
		content *content.Content
	}{
		{"text, with the sender's time", text},
		{"reaction", content.Reaction(original, "+")},
		{"second edit", content.Edit(nil, original, 2, content.MarkdownPart("Hello"))},
		{"delete", content.Delete(nil, original)},
		{"text that ends an hour after reading", content.Plain("Hi").WithExpires(content.ExpireAfter(time.Hour))},
		{"file", content.Attachment("text/plain", file)},
	}
}

// TestDocumentedExamples makes the examples of docs/spec/content.md again.
func TestDocumentedExamples(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "docs", "spec", "content.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range documented() {
		for i := range d.content.Salt {
			d.content.Salt[i] = byte(i)
		}
		b := encode(t, d.content)
		id, err := d.content.ID("mimi://a.example/u/alice", "mimi://a.example/r/1")
		if err != nil {
			t.Fatal(err)
		}
		var lines strings.Builder
		fmt.Fprintf(&lines, "%s, %d bytes\n", d.name, len(b))
		for rest := hex.EncodeToString(b); rest != ""; {
			n := min(len(rest), 96)
			fmt.Fprintf(&lines, "  %s\n", rest[:n])
			rest = rest[n:]
		}
		fmt.Fprintf(&lines, "  id %v\n", id)
		if !strings.Contains(string(page), "\n"+lines.String()) {
			t.Errorf("docs/spec/content.md has no example\n%s", lines.String())
		}
	}
}

// TestDocumentedNumbers checks the private keys and numbers, the defaults and the kinds that docs/spec/content.md lists.
func TestDocumentedNumbers(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "docs", "spec", "content.md"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"`" + content.KeyTime.String() + "`",
		"`" + content.KeyEdit.String() + "`",
		fmt.Sprintf("%d (`%#x`)", content.ChunkedAES256GCM, uint16(content.ChunkedAES256GCM)),
		"version " + content.Draft[strings.LastIndex(content.Draft, "-")+1:],
		fmt.Sprintf("| bytes | %d (`Limits.Size`) |", content.DefaultSize),
		fmt.Sprintf("| parts | %d (`Limits.Parts`) |", content.DefaultParts),
		fmt.Sprintf("| extension fields | %d (`Limits.Extensions`) |", content.DefaultExtensions),
		fmt.Sprintf("| bytes of `topicId` | %d (`Limits.Topic`) |", content.DefaultTopic),
		fmt.Sprintf("| bytes of an external part that `Open` decrypts | %d |", content.DefaultOpen),
	}
	for k := content.KindUnknown; k <= content.KindMessage; k++ {
		want = append(want, fmt.Sprintf("| %v |", k))
	}
	for _, s := range want {
		if !strings.Contains(string(page), s) {
			t.Errorf("docs/spec/content.md does not have %s", s)
		}
	}
}
