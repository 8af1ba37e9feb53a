package content_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/content"
)

// unhex joins and decodes hexadecimal with blanks.
func unhex(t testing.TB, parts ...string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(strings.Join(parts, ""), " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Pieces of a smallest content, in hexadecimal.
const (
	salt     = "50 000102030405060708090a0b0c0d0e0f"
	null     = "f6"
	noTopic  = "40"
	noFields = "a0"
	nullPart = "83 01 60 00"
	someID   = "5820 01 00000000000000000000000000000000000000000000000000000000000000"
)

// with returns the smallest content with other extension fields and another body.
func with(fields, body string) string {
	return "87" + salt + null + noTopic + null + null + fields + body
}

// value returns a content with an extension field of the key 256.
func value(item string) string { return with("a1 190100"+item, nullPart) }

// TestMalformed checks that Decode refuses bad input with the right error.
func TestMalformed(t *testing.T) {
	if _, err := content.Decode(unhex(t, with(noFields, nullPart)), content.Limits{}); err != nil {
		t.Fatalf("the smallest content: %v", err)
	}
	for _, c := range []struct{ name, input string }{
		{"empty", ""},
		{"not an array", "a0"},
		{"too few fields", "86" + salt + null + noTopic + null + null + noFields},
		{"too many fields", "88" + salt + null + noTopic + null + null + noFields + nullPart + "00"},
		{"eight fields announced", "88" + salt + null + noTopic + null + null + noFields + nullPart},
		{"array of unknown length", "9f" + salt + null + noTopic + null + null + noFields + nullPart + "ff"},
		{"trailing byte", with(noFields, nullPart) + "00"},
		{"second content", with(noFields, nullPart) + with(noFields, nullPart)},

		{"salt of 15 bytes", "87 4f000102030405060708090a0b0c0d0e" + null + noTopic + null + null + noFields + nullPart},
		{"salt of zeros", "87 50" + strings.Repeat("00", 16) + null + noTopic + null + null + noFields + nullPart},
		{"salt in chunks", "87 5f 48 0001020304050607 48 08090a0b0c0d0e0f ff" + null + noTopic + null + null + noFields + nullPart},
		{"salt as text", "87 70 61616161616161616161616161616161" + null + noTopic + null + null + noFields + nullPart},
		{"salt with a long length", "87 5810 000102030405060708090a0b0c0d0e0f" + null + noTopic + null + null + noFields + nullPart},

		{"replaces of 31 bytes", "87" + salt + "581f 01" + strings.Repeat("00", 30) + noTopic + null + null + noFields + nullPart},
		{"replaces with an unknown hash algorithm", "87" + salt + "5820 02" + strings.Repeat("00", 31) + noTopic + null + null + noFields + nullPart},
		{"replaces undefined", "87" + salt + "f7" + noTopic + null + null + noFields + nullPart},
		{"inReplyTo with an unknown hash algorithm", "87" + salt + null + noTopic + null + "5820 00" + strings.Repeat("00", 31) + noFields + nullPart},
		{"topicId null", "87" + salt + null + null + null + null + noFields + nullPart},

		{"expires of one field", "87" + salt + null + noTopic + "81f5" + null + noFields + nullPart},
		{"expires of three fields", "87" + salt + null + noTopic + "83f50000" + null + noFields + nullPart},
		{"expires with three fields announced", "87" + salt + null + noTopic + "83f500" + null + noFields + nullPart},
		{"expires without a boolean", "87" + salt + null + noTopic + "820000" + null + noFields + nullPart},
		{"expires negative", "87" + salt + null + noTopic + "82f520" + null + noFields + nullPart},
		{"expires of 33 bits", "87" + salt + null + noTopic + "82f51b0000000100000000" + null + noFields + nullPart},
		{"expires with a long number", "87" + salt + null + noTopic + "82f51800" + null + noFields + nullPart},

		{"fields as an array", with("80", nullPart)},
		{"more fields than bytes", with("bb ffffffffffffffff", nullPart)},
		{"map of unknown length", with("bf ff", nullPart)},
		{"duplicate field", with("a2 190100 00 190100 01", nullPart)},
		{"duplicate named field", with("a2 6161 00 6161 01", nullPart)},
		{"fields out of order", with("a2 6161 00 190100 00", nullPart)},
		{"fields in the order of RFC 7049: by length", with("a2 20 00 190100 00", nullPart)},
		{"reserved field 0", with("a1 00 00", nullPart)},
		{"field with an empty name", with("a1 60 00", nullPart)},
		{"field with a name of 256 bytes", with("a1 790100"+strings.Repeat("61", 256)+"00", nullPart)},
		{"field with a byte string as key", with("a1 4161 00", nullPart)},
		{"field with an array as key", with("a1 80 00", nullPart)},
		{"field with a number above 2^53-1", with("a1 1b0020000000000000 00", nullPart)},
		{"field with a number below -(2^53-1)", with("a1 3b001fffffffffffff 00", nullPart)},
		{"sender is a number", with("a1 01 00", nullPart)},
		{"room is bytes", with("a1 02 4161", nullPart)},
		{"field without a value", with("a1 190100", "")},

		{"number with one byte too many", value("1817")},
		{"number with two bytes for one", value("1900ff")},
		{"number with four bytes for two", value("1a0000ffff")},
		{"number with eight bytes for four", value("1b00000000ffffffff")},
		{"reserved additional information", value("1c")},
		{"break", value("ff")},
		{"text in chunks", value("7f6161ff")},
		{"text that is not UTF-8", value("62c328")},
		{"text with a surrogate", value("63eda080")},
		{"text longer than the input", value("7a7fffffff61")},
		{"bytes longer than any input", value("5bffffffffffffffff61")},
		{"array longer than any input", value("9bffffffffffffffff")},
		{"array longer than the input", value("9a7fffffff00")},
		{"map longer than the input", value("ba7fffffff0000")},
		{"inner map with a duplicate key", value("a2 01 00 01 00")},
		{"inner map out of order", value("a2 02 00 01 00")},
		{"inner map with a boolean as key", value("a1 f5 00")},
		{"inner map with a tag as key", value("a1 c1 00 00")},
		{"inner map with a key above 2^53-1", value("a1 1b0020000000000000 00")},
		{"simple value in two bytes", value("f818")},
		{"false in two bytes", value("f814")},
		{"double that is a single", value("fb3ff0000000000000")},
		{"single that is a half", value("fa3f800000")},
		{"single that is a subnormal half", value("fa33800000")},
		{"single infinity", value("fa7f800000")},
		{"double infinity", value("fb7ff0000000000000")},
		{"single NaN", value("fa7fc00000")},
		{"double NaN", value("fb7ff8000000000000")},
		{"half NaN with a payload", value("f97e01")},
		{"negative half NaN", value("f9fe00")},
		{"bignum that is an integer", value("c2480100000000000000")},
		{"bignum with a leading zero", value("c249000100000000000000")},
		{"bignum without bytes", value("c200")},
		{"tag with a long number", value("d80100")},

		{"part is a map", with(noFields, "a0")},
		{"part of two fields", with(noFields, "820160")},
		{"null part with more", with(noFields, "8401600000")},
		{"part without its end", with(noFields, "8301")},
		{"disposition 256", with(noFields, "83 190100 60 00")},
		{"disposition negative", with(noFields, "83 20 60 00")},
		{"disposition as text", with(noFields, "83 6161 60 00")},
		{"language null", with(noFields, "83 01 f6 00")},
		{"language not UTF-8", with(noFields, "83 01 61ff 00")},
		{"cardinality negative", with(noFields, "83 01 60 20")},
		{"null part with four fields announced", with(noFields, "84016000")},
		{"single part with six fields announced", with(noFields, "86 01 60 01 60 40")},
		{"multi part with six fields announced", with(noFields, "86 01 60 03 00 82"+nullPart+nullPart)},
		{"single part of four fields", with(noFields, "84 01 60 01 60")},
		{"single part with text content", with(noFields, "85 01 60 01 60 60")},
		{"single part with bytes as type", with(noFields, "85 01 60 01 40 40")},
		{"external part of 14 fields", with(noFields, "8e 01 60 02 60 60 00 00 00 40 40 40 00 40 60")},
		{"external part with encAlg 65536", with(noFields, "8f 01 60 02 60 60 00 00 1a00010000 40 40 40 00 40 60 60")},
		{"external part with hashAlg 256", with(noFields, "8f 01 60 02 60 60 00 00 00 40 40 40 190100 40 60 60")},
		{"external part with expires of 33 bits", with(noFields, "8f 01 60 02 60 60 1b0000000100000000 00 00 40 40 40 00 40 60 60")},
		{"multi part of one part", with(noFields, "85 01 60 03 00 81"+nullPart)},
		{"multi part of no part", with(noFields, "85 01 60 03 00 80")},
		{"unknown part semantics", with(noFields, "85 01 60 03 03 82"+nullPart+nullPart)},
		{"multi part with a number among its parts", with(noFields, "85 01 60 03 00 82"+nullPart+"00")},
		{"multi part with an item of an unknown cardinality that is malformed", with(noFields, "84 01 60 04 1817")},
		{"more parts than bytes", with(noFields, "85 01 60 03 00 99 0100"+nullPart+nullPart)},
	} {
		_, err := content.Decode(unhex(t, c.input), content.Limits{})
		if !errors.Is(err, content.ErrMalformed) {
			t.Errorf("%s: error %v, want %v", c.name, err, content.ErrMalformed)
		}
	}
}

// TestAccepted checks unusual input that the draft allows, and that it encodes to the same bytes.
func TestAccepted(t *testing.T) {
	for _, c := range []struct{ name, input string }{
		{"ids and expiration", "87" + salt + someID + "4161" + "82f500" + someID + noFields + nullPart},
		{"field with a name of 255 bytes", with("a1 78ff"+strings.Repeat("61", 255)+"00", nullPart)},
		{"largest number of a field", with("a1 1b001fffffffffffff 00", nullPart)},
		{"least number of a field", with("a1 3b001ffffffffffffe 00", nullPart)},
		{"order of the encodings: 256 before -1", with("a2 190100 00 20 00", nullPart)},
		{"inner map with keys of three types", value("a3 01 00 4161 00 6161 00")},
		{"half NaN", value("f97e00")},
		{"half infinity", value("f97c00")},
		{"half zero", value("f90000")},
		{"single", value("fa47c35000")},
		{"single with one bit too many for a half", value("fa3f801000")},
		{"single below the halves", value("fa33000000")},
		{"single with one bit too many for a subnormal half", value("fa33c00000")},
		{"double", value("fb3ff199999999999a")},
		{"bignum", value("c249010000000000000000")},
		{"largest number", value("1bffffffffffffffff")},
		{"negative number of 64 bits", value("3bffffffffffffffff")},
		{"undefined", value("f7")},
		{"simple value 255", value("f8ff")},
		{"typed array", value("d850 4400000000")},
		{"unknown disposition", with(noFields, "83 18ff 60 00")},
		{"unknown cardinality", with(noFields, "85 01 60 1865 81 00 a1 01 00")},
		{"unknown cardinality without fields", with(noFields, "83 01 60 1bffffffffffffffff")},
		{"unknown algorithms", with(noFields, "8f 01 60 02 60 60 00 00 19ffff 40 40 40 18ff 40 60 60")},
	} {
		b := unhex(t, c.input)
		got, err := content.Decode(b, content.Limits{})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if again, err := got.Encode(content.Limits{}); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%s: encoded to %x (%v), want %x", c.name, again, err, b)
		}
	}
}

// nested returns a part that is depth levels deep.
func nested(depth int) string {
	part := nullPart
	for range depth - 1 {
		part = "85 01 60 03 02 82" + part + nullPart
	}
	return part
}

// parts returns a body of n parts at all levels together.
func manyParts(n int) string {
	return fmt.Sprintf("85 01 60 03 02 99 %04x", n-1) + strings.Repeat(nullPart, n-1)
}

// fieldsOf returns a map of n extension fields.
func fieldsOf(n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "b8%02x", n)
	for i := range n {
		fmt.Fprintf(&b, "19%04x00", 1000+i)
	}
	return b.String()
}

