package content_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/content"
	"github.com/mlsfed/mlsfed/content/markdown"
)

var id1, id2 = content.MessageID{1, 1}, content.MessageID{1, 2}

// TestConstructors checks the kind of what each constructor makes, after encoding and decoding.
func TestConstructors(t *testing.T) {
	original := content.Reply(id2, content.MarkdownPart("hi")).WithTopic([]byte("t")).WithExpires(content.ExpireAfter(time.Hour))
	at := content.Reference{URL: "https://a.example/f"}
	picture := content.SinglePart("image/png", []byte{1})
	for _, c := range []struct {
		name    string
		content *content.Content
		kind    content.Kind
	}{
		{"text", content.Text("*hi*"), content.KindMessage},
		{"plain text", content.Plain("hi"), content.KindMessage},
		{"picture", content.Message(picture), content.KindMessage},
		{"alternatives", content.Message(content.MultiPart(content.ChooseOne, content.MarkdownPart("hi"), picture)), content.KindMessage},
		{"reply", original, content.KindReply},
		{"reply with a file", content.Reply(id1, content.ExternalPart("video/mp4", at)), content.KindReply},
		{"reaction", content.Reaction(id1, "+"), content.KindReaction},
		{"two reactions", content.Reaction(id1, "+", "-"), content.KindReaction},
		{"another reaction", content.ChangeReaction(id2, id1, "-"), content.KindReactionChange},
		{"unlike", content.Unlike(id2, id1), content.KindUnlike},
		{"edit", content.Edit(original, id1, 1, content.MarkdownPart("ho")), content.KindEdit},
		{"delete", content.Delete(original, id1), content.KindDelete},
		{"delete of an unknown message", content.Delete(nil, id1), content.KindDelete},
		{"attachment", content.Attachment("video/mp4", at), content.KindAttachment},
		{"session", content.Conference("https://a.example/join", "Join"), content.KindConference},
		{"profile", content.Profile(content.Plain("Alice").Body, picture), content.KindProfile},
		{"profile of one part", content.Profile(picture), content.KindProfile},
		{"nothing", content.Message(content.Part{}), content.KindEmpty},
		{"unknown", content.Message(content.Part{Cardinality: 7}), content.KindUnknown},
		{"unknown disposition", content.Message(content.Part{Disposition: 99, Cardinality: content.Single}), content.KindMessage},
	} {
		b := encode(t, c.content.WithSalt(content.Salt{1}))
		got := decode(t, b)
		if got.Kind() != c.kind {
			t.Errorf("%s: kind %v, want %v", c.name, got.Kind(), c.kind)
		}
	}
	for _, c := range []*content.Content{content.Edit(original, id1, 5, content.MarkdownPart("ho")), content.Delete(original, id1)} {
		if c.Replaces != id1 || c.InReplyTo != id2 || string(c.TopicID) != "t" || c.Expires != original.Expires {
			t.Errorf("%v: does not keep the fields of the original: %+v", c.Kind(), c)
		}
	}
	if got := content.Edit(original, id1, 5, content.Part{}).EditNumber(); got != 5 {
		t.Errorf("edit number %d, want 5", got)
	}
	if got := content.Reaction(id1, "+", "-").Reactions(); !reflect.DeepEqual(got, []string{"+", "-"}) {
		t.Errorf("reactions %q", got)
	}
	if got := content.Text("hi").Reactions(); got != nil {
		t.Errorf("a text has the reactions %q", got)
	}
}

// TestExampleConstructors makes three of the draft's examples with the constructors.
func TestExampleConstructors(t *testing.T) {
	original, reaction := content.MessageID(unhex(t, examples[0].id)), content.MessageID(unhex(t, examples[2].id))
	for name, c := range map[string]*content.Content{
		"reply":    content.Reply(original, content.MarkdownPart("Right on! _Congratulations_ 'all!")),
		"reaction": content.Reaction(original, "\u2764"),
		"unlike":   content.Unlike(reaction, original),
		"conferencing": content.Conference("https://example.com/join/12345", "Join the Foo 118 conference").
			WithTopic([]byte("Foo 118")),
	} {
		b := readExample(t, name)
		want := decode(t, b)
		c.Salt, c.Extensions = want.Salt, want.Extensions
		if got := encode(t, c); !bytes.Equal(got, b) {
			t.Errorf("%s: made\n%x, want\n%x", name, got, b)
		}
	}
}

