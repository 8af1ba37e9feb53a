package content_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/mlsfed/mlsfed/content"
)

// example is one of the draft's example files. Ids are those that the draft gives in the comments of the .edn file.
type example struct {
	name string
	kind content.Kind
	id   string
}

var examples = []example{
	{"original", content.KindMessage, "017ce54837404c3696e0c747b985cb172716d0ed0a3d249ca63ace7d82a096f4"},
	{"reply", content.KindReply, "015354973c2b65ca937bf1e035ae53a5ab80e947afa43d46920d4202e5cc0b27"},
	{"reaction", content.KindReaction, "0158c4288911e50a8f6be3f47746b6682f10fd91bc8c05557aa589a3157aff68"},
	{"mention", content.KindReply, "018d825adf9f6be00dcafc5704c4102f5022e74219d0b603e4ba7622654042af"},
	{"mention-html", content.KindReply, "01967ff8e9a66819738ad5cf26d2e0388a3b81d86b0f61d129c077d043ee2a4e"},
	{"edit", content.KindEdit, "014028c0deddbdea56bec26172f6ede953d11024cb82b8192b5e2aea62d7fb47"},
	{"delete", content.KindDelete, "011d9efc78d04d4dcf4d82b07d5199bbef37011c1f0c7e004b6111c6dda504b4"},
	{"unlike", content.KindUnlike, "013aadbb8f313253c8930f4e93c6ca54b2ed06d258185bdcec3870534c8a4ec4"},
	{"expiring", content.KindMessage, "01e59db8173939facc2c8a4a0f0ae8d0c7a11a81239626630c9464a8d6717a03"},
	{"attachment", content.KindAttachment, "0176180c7d19a925021fe446d241134d05c38e0d999cdc0f39c391d2377ed9d1"},
	{"conferencing", content.KindConference, "01496d15a8dba28d7397f9868b70768e4a67f765d5b5b1ae9e03848c5fdeb0ba"},
	{"multipart-1", content.KindMessage, "01da5a515ec5db42cc4dcc19b90c3c31245d8a1cfcce11318f24eb11dce0990e"},
	{"multipart-2", content.KindReaction, "01d65918c6c51c8e76546337276ae6f4bfd873d867d5cb57c76bcdca3d999dd7"},
	{"multipart-3", content.KindMessage, "01cfebeadbdb83c1eefb6403ba4852daf8bbbf9cd53bf5035a74d5d741950c9f"},
}

const exampleRoom = "mimi://example.com/r/engineering_team"

func readExample(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "examples", name+".cbor"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func decode(t testing.TB, b []byte) *content.Content {
	t.Helper()
	c, err := content.Decode(b, content.Limits{})
	if err != nil {
		t.Fatalf("decode %x: %v", b, err)
	}
	return c
}

func encode(t testing.TB, c *content.Content) []byte {
	t.Helper()
	b, err := c.Encode(content.Limits{})
	if err != nil {
		t.Fatalf("encode: %v", err)
	}
	return b
}

func senderOf(t testing.TB, c *content.Content) string {
	t.Helper()
	v, ok := c.Extension(content.KeySender)
	if !ok {
		t.Fatal("the content names no sender")
	}
	sender, _ := v.Text()
	return sender
}

// TestExamples decodes the fourteen messages among the draft's example files, encodes them to the same bytes, and
// derives their ids. Another implementation of deterministic CBOR (RFC 8949 §4.2.1) agrees with the bytes.
func TestExamples(t *testing.T) {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range examples {
		b := readExample(t, e.name)
		c := decode(t, b)
		if got := encode(t, c); !bytes.Equal(got, b) {
			t.Errorf("%s: encoded to\n%x, want\n%x", e.name, got, b)
		}
		if c.Kind() != e.kind {
			t.Errorf("%s: kind %v, want %v", e.name, c.Kind(), e.kind)
		}
		id, err := c.ID(senderOf(t, c), exampleRoom)
		if err != nil || id.String() != e.id {
			t.Errorf("%s: id %v (%v), want %s", e.name, id, err, e.id)
		}
		if err := c.CheckOrigin(senderOf(t, c), exampleRoom); err != nil {
			t.Errorf("%s: %v", e.name, err)
		}
		if err := c.CheckOrigin("mimi://example.com/u/mallory", exampleRoom); err == nil {
			t.Errorf("%s: another sender is accepted", e.name)
		}
		if err := c.CheckOrigin(senderOf(t, c), "mimi://example.com/r/other"); err == nil {
			t.Errorf("%s: another room is accepted", e.name)
		}
		var value any
		if err := cbor.Unmarshal(b, &value); err != nil {
			t.Fatal(err)
		}
		if again, err := mode.Marshal(value); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%s: the file is not deterministic CBOR (%v)", e.name, err)
		}
	}
}

