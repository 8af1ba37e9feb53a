package content_test

import (
	"pgregory.net/rapid"

	"github.com/mlsfed/mlsfed/content"
)

// This file generates contents that Encode accepts.

func drawID(t *rapid.T, name string) content.MessageID {
	var id content.MessageID
	if rapid.Bool().Draw(t, "has "+name) {
		copy(id[1:], rapid.SliceOfN(rapid.Byte(), 31, 31).Draw(t, name))
		id[0] = 1
	}
	return id
}

// drawBytes draws a byte string; an empty one is nil, as after decoding.
func drawBytes(t *rapid.T, most int, name string) []byte {
	b := rapid.SliceOfN(rapid.Byte(), 0, most).Draw(t, name)
	if len(b) == 0 {
		return nil
	}
	return b
}

func drawKey(t *rapid.T) content.Key {
	if rapid.Bool().Draw(t, "named key") {
		return content.Key{Name: rapid.StringN(1, 60, 255).Draw(t, "name")}
	}
	const most = 1<<53 - 1
	n := rapid.Int64Range(-most, most).Filter(func(n int64) bool { return n < 0 || n > 2 }).Draw(t, "number")
	return content.Key{Number: n}
}

// drawValue draws an item with at most levels levels of arrays, maps and tags.
func drawValue(t *rapid.T, levels int) content.Raw {
	kinds := 6
	if levels > 0 {
		kinds = 9
	}
	switch rapid.IntRange(0, kinds-1).Draw(t, "value") {
	case 0:
		return content.Uint(rapid.Uint64().Draw(t, "uint"))
	case 1:
		return content.TextString(rapid.String().Draw(t, "text"))
	case 2:
		return content.ByteString(drawBytes(t, 40, "bytes"))
	case 3:
		v := content.Uint(rapid.Uint64().Draw(t, "negative"))
		v[0] |= 1 << 5
		return v
	case 4: // undefined is not among them: the other implementation does not distinguish it from null
		return content.Raw{rapid.SampledFrom([]byte{0xf4, 0xf5, 0xf6, 0xe0}).Draw(t, "simple")}
	case 5:
		return rapid.SampledFrom([]content.Raw{
			{0xf9, 0x7e, 0x00}, {0xf9, 0x3c, 0x00}, {0xfa, 0x47, 0xc3, 0x50, 0x00}, {0xfb, 0x3f, 0xf1, 0x99, 0x99, 0x99, 0x99, 0x99, 0x9a},
		}).Draw(t, "float")
	case 6:
		n := rapid.IntRange(0, 4).Draw(t, "elements")
		v := content.Raw{0x80 | byte(n)}
		for range n {
			v = append(v, drawValue(t, levels-1)...)
		}
		return v
	case 7:
		n := rapid.IntRange(0, 4).Draw(t, "pairs")
		v := content.Raw{0xa0 | byte(n)}
		for i := range n {
			v = append(append(v, byte(i)), drawValue(t, levels-1)...)
		}
		return v
	}
	return append(content.Raw{0xd8, 0x20}, drawValue(t, levels-1)...) // tag 32
}

func drawPart(t *rapid.T, level int) content.Part {
	p := content.Part{
		Disposition: content.Disposition(rapid.Byte().Draw(t, "disposition")),
		Language:    rapid.SampledFrom([]string{"", "en", "fr, de-CH", "x"}).Draw(t, "language"),
	}
	most := 4
	if level == content.MaxPartDepth {
		most = 3
	}
	switch rapid.IntRange(0, most).Draw(t, "cardinality") {
	case 0:
	case 1:
		p.Cardinality = content.Single
		p.ContentType = rapid.SampledFrom([]string{content.PlainText, content.Markdown, "image/png", "\x00", ""}).Draw(t, "type")
		p.Content = drawBytes(t, 200, "content")
	case 2:
		p.Cardinality = content.External
		p.ContentType = rapid.String().Draw(t, "type")
		p.External = drawReference(t)
	case 3:
		p.Cardinality = content.Cardinality(rapid.Uint64Min(4).Draw(t, "unknown"))
		for range rapid.IntRange(0, 3).Draw(t, "rest") {
			p.Rest = append(p.Rest, drawValue(t, content.MaxExtensionDepth))
		}
	default:
		p.Cardinality = content.Multi
		p.Semantics = content.Semantics(rapid.IntRange(0, 2).Draw(t, "semantics"))
		for range rapid.IntRange(2, 4).Draw(t, "parts") {
			p.Parts = append(p.Parts, drawPart(t, level+1))
		}
	}
	return p
}

func drawReference(t *rapid.T) *content.Reference {
	return &content.Reference{
		URL:         rapid.String().Draw(t, "url"),
		Expires:     rapid.Uint32().Draw(t, "end"),
		Size:        rapid.Uint64().Draw(t, "size"),
		Encryption:  content.EncryptionAlg(rapid.Uint16().Draw(t, "encryption")),
		Key:         drawBytes(t, 32, "key"),
		Nonce:       drawBytes(t, 12, "nonce"),
		AAD:         drawBytes(t, 12, "aad"),
		Hash:        content.HashAlg(rapid.Byte().Draw(t, "hash")),
		ContentHash: drawBytes(t, 32, "content hash"),
		Description: rapid.String().Draw(t, "description"),
		Filename:    rapid.String().Draw(t, "filename"),
	}
}

func drawContent(t *rapid.T) *content.Content {
	c := &content.Content{
		Replaces:  drawID(t, "replaces"),
		TopicID:   drawBytes(t, 50, "topic"),
		InReplyTo: drawID(t, "inReplyTo"),
		Body:      drawPart(t, 1),
	}
	copy(c.Salt[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "salt"))
	c.Salt[0] |= 1
	if rapid.Bool().Draw(t, "expires") {
		c.Expires = &content.Expiration{Relative: rapid.Bool().Draw(t, "relative"), Seconds: rapid.Uint32().Draw(t, "seconds")}
	}
	for range rapid.IntRange(0, 4).Draw(t, "extensions") {
		c.SetExtension(drawKey(t), drawValue(t, content.MaxExtensionDepth-1))
	}
	if rapid.Bool().Draw(t, "origin") {
		c.SetExtension(content.KeySender, content.TextString("mimi://a.example/u/alice"))
		c.SetExtension(content.KeyRoom, content.TextString(rapid.String().Draw(t, "room")))
	}
	return c
}