// TestPrivateFields checks the sender's time and the number of an edit, and values of another type.
func TestPrivateFields(t *testing.T) {
	c := content.Text("hi").WithSalt(content.Salt{1})
	if _, ok := c.Time(); ok || c.EditNumber() != 0 {
		t.Error("a content without private fields has values")
	}
	at := time.Date(2026, 12, 1, 4, 30, 0, 123456789, time.UTC)
	c.SetTime(at)
	c.SetExtension(content.KeyEdit, content.Uint(content.MaxEdits))
	c = decode(t, encode(t, c))
	if got, ok := c.Time(); !ok || !got.Equal(at.Truncate(time.Millisecond)) || c.EditNumber() != content.MaxEdits {
		t.Errorf("time %v %v, edit %d", got, ok, c.EditNumber())
	}
	for _, v := range []content.Raw{content.TextString("x"), content.Uint(1 << 63), {0xf6}} {
		c.SetExtension(content.KeyTime, v)
		c.SetExtension(content.KeyEdit, v)
		c = decode(t, encode(t, c))
		if got, ok := c.Time(); ok || c.EditNumber() != 0 {
			t.Errorf("value %x: time %v, edit %d", v, got, c.EditNumber())
		}
	}
	c.SetExtension(content.KeyTime, nil)
	if _, ok := c.Extension(content.KeyTime); ok {
		t.Error("a removed field is still there")
	}
	for _, extreme := range []time.Time{{}, time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)} {
		c.SetTime(extreme)
		if _, ok := c.Time(); !ok {
			t.Errorf("time %v is not readable", extreme)
		}
	}
}

// TestCompareEdits checks that the order of edits is the one that docs/spec/content.md defines, in both directions.
func TestCompareEdits(t *testing.T) {
	for _, c := range []struct {
		n1   uint64
		id1  content.MessageID
		n2   uint64
		id2  content.MessageID
		want int
	}{{1, id2, 2, id1, -1}, {2, id1, 2, id2, -1}, {2, id1, 2, id1, 0}, {0, id1, 1, id1, -1}} {
		if got := content.CompareEdits(c.n1, c.id1, c.n2, c.id2); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
		if got := content.CompareEdits(c.n2, c.id2, c.n1, c.id1); got != -c.want {
			t.Errorf("%+v reversed: %d", c, got)
		}
	}
}

// TestExpiration checks both kinds, their bounds and what is nonsensical (§9.1).
func TestExpiration(t *testing.T) {
	now := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	day := 24 * time.Hour
	if got := content.ExpireAt(now).At(now.Add(day)); !got.Equal(now) {
		t.Errorf("absolute: %v", got)
	}
	if got := content.ExpireAfter(1500 * time.Millisecond).At(now); !got.Equal(now.Add(2 * time.Second)) {
		t.Errorf("relative: %v", got)
	}
	for _, c := range []struct {
		e  content.Expiration
		ok bool
	}{
		{content.ExpireAt(now.Add(366 * day)), true},
		{content.ExpireAt(now.Add(366*day + time.Second)), false},
		{content.ExpireAt(now.Add(-366 * day)), true},
		{content.ExpireAt(now.Add(-366*day - time.Second)), false},
		{content.ExpireAfter(366 * day), true},
		{content.ExpireAfter(366*day + time.Second), false},
		{content.ExpireAfter(-time.Hour), true},
		{content.Expiration{Relative: true, Seconds: 1<<32 - 1}, false},
		{content.ExpireAt(time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)), false},
		{content.ExpireAt(time.Date(1960, 1, 1, 0, 0, 0, 0, time.UTC)), false},
	} {
		if err := c.e.Check(now); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c.e, err)
		}
	}
}