// TestExampleReferences checks that the examples name each other by the ids that they have.
func TestExampleReferences(t *testing.T) {
	ids := make(map[string]string)
	contents := make(map[string]*content.Content)
	for _, e := range examples {
		ids[e.name] = e.id
		contents[e.name] = decode(t, readExample(t, e.name))
	}
	for _, r := range []struct{ from, replaces, answers string }{
		{from: "reply", answers: "original"},
		{from: "reaction", answers: "original"},
		{from: "mention", answers: "original"},
		{from: "edit", replaces: "reply", answers: "original"},
		{from: "delete", replaces: "reply", answers: "original"},
		{from: "unlike", replaces: "reaction", answers: "original"},
	} {
		c := contents[r.from]
		if r.replaces != "" && c.Replaces.String() != ids[r.replaces] || r.replaces == "" && !c.Replaces.IsZero() {
			t.Errorf("%s replaces %v, want %s", r.from, c.Replaces, r.replaces)
		}
		if c.InReplyTo.String() != ids[r.answers] {
			t.Errorf("%s answers %v, want %s", r.from, c.InReplyTo, r.answers)
		}
	}
	if e := contents["expiring"].Expires; e == nil || e.Relative || e.Seconds != 1644390004 {
		t.Errorf("expiring: %+v", e)
	}
	if got := string(contents["conferencing"].TopicID); got != "Foo 118" {
		t.Errorf("conferencing: topic %q", got)
	}
}