// TestLimits checks each limit on either side, by its default and by a configured value.
func TestLimits(t *testing.T) {
	topic := func(n int) string {
		return "87" + salt + null + fmt.Sprintf("59%04x", n) + strings.Repeat("61", n) + null + null + noFields + nullPart
	}
	sized := func(n int) string { // a content of n bytes
		const frame = 33
		return with(noFields, fmt.Sprintf("85 01 60 01 60 5a%08x", n-frame)+strings.Repeat("61", n-frame))
	}
	// The map of all fields is level 1 (§6.3).
	levels := func(n int) string { return value(strings.Repeat("81", n-1) + "00") }
	tags := func(n int) string { return value(strings.Repeat("c1", n-1) + "00") }
	maps := func(n int) string { return value(strings.Repeat("a101", n-1) + "00") }
	rest := func(n int) string { return with(noFields, "84 01 60 04"+strings.Repeat("81", n)+"00") }
	for _, c := range []struct {
		name       string
		limits     content.Limits
		ok, beyond string
	}{
		{"levels of parts", content.Limits{}, with(noFields, nested(4)), with(noFields, nested(5))},
		{"levels of arrays", content.Limits{}, levels(4), levels(5)},
		{"levels of tags", content.Limits{}, tags(4), tags(5)},
		{"levels of maps", content.Limits{}, maps(4), maps(5)},
		{"levels after an unknown cardinality", content.Limits{}, rest(4), rest(5)},
		{"parts", content.Limits{}, with(noFields, manyParts(1024)), with(noFields, manyParts(1025))},
		{"parts, set", content.Limits{Parts: 300}, with(noFields, manyParts(300)), with(noFields, manyParts(301))},
		{"topic", content.Limits{}, topic(4096), topic(4097)},
		{"topic, set", content.Limits{Topic: 300}, topic(300), topic(301)},
		{"fields", content.Limits{}, with(fieldsOf(64), nullPart), with(fieldsOf(65), nullPart)},
		{"fields, set", content.Limits{Extensions: 30}, with(fieldsOf(30), nullPart), with(fieldsOf(31), nullPart)},
		{"bytes", content.Limits{}, sized(content.DefaultSize), sized(content.DefaultSize + 1)},
		{"bytes, set", content.Limits{Size: 100000}, sized(100000), sized(100001)},
	} {
		b := unhex(t, c.ok)
		got, err := content.Decode(b, c.limits)
		if err != nil {
			t.Errorf("%s: at the limit: %v", c.name, err)
			continue
		}
		if again, err := got.Encode(c.limits); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%s: at the limit: encode: %v", c.name, err)
		}
		if c.limits.Size > 0 && len(b) != c.limits.Size {
			t.Errorf("%s: the content has %d bytes, wanted %d", c.name, len(b), c.limits.Size)
		}
		b = unhex(t, c.beyond)
		if _, err = content.Decode(b, c.limits); !errors.Is(err, content.ErrLimit) {
			t.Errorf("%s: beyond the limit: %v, want %v", c.name, err, content.ErrLimit)
		}
	}
	// Encode refuses what Decode refuses.
	c := decode(t, unhex(t, with(noFields, manyParts(1024))))
	c.Body.Parts = append(c.Body.Parts, content.Part{})
	if _, err := c.Encode(content.Limits{}); !errors.Is(err, content.ErrLimit) {
		t.Errorf("encode 1025 parts: %v", err)
	}
	c.Body = content.MultiPart(content.ProcessAll, content.Part{}, content.Part{})
	c.Body.Parts[0] = c.Body // without end
	if _, err := c.Encode(content.Limits{}); !errors.Is(err, content.ErrLimit) {
		t.Errorf("encode a part within itself: %v", err)
	}
}