// TestChoose checks the semantics of parts (§4.4) for devices with different abilities.
func TestChoose(t *testing.T) {
	part := func(mediaType, language string) content.Part {
		p := content.SinglePart(mediaType, []byte(mediaType+language))
		p.Language = language
		return p
	}
	md, html, vendor := part(content.Markdown, ""), part("text/html", ""), part("application/vnd.x", "")
	en, fr, de := part("text/plain", "en-GB"), part("text/plain", "fr"), part("text/plain", "es, de")
	file := content.ExternalPart("video/mp4", content.Reference{URL: "https://a.example/f"})
	one, unit, all := content.ChooseOne, content.SingleUnit, content.ProcessAll
	multi := content.MultiPart
	device := func(types string, languages ...string) content.Device {
		return content.Device{MediaTypes: strings.Fields(types), Languages: languages}
	}
	for _, c := range []struct {
		name   string
		body   content.Part
		device content.Device
		want   []content.Part
		ok     bool
	}{
		{"null", content.Part{}, content.TextDevice, nil, true},
		{"single", md, content.TextDevice, []content.Part{md}, true},
		{"unsupported", vendor, content.TextDevice, nil, false},
		{"unknown cardinality", content.Part{Cardinality: 9}, device("*/*"), nil, false},
		{"malformed type", part("///", ""), device("*/*"), nil, false},
		{"charset", part("text/plain;charset=UTF-8", ""), device("text/plain"), []content.Part{part("text/plain;charset=UTF-8", "")}, true},
		{"other charset", part("text/plain;charset=latin1", ""), device("text/*"), nil, false},
		{"parameter", part("text/markdown;variant=CommonMark", ""), content.TextDevice, nil, false},
		{"parameter in other letters", part("Text/Markdown; Variant=gfm-mimi", ""), content.TextDevice, []content.Part{part("Text/Markdown; Variant=gfm-mimi", "")}, true},
		{"wildcard", part("image/gif", ""), device("image/*"), []content.Part{part("image/gif", "")}, true},
		{"wildcard of another family", part("imagex/gif", ""), device("image/*"), nil, false},
		{"file", file, device(""), []content.Part{file}, true},

		{"device's preference", multi(one, md, html), device("text/html text/markdown"), []content.Part{html}, true},
		{"sender's preference", multi(one, part("text/plain", ""), part("text/plain", "x")), device("text/plain", "x"), []content.Part{part("text/plain", "x")}, true},
		{"first of equals", multi(one, en, fr), device("text/plain"), []content.Part{en}, true},
		{"fallback", multi(one, vendor, md), content.TextDevice, []content.Part{md}, true},
		{"none", multi(one, vendor, html), content.TextDevice, nil, false},
		{"language", multi(one, en, fr, de), device("text/plain", "de", "fr"), []content.Part{de}, true},
		{"second language", multi(one, en, fr), device("text/plain", "de", "fr"), []content.Part{fr}, true},
		{"region", multi(one, fr, en), device("text/plain", "en"), []content.Part{en}, true},
		{"no prefix of a tag", multi(one, part("text/plain", "deu"), en), device("text/plain", "de", "en"), []content.Part{en}, true},
		{"language before type", multi(one, md, fr), device("text/markdown text/plain", "fr"), []content.Part{fr}, true},

		{"all", multi(all, md, vendor, en), content.TextDevice, []content.Part{md, en}, true},
		{"nothing of all", multi(all, vendor, vendor), content.TextDevice, nil, false},
		{"unit", multi(unit, md, en), content.TextDevice, []content.Part{md, en}, true},
		{"broken unit", multi(unit, md, vendor), content.TextDevice, nil, false},
		{"unit with a part that is not whole", multi(unit, md, multi(all, md, vendor)), content.TextDevice, nil, false},
		{"unit with a choice", multi(unit, md, multi(one, vendor, en)), content.TextDevice, []content.Part{md, en}, true},
		{"whole before part of it", multi(one, multi(all, md, vendor), multi(all, en, fr)), content.TextDevice, []content.Part{en, fr}, true},
		{"broken unit among alternatives", multi(one, multi(unit, md, vendor), en), content.TextDevice, []content.Part{en}, true},
	} {
		parts, ok := c.device.Choose(&c.body)
		var got []content.Part
		for _, p := range parts {
			got = append(got, *p)
		}
		if ok != c.ok || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: chose %+v %v, want %+v %v", c.name, got, ok, c.want, c.ok)
		}
	}
}