// TestExampleDerived reads the fifteenth file: the values that a receiver of the first message knows from elsewhere.
func TestExampleDerived(t *testing.T) {
	b := readExample(t, "implied-original")
	d, err := content.DecodeDerived(b, content.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	again, err := d.Encode(content.Limits{})
	if err != nil || !bytes.Equal(again, b) {
		t.Errorf("encoded to\n%x (%v), want\n%x", again, err, b)
	}
	c := decode(t, readExample(t, "original"))
	id, err := c.ID(d.SenderUser, d.Room)
	if err != nil || id.String() != examples[0].id {
		t.Errorf("the derived id is %v (%v), want %s", id, err, examples[0].id)
	}
	// The file has the id of version 07, which hashed the URIs without their lengths.
	earlier := sha256.Sum256([]byte(d.SenderUser + d.Room + string(readExample(t, "original")) + string(c.Salt[:])))
	if want := append([]byte{1}, earlier[:31]...); !bytes.Equal(d.ID[:], want) {
		t.Errorf("the file has the id %v, want %x", d.ID, want)
	}
	accepted, ok := d.AcceptedTime()
	if want := time.Date(2022, 2, 9, 6, 13, 45, 19e6, time.UTC); !ok || !accepted.Equal(want) {
		t.Errorf("accepted at %v, want %v", accepted, want)
	}
	const group = "eeee0d12a7b5b5b78115ad1a1ddb13811c83fd7387c43e66799a594beeda26bf"
	const client = "mimi://example.com/d/3b52249d-68f9-45ce-8bf5-c799f3cad7ec/0003"
	if hex.EncodeToString(d.GroupID) != group || d.SenderLeaf != 4 || d.SenderClient != client {
		t.Errorf("derived values %+v", d)
	}

	// The time can also be a map with tag 1001.
	d.AcceptedTag = content.Raw{0xd9, 0x03, 0xe9, 0xa1, 0x01, 0x00}
	if b, err = d.Encode(content.Limits{}); err != nil {
		t.Fatal(err)
	}
	if again, err := content.DecodeDerived(b, content.Limits{}); err != nil || !bytes.Equal(again.AcceptedTag, d.AcceptedTag) {
		t.Errorf("an extended time is not kept: %v", err)
	}
	other := bytes.Replace(b, d.AcceptedTag[:3], []byte{0xd9, 0x03, 0xea}, 1)
	for name, input := range map[string][]byte{"trailing byte": append(bytes.Clone(b), 0), "another tag": other} {
		if _, err := content.DecodeDerived(input, content.Limits{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for n := range b {
		if _, err := content.DecodeDerived(b[:n], content.Limits{}); err == nil {
			t.Errorf("a prefix of %d bytes is accepted", n)
		}
	}
}

// golden is the device that shows the examples in the golden file.
var golden = content.Device{MediaTypes: append([]string{"image/png"}, content.TextDevice.MediaTypes...), Languages: []string{"fr"}}

// TestExamplesShown compares what a person sees with testdata/examples.txt.
func TestExamplesShown(t *testing.T) {
	var b strings.Builder
	html := golden
	html.MediaTypes = append([]string{"text/html"}, golden.MediaTypes...)
	for _, e := range examples {
		c := decode(t, readExample(t, e.name))
		fmt.Fprintf(&b, "== %s: %v\n", e.name, c.Kind())
		for _, d := range []content.Device{golden, html} {
			fmt.Fprintf(&b, "%s\n", d.Plain(&c.Body))
		}
		for _, m := range c.Mentions(nil) {
			fmt.Fprintf(&b, "mentions %s as %q\n", m.URL, m.Text)
		}
		if texts := c.Reactions(); texts != nil {
			fmt.Fprintf(&b, "reactions %q\n", texts)
		}
		for i, p := range c.Body.All() {
			fmt.Fprintf(&b, "part %d: %v, %v, language %q, type %q\n", i, p.Disposition, p.Cardinality, p.Language, p.ContentType)
		}
	}
	path := filepath.Join("testdata", "examples.txt")
	want, err := os.ReadFile(path)
	if err != nil && os.Getenv("UPDATE_GOLDEN") == "" {
		t.Fatal(err)
	}
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if b.String() != string(want) {
		t.Errorf("shown as\n%s\nwant\n%s", b.String(), want)
	}
}

// TestDeriveID checks the construction of §3.3 step by step, and its bounds.
func TestDeriveID(t *testing.T) {
	salt := content.Salt{1, 2, 3}
	input := "\x00\x03m:a" + "\x00\x04m:ro" + "message" + string(salt[:])
	sum := sha256.Sum256([]byte(input))
	want := append([]byte{1}, sum[:31]...)
	id, err := content.DeriveID("m:a", "m:ro", []byte("message"), salt)
	if err != nil || !bytes.Equal(id[:], want) {
		t.Errorf("id %v (%v), want %x", id, err, want)
	}
	for name, other := range map[string][4]string{
		"sender":   {"m:b", "m:ro", "message", "\x01"},
		"boundary": {"m:am", ":ro", "message", "\x01"},
		"message":  {"m:a", "m:ro", "messagf", "\x01"},
	} {
		got, err := content.DeriveID(other[0], other[1], []byte(other[2]), salt)
		if err != nil || got == id {
			t.Errorf("another %s has the same id (%v)", name, err)
		}
	}
	long := strings.Repeat("a", 1<<16-1)
	if _, err := content.DeriveID(long, "m:r", nil, salt); err != nil {
		t.Errorf("a URI of 65535 bytes: %v", err)
	}
	for _, uri := range []string{"", long + "a"} {
		if _, err := content.DeriveID("m:a", uri, nil, salt); err == nil {
			t.Errorf("a URI of %d bytes is accepted", len(uri))
		}
	}
}