// TestHostile checks input that attacks the decoder's time or memory. An error comes before memory is allocated for
// what the input announces; the bound is a multiple of the length of the input.
func TestHostile(t *testing.T) {
	// factor is the most bytes of memory for each byte of input: a part of four bytes becomes a Part.
	const factor, fixed = 50, 64 << 10
	deep := strings.Repeat("85 01 60 03 02 82", 1000)
	wide := with(noFields, "85 01 60 03 02 99 2710"+strings.Repeat(nullPart, 10000))
	announced := "85 01 60 03 00 9a 0fffffff"
	many := content.Limits{Parts: 1 << 30, Extensions: 1 << 30}
	for _, c := range []struct {
		name, input string
		limits      content.Limits
		ok          bool
	}{
		{name: "parts nested 1,000 deep", input: with(noFields, deep+nullPart)},
		{name: "arrays nested 1,000 deep", input: value(strings.Repeat("81", 1000))},
		{name: "maps nested 1,000 deep", input: value(strings.Repeat("a101", 1000))},
		{name: "tags nested 1,000 deep", input: value(strings.Repeat("c1", 1000))},
		{name: "10,000 parts", input: wide},
		{name: "10,000 parts, allowed", input: wide, limits: many, ok: true},
		{name: "announced parts at each level", input: with(noFields, strings.Repeat(announced, 4)), limits: many},
		{name: "half of the announced parts at each level", limits: many,
			input: with(noFields, strings.Repeat("85 01 60 03 00 99 2000", 3)+strings.Repeat("00", 40000))},
		{name: "announced fields", input: with("ba 7fffffff", nullPart), limits: many},
		{name: "announced items", input: with(noFields, "9b 7fffffffffffffff 01 60 04"), limits: many},
		{name: "announced bytes", input: with(noFields, "85 01 60 01 60 5b 7fffffffffffffff")},
		{name: "200 KB of items after an unknown cardinality", ok: true,
			input: with(noFields, "9a 00030d43 01 60 04"+strings.Repeat("00", 200000))},
		{name: "200 KB of false", ok: true, input: value("9a 00030d40" + strings.Repeat("f4", 200000))},
	} {
		b := unhex(t, c.input)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := content.Decode(b, c.limits)
		runtime.ReadMemStats(&after)
		if (err == nil) != c.ok {
			t.Errorf("%s: error %v, want one: %v", c.name, err, !c.ok)
		}
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(factor*len(b)+fixed); got > most {
			t.Errorf("%s: %d bytes of memory for %d bytes of input, at most %d", c.name, got, len(b), most)
		}
	}
}