// TestPartIndex checks the part indexes of the draft's nested example, and references by content ID.
func TestPartIndex(t *testing.T) {
	c := decode(t, readExample(t, "multipart-3"))
	if p := c.Body.Index(10); p == nil || p.ContentType != "image/png" {
		t.Errorf("part 10: %+v", p)
	}
	if p := c.Body.Referenced(content.CID(5)); p == nil || p.ContentType != "image/gif" {
		t.Errorf("part 5: %+v", p)
	}
	for _, uri := range []string{content.CID(0), content.CID(11), "cid:5", "cid:05@local.invalid", "cid:-1@local.invalid", "cid:+5@local.invalid", "CID:5@local.invalid"} {
		if p := c.Body.Referenced(uri); p != nil {
			t.Errorf("%s names %+v", uri, p)
		}
	}
}

// TestNamedPartShownOnce checks that a picture within a text is not shown a second time (§4.4).
func TestNamedPartShownOnce(t *testing.T) {
	d := content.Device{MediaTypes: []string{"text/markdown", "image/*"}}
	picture := content.SinglePart("image/png", []byte{1})
	body := content.MultiPart(content.ProcessAll, content.MarkdownPart("![a cat](cid:2@local.invalid)"), picture, picture)
	if got, want := d.Plain(&body), "[image: a cat] (cid:2@local.invalid)\n\n[image/png, 1 bytes]"; got != want {
		t.Errorf("shown as %q, want %q", got, want)
	}
}

