package client

import (
	"bytes"
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

func TestInvitationReadsWhatItWrites(t *testing.T) {
	for _, i := range []Invitation{
		{Host: "n1.a.example:8443", Code: "ABCD-1234", Domain: "a.example", User: "alice"},
		{Host: "127.0.0.1:1", Code: "x", Domain: "a.example", User: "alice.b~c_d-e", Root: wire.Hash{1, 2}},
		{Host: "[::1]:8443", Domain: "a.example", User: "alice", Root: wire.Hash{9}},
	} {
		got, err := ParseInvitation("  " + i.String() + "\n")
		if err != nil || got != i {
			t.Errorf("%s: %+v, %v", i, got, err)
		}
	}
	i, err := ParseInvitation("mlsfed://h:1/C?domain=a.example&user=alice")
	check(t, err)
	if id, err := i.DeviceID("phone"); err != nil || id != alicePhone {
		t.Errorf("device %s, %v", id, err)
	}
	if _, err := i.DeviceID("Pho ne"); err == nil {
		t.Error("bad device name")
	}
}

func TestInvitationRefuses(t *testing.T) {
	for name, s := range map[string]string{
		"nothing":         "",
		"another scheme":  "https://h/C?domain=a.example&user=alice",
		"no host":         "mlsfed:///C?domain=a.example&user=alice",
		"no user":         "mlsfed://h/C?domain=a.example",
		"bad domain":      "mlsfed://h/C?domain=A.example&user=alice",
		"unknown":         "mlsfed://h/C?domain=a.example&user=alice&x=1",
		"twice":           "mlsfed://h/C?domain=a.example&user=alice&user=bob",
		"short root":      "mlsfed://h/C?domain=a.example&user=alice&root=00",
		"path":            "mlsfed://h/C/D?domain=a.example&user=alice",
		"fragment":        "mlsfed://h/C?domain=a.example&user=alice#x",
		"password":        "mlsfed://u:p@h/C?domain=a.example&user=alice",
		"over the limit":  "mlsfed://h/" + strings.Repeat("C", maxInvitation) + "?domain=a.example&user=alice",
		"bad escape":      "mlsfed://h/C?domain=%zz",
		"control letters": "mlsfed://h/C\x00?domain=a.example&user=alice",
	} {
		_, err := ParseInvitation(s)
		if code := wire.CodeOf(err); code != wire.Malformed && code != wire.TooLarge {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func goodFile() *File {
	return &File{Name: "a", Size: 1, Key: make([]byte, fileKeySize), Blob: wire.BlobRef{Size: 17}, Organization: "a.example"}
}

func TestContentRules(t *testing.T) {
	id := MessageID{1}
	file := func(change func(*File)) *File { f := goodFile(); change(f); return f }
	for name, c := range map[string]struct {
		c    Content
		want wire.Code
	}{
		"text":               {Content{Type: ContentText, Text: "x", ID: id}, ""},
		"unknown type":       {Content{Type: 99, ID: id}, ""},
		"file":               {Content{Type: ContentFile, File: goodFile(), ID: id}, ""},
		"largest":            {Content{Type: ContentBytes, Body: make([]byte, MaxText), ID: id}, ""},
		"over the limit":     {Content{Type: ContentBytes, Body: make([]byte, MaxText), Text: "x", ID: id}, wire.TooLarge},
		"no id":              {Content{Type: ContentText}, wire.Malformed},
		"no type":            {Content{ID: id}, wire.Malformed},
		"no UTF-8":           {Content{Type: ContentText, Text: "\xff", ID: id}, wire.Malformed},
		"most receipts":      {Content{Type: ContentReceipt, Refs: make([]MessageID, MaxReceipts), ID: id}, ""},
		"too many receipts":  {Content{Type: ContentReceipt, Refs: make([]MessageID, MaxReceipts+1), ID: id}, wire.TooLarge},
		"text with file":     {Content{Type: ContentText, File: goodFile(), ID: id}, wire.Malformed},
		"file without":       {Content{Type: ContentFile, ID: id}, wire.Malformed},
		"file without name":  {Content{Type: ContentFile, ID: id, File: file(func(f *File) { f.Name = "" })}, wire.Malformed},
		"file, long name":    {Content{Type: ContentFile, ID: id, File: file(func(f *File) { f.Name = strings.Repeat("x", 256) })}, wire.Malformed},
		"file, short key":    {Content{Type: ContentFile, ID: id, File: file(func(f *File) { f.Key = f.Key[1:] })}, wire.Malformed},
		"file, another size": {Content{Type: ContentFile, ID: id, File: file(func(f *File) { f.Size = 2 })}, wire.Malformed},
		"file, huge":         {Content{Type: ContentFile, ID: id, File: file(func(f *File) { f.Size = 1 << 62 })}, wire.Malformed},
		"file of nowhere":    {Content{Type: ContentFile, ID: id, File: file(func(f *File) { f.Organization = "" })}, wire.Malformed},
	} {
		b, err := EncodeContent(&c.c)
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if _, err := DecodeContent(b); err != nil {
				t.Errorf("%s: decode: %v", name, err)
			}
			continue
		}
		if err == nil || c.want == wire.TooLarge && wire.CodeOf(err) != c.want {
			t.Errorf("%s: %v, wanted %s", name, err, c.want)
		}
	}
}

func FuzzContent(f *testing.F) {
	for _, c := range []*Content{{Type: ContentText, Text: "x", ID: MessageID{1}, Time: 7}, {Type: ContentFile, File: goodFile(), ID: MessageID{1}},
		{Type: ContentReceipt, Refs: []MessageID{{2}}, ID: MessageID{3}}} {
		b, err := EncodeContent(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeContent(b)
		if err != nil {
			return
		}
		again, err := EncodeContent(c)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("decoded from %x, encodes to %x (%v)", b, again, err)
		}
	})
}

func FuzzInvitation(f *testing.F) {
	f.Add("mlsfed://n1.a.example:8443/CODE?domain=a.example&user=alice&root=" + wire.Hash{1}.String())
	if s, ok := (Invitation{Host: "h:1", Code: "FSGG-IDOT-SE3S-OQVL-GIS4-IUIR-VI", Domain: "a.example", User: "alice", Root: wire.Hash{1}}).Compact(); ok {
		f.Add(s)
	}
	f.Add("MLSFED:" + compactEncoding.EncodeToString(append([]byte{1, 255}, make([]byte, 400)...)))
	f.Fuzz(func(t *testing.T, s string) {
		i, err := ParseInvitation(s)
		if err != nil {
			return
		}
		again, err := ParseInvitation(i.String())
		if err != nil || again != i {
			t.Fatalf("%q is %+v, read again %+v (%v)", s, i, again, err)
		}
	})
}

// FuzzStatement decodes four formats: claims of a committer, rules, the sighting in a message, and a node's answer
// about a delivery list. The first byte selects the format.
func FuzzStatement(f *testing.F) {
	s, err := wire.Encode(&statement{Binding: wire.Hash{1}, Last: 3, Evidence: [][]byte{{1}}})
	if err != nil {
		f.Fatal(err)
	}
	r, err := wire.Encode(&Rules{Version: 1, Name: "x", Admins: []wire.UserID{alice, bob}, MembersAdd: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append([]byte{0}, s...))
	g, err := wire.Encode(&sighting{Last: 3, Order: wire.Hash{1}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append([]byte{1}, r...))
	f.Add(append([]byte{2}, g...))
	report := &readersReport{List: wire.DeliveryHead{Parent: 1, Addresses: 2}, Members: wire.DeliveryHead{Parent: 1, Addresses: 1}}
	if g, err = wire.Encode(report); err != nil {
		f.Fatal(err)
	}
	f.Add(append([]byte{3}, g...))
	if s, err = wire.Encode(&statement{Last: 3, Readers: report}); err != nil {
		f.Fatal(err)
	}
	f.Add(append([]byte{0}, s...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return
		}
		v := []any{new(statement), new(Rules), new(sighting), new(readersReport)}[b[0]%4]
		if b = b[1:]; wire.Decode(b, maxStatement, v) != nil {
			return
		}
		again, err := wire.Encode(v)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("decoded from %x, encodes to %x (%v)", b, again, err)
		}
	})
}