// TestEncodeRefuses checks contents that cannot be encoded.
func TestEncodeRefuses(t *testing.T) {
	valid := func() *content.Content { return content.Text("hello").WithSalt(content.Salt{1}) }
	if _, err := valid().Encode(content.Limits{}); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*content.Content){
		"no salt":                func(c *content.Content) { c.Salt = content.Salt{} },
		"unknown hash algorithm": func(c *content.Content) { c.Replaces[0] = 9 },
		"key with both forms":    func(c *content.Content) { c.SetExtension(content.Key{Name: "a", Number: 1}, content.Uint(0)) },
		"key 0":                  func(c *content.Content) { c.SetExtension(content.Key{}, content.Uint(0)) },
		"duplicate key": func(c *content.Content) {
			c.Extensions = []content.Extension{{content.KeyEdit, content.Uint(0)}, {content.KeyEdit, content.Uint(0)}}
		},
		"empty value":         func(c *content.Content) { c.SetExtension(content.KeyEdit, content.Raw{}) },
		"two values":          func(c *content.Content) { c.SetExtension(content.KeyEdit, content.Raw{0, 0}) },
		"value of two halves": func(c *content.Content) { c.SetExtension(content.KeyEdit, content.Raw{0x82, 0}) },
		"values that become others": func(c *content.Content) {
			c.Extensions = []content.Extension{
				{Key: content.Key{Number: 1000}, Value: content.Raw{0x81}}, {Key: content.Key{Number: 1001}, Value: content.Raw{0x19, 0x03, 0xea, 0}},
			}
		},
		"rest that becomes another": func(c *content.Content) {
			c.Body = content.Part{Cardinality: 9, Rest: []content.Raw{{0x81}, {0, 0}}}
		},
		"sender as a number": func(c *content.Content) { c.SetExtension(content.KeySender, content.Uint(0)) },
		"text not UTF-8":     func(c *content.Content) { c.Body.Language = "\xff" },
		"null with a type":   func(c *content.Content) { c.Body = content.Part{ContentType: "a/b"} },
		"single with parts":  func(c *content.Content) { c.Body.Parts = make([]content.Part, 2) },
		"single with a URL":  func(c *content.Content) { c.Body.External = new(content.Reference) },
		"external without":   func(c *content.Content) { c.Body = content.Part{Cardinality: content.External} },
		"multi of one part":  func(c *content.Content) { c.Body = content.MultiPart(content.ChooseOne, c.Body) },
		"semantics 3":        func(c *content.Content) { c.Body = content.MultiPart(3, c.Body, c.Body) },
		"single with rest":   func(c *content.Content) { c.Body.Rest = []content.Raw{{0}} },
		"rest of two items":  func(c *content.Content) { c.Body = content.Part{Cardinality: 9, Rest: []content.Raw{{0, 0}}} },
	} {
		c := valid()
		change(c)
		if b, err := c.Encode(content.Limits{}); !errors.Is(err, content.ErrMalformed) {
			t.Errorf("%s: %x, %v", name, b, err)
		}
	}
}