// TestOpen checks external parts: hash, decryption, bounds.
func TestOpen(t *testing.T) {
	plain := []byte("the content of a file")
	seal := func(keySize int) (*content.Reference, []byte) {
		key, nonce, aad := bytes.Repeat([]byte{7}, keySize), bytes.Repeat([]byte{9}, 12), []byte("aad")
		block, err := aes.NewCipher(key)
		if err != nil {
			t.Fatal(err)
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		data := aead.Seal(nil, nonce, plain, aad)
		sum := sha256.Sum256(data)
		return &content.Reference{
			Size: uint64(len(data)), Encryption: content.AES128GCM, Key: key, Nonce: nonce, AAD: aad,
			Hash: content.HashSHA256, ContentHash: sum[:],
		}, data
	}
	ref, data := seal(16)
	check := func(name string, change func(*content.Reference), data []byte, most int, want error) {
		t.Helper()
		r := *ref
		if change != nil {
			change(&r)
		}
		got, err := r.Open(data, most)
		if want == nil && (err != nil || !bytes.Equal(got, plain)) || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %q, %v; want %v", name, got, err, want)
		}
	}
	damaged := bytes.Clone(data)
	damaged[3] ^= 1
	noHash := func(r *content.Reference) { r.Hash, r.ContentHash = 0, nil }
	check("encrypted", nil, data, 0, nil)
	check("at the bound", nil, data, len(data), nil)
	check("beyond the bound", nil, data, len(data)-1, content.ErrLimit)
	check("damaged", nil, damaged, 0, content.ErrForged)
	check("without a hash", noHash, data, 0, nil)
	check("damaged without a hash", noHash, damaged, 0, content.ErrForged)
	check("cut without a hash", noHash, data[:5], 0, content.ErrForged)
	check("size of the content", func(r *content.Reference) { r.Size = uint64(len(plain)) }, data, 0, nil)
	check("unknown size", func(r *content.Reference) { r.Size = 0 }, data, 0, nil)
	check("another size", func(r *content.Reference) { r.Size = 5 }, data, 0, content.ErrForged)
	check("another key", func(r *content.Reference) { r.Key = make([]byte, 16) }, data, 0, content.ErrForged)
	check("another aad", func(r *content.Reference) { r.AAD = nil }, data, 0, content.ErrForged)
	check("short key", func(r *content.Reference) { r.Key = r.Key[:15] }, data, 0, content.ErrMalformed)
	check("long key", func(r *content.Reference) { r.Key = make([]byte, 32) }, data, 0, content.ErrMalformed)
	check("short nonce", func(r *content.Reference) { r.Nonce = r.Nonce[:11] }, data, 0, content.ErrMalformed)
	check("unknown algorithm", func(r *content.Reference) { r.Encryption = 30 }, data, 0, content.ErrUnsupported)
	check("unknown hash", func(r *content.Reference) { r.Hash = 2 }, data, 0, content.ErrUnsupported)
	check("chunks", func(r *content.Reference) { r.Encryption = content.ChunkedAES256GCM }, data, 0, content.ErrUnsupported)
	open := func(r *content.Reference) { r.Encryption = 0 }
	check("not encrypted, without a hash", func(r *content.Reference) { open(r); noHash(r) }, plain, 0, content.ErrUnsupported)
	for hash, sum := range map[content.HashAlg][]byte{content.HashSHA384: sum384(plain), content.HashSHA512: sum512(plain)} {
		check(hash.String(), func(r *content.Reference) { open(r); r.Hash, r.ContentHash, r.Size = hash, sum, 0 }, plain, 0, nil)
		check(hash.String()+", cut", func(r *content.Reference) { open(r); r.Hash, r.ContentHash = hash, sum[:20] }, plain, 0, content.ErrForged)
	}
	ref, data = seal(32)
	check("AES-256-GCM", func(r *content.Reference) { r.Encryption = content.AES256GCM }, data, 0, nil)

	// NIST's test case 4 for GCM: it does not come from the library that opens it.
	gcm := &content.Reference{
		Encryption: content.AES128GCM,
		Key:        unhex(t, "feffe9928665731c6d6a8f9467308308"),
		Nonce:      unhex(t, "cafebabefacedbaddecaf888"),
		AAD:        unhex(t, "feedfacedeadbeeffeedfacedeadbeefabaddad2"),
	}
	const text = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
	got, err := gcm.Open(unhex(t, "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091", "5bc94fbc3221a5db94fae95ae7121a47"), 0)
	if err != nil || !bytes.Equal(got, unhex(t, text)) {
		t.Errorf("AES-128-GCM test case 4: %x, %v", got, err)
	}
}

func sum384(b []byte) []byte { s := sha512.Sum384(b); return s[:] }
func sum512(b []byte) []byte { s := sha512.Sum512(b); return s[:] }

// TestChunked checks which references with the private encryption can be valid.
func TestChunked(t *testing.T) {
	valid := content.Reference{
		Encryption: content.ChunkedAES256GCM, Size: 16, Key: make([]byte, 32),
		Hash: content.HashSHA256, ContentHash: make([]byte, 32), URL: content.ChunkedURL("a.example", make([]byte, 32)),
	}
	if got, ok := valid.Organization(); !ok || got != "a.example" {
		t.Errorf("organization %q %v", got, ok)
	}
	for name, change := range map[string]func(*content.Reference){
		"other algorithm": func(r *content.Reference) { r.Encryption = content.AES256GCM },
		"short key":       func(r *content.Reference) { r.Key = r.Key[:31] },
		"nonce":           func(r *content.Reference) { r.Nonce = []byte{0} },
		"aad":             func(r *content.Reference) { r.AAD = []byte{0} },
		"other hash":      func(r *content.Reference) { r.Hash = content.HashSHA384 },
		"short hash":      func(r *content.Reference) { r.ContentHash = nil },
		"size":            func(r *content.Reference) { r.Size = 15 },
		"another hash":    func(r *content.Reference) { r.ContentHash = bytes.Repeat([]byte{1}, 32) },
		"another scheme":  func(r *content.Reference) { r.URL = strings.Replace(r.URL, "mimi", "http", 1) },
		"no organization": func(r *content.Reference) { r.URL = content.ChunkedURL("", make([]byte, 32)) },
		"a path":          func(r *content.Reference) { r.URL = content.ChunkedURL("a.example/x", make([]byte, 32)) },
	} {
		r := valid
		if err := r.CheckChunked(); err != nil {
			t.Fatal(err)
		}
		change(&r)
		if err := r.CheckChunked(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	const chunk, sealed = 65536, 65552
	for _, c := range []struct {
		size, plain uint64
		ok          bool
	}{
		{0, 0, false}, {15, 0, false}, {16, 0, true}, {17, 1, true}, {sealed - 1, chunk - 1, true}, {sealed, chunk, true},
		{sealed + 1, 0, false}, {sealed + 16, 0, false}, {sealed + 17, chunk + 1, true}, {2 * sealed, 2 * chunk, true},
	} {
		r := content.Reference{Size: c.size}
		if got, ok := r.PlainSize(); ok != c.ok || ok && got != c.plain {
			t.Errorf("size %d: %d %v, want %d %v", c.size, got, ok, c.plain, c.ok)
		}
	}
}

// TestMentions checks that only links to members are mentions, and each once.
func TestMentions(t *testing.T) {
	const alice, bob = "mimi://a.example/u/alice", "mimi://b.example/u/bob"
	text := markdown.LinkTo(alice, "Alice") + " " + markdown.LinkTo(bob, "Bob") + " <" + alice + "> [x](https://a.example)"
	c := content.Text(text)
	if got, want := c.Mentions(nil), []content.Mention{{alice, "Alice"}, {bob, "Bob"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("mentions %v, want %v", got, want)
	}
	member := func(url string) bool { return url == bob }
	if got, want := c.Mentions(member), []content.Mention{{bob, "Bob"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("mentions %v, want %v", got, want)
	}
	if got := content.Plain(text).Mentions(nil); got != nil {
		t.Errorf("a plain text mentions %v", got)
	}
}

// TestSafeName checks file names that attack a folder or a terminal.
func TestSafeName(t *testing.T) {
	for name, want := range map[string]string{
		"bigfile.mp4": "bigfile.mp4", "../../etc/passwd": "passwd", `C:\x\a.exe`: "a.exe", "": "file", "..": "file", "a/": "file",
		" .bashrc ": "bashrc", "a\x1b[2Jb": "a_[2Jb", "cod\u202egpj.exe": "cod_gpj.exe", "a:b*c": "a_b_c", "\xff": "_",
		strings.Repeat("é", 150): strings.Repeat("é", 100),
	} {
		if got := (&content.Reference{Filename: name}).SafeName(); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

// TestSalt checks that a salt depends on the secret and the nonce.
func TestSalt(t *testing.T) {
	a := content.DeriveSalt([]byte("secret"), []byte("nonce"))
	if a == content.DeriveSalt([]byte("secret"), []byte("nonce2")) || a == content.DeriveSalt([]byte("secret2"), []byte("nonce")) {
		t.Error("another secret or nonce makes the same salt")
	}
	// RFC 4231, test case 2, cut to 16 bytes.
	if got := content.DeriveSalt([]byte("Jefe"), []byte("what do ya want for nothing?")); got != content.Salt(unhex(t, "5bdcc146bf60754e6a042426089575c7")) {
		t.Errorf("salt %x", got)
	}
}
