package client

import (
	"bytes"
	"errors"
	"slices"
	"unicode/utf8"

	"github.com/mlsfed/mlsfed/content"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// ContentID identifies a message, a reaction or an edit for all members of a conversation, whatever the device and the
// format: see docs/spec/content.md. It is not a MessageID, which a sender chooses freely.
type ContentID = content.MessageID

// extensionContent is listed in the capabilities of a leaf whose device reads the contents of package content. It is
// used nowhere else. A conversation writes these contents while all members list it, and Content otherwise. A device
// reads both formats.
const extensionContent mlscore.ExtensionType = 0xf0ab

// extensionRoom has the id of the first conversation in a line of conversations that succeed each other. It is in the
// GroupInfo of a Welcome, where a joining device cannot know the first conversation. A device that does not know the
// extension ignores it.
const extensionRoom mlscore.ExtensionType = 0xf0ac

// recordRoom is the letter of the records of first conversations: conversation → id of the first conversation.
const recordRoom = 'I'

func roomKey(id ConversationID) []byte { return recordKey(recordRoom, idPart(id)) }

// writesContent reports whether all members read the contents of package content.
func (t *conversation) writesContent() bool {
	return t.group != nil && t.group.Public().AllSupport(extensionContent)
}

// first returns the first conversation in the line of this one. Its id is in the URI of the room, which does not change
// when a conversation moves to another cipher suite.
func (t *conversation) first() (ConversationID, error) {
	id, r := t.id, t.rec
	for {
		known, ok, err := t.u.Get(roomKey(id))
		if err != nil || ok {
			return wire.ConversationID(known), err
		}
		before, old, err := t.predecessor(r)
		if err != nil || old == nil {
			return id, err
		}
		id, r = before, old
	}
}

// oldest returns the oldest conversation in the line that is on this device. The records about contents have its id,
// so that they need not be copied when the conversation moves. Unlike first it depends on no other member.
func (t *conversation) oldest() (ConversationID, error) {
	id, r := t.id, t.rec
	for {
		before, old, err := t.predecessor(r)
		if err != nil || old == nil {
			return id, err
		}
		id, r = before, old
	}
}

// room returns the URI of the conversation (draft-ietf-mimi-content §3.3). It has no authority: a conversation belongs
// to no organization alone.
func (t *conversation) room() (string, error) {
	id, err := t.first()
	return "mimi:///r/" + id.String(), err
}

// roomExtension returns the first conversation for joining devices, if it is another one.
func (t *conversation) roomExtension() (mlscore.Extensions, error) {
	id, err := t.first()
	if err != nil || id == t.id {
		return nil, err
	}
	return mlscore.Extensions{{Type: extensionRoom, Data: []byte(id)}}, nil
}

// takeRoom keeps the first conversation that a Welcome names. A member that names a wrong one makes the ids of the
// joining device wrong, and nobody else's.
func (t *conversation) takeRoom(extensions mlscore.Extensions) {
	if len(t.rec.Line.From) > 0 {
		return // this device knows the line itself
	}
	if data, ok := extensions.Find(extensionRoom); ok && wire.ConversationID(data).Check() == nil {
		t.u.put(roomKey(t.id), data)
	}
}

// contentIDOf returns the id of an encoded message of this conversation. own is the sender's id of the message: the salt
// in the format of package content.
func (t *conversation) contentIDOf(sender UserID, body []byte, own MessageID) (ContentID, error) {
	room, err := t.room()
	if err != nil {
		return ContentID{}, err
	}
	return content.DeriveID(string(sender), room, body, content.Salt(own))
}

// parsed is the decoded body of an application message.
type parsed struct {
	shown *Content         // as applications get it
	mimi  *content.Content // nil for a message in the format of Content
}

// isMIMI reports whether a body is a content of package content: an array. A Content is a map.
func isMIMI(body []byte) bool { return len(body) > 0 && body[0]>>5 == 4 }

// parseContent decodes the body of an application message in either format.
func parseContent(body []byte) (*parsed, error) {
	if !isMIMI(body) {
		c, err := DecodeContent(body)
		return &parsed{shown: c}, err
	}
	m, err := content.Decode(body, content.Limits{})
	if err != nil {
		code := wire.Malformed
		if errors.Is(err, content.ErrLimit) {
			code = wire.TooLarge
		}
		return nil, wire.Errorf(code, "content", "%v", err)
	}
	return &parsed{shown: shownContent(m), mimi: m}, nil
}

const bytesType = "application/octet-stream"

// fitsMIMI reports whether a content has a form in package content. Receipts, bodies with a text and contents of later
// types keep their format.
func fitsMIMI(c *Content) bool {
	switch c.Type {
	case ContentText, ContentFile:
		return len(c.Body) == 0 && len(c.Refs) == 0
	case ContentBytes:
		return c.Text == "" && len(c.Refs) == 0
	}
	return false
}

// mimiOf returns the form of a content in package content. text is the part of its text, if the text has one.
func mimiOf(c *Content, text func(string) content.Part) *content.Content {
	var body content.Part
	switch {
	case c.Type == ContentBytes:
		body = content.SinglePart(bytesType, c.Body)
	case c.Type == ContentFile && c.Text == "":
		body = filePart(c.File)
	case c.Type == ContentFile:
		body = content.MultiPart(content.ProcessAll, text(c.Text), filePart(c.File))
	default:
		body = text(c.Text)
	}
	m := content.Message(body)
	m.Salt = content.Salt(c.ID)
	m.SetTime(c.Time.Std())
	return m
}

func plainPart(text string) content.Part {
	return content.SinglePart(content.PlainText, []byte(text))
}

func filePart(f *File) content.Part {
	return content.ExternalPart(bytesType, content.Reference{
		URL: content.ChunkedURL(string(f.Organization), f.Blob.Hash[:]), Size: f.Blob.Size, Encryption: content.ChunkedAES256GCM,
		Key: f.Key, Hash: content.HashSHA256, ContentHash: bytes.Clone(f.Blob.Hash[:]), Filename: f.Name,
	})
}

// fileOf returns the file of an external part, or nil if the part is no file that this package can fetch.
func fileOf(p *content.Part) *File {
	if p.Cardinality != content.External || p.External.CheckChunked() != nil {
		return nil
	}
	e := p.External
	org, _ := e.Organization()
	size, _ := e.PlainSize()
	f := &File{
		Name: e.Filename, Size: size, Key: bytes.Clone(e.Key), Blob: wire.BlobRef{Hash: wire.Hash(e.ContentHash), Size: e.Size},
		Organization: Domain(org),
	}
	if f.Name == "" || len(f.Name) > maxFileName || !utf8.ValidString(f.Name) {
		f.Name = e.SafeName()
	}
	if f.Check() != nil {
		return nil
	}
	return f
}

// shownContent returns what applications get of a content: the text without markup, the first file, or the bytes.
func shownContent(m *content.Content) *Content {
	c := &Content{Type: ContentText, ID: MessageID(m.Salt)}
	if at, ok := m.Time(); ok {
		c.Time = wire.TimeOf(at)
	}
	if b := &m.Body; b.Cardinality == content.Single && b.ContentType == bytesType {
		c.Type, c.Body = ContentBytes, bytes.Clone(b.Content)
		return c
	}
	body := m.Body
	for _, p := range m.Body.All() {
		if c.File = fileOf(p); c.File == nil {
			continue
		}
		c.Type = ContentFile
		body = withoutPart(body, p)
		break
	}
	if body.Cardinality != content.Null {
		c.Text = content.TextDevice.Plain(&body)
	}
	return c
}

// withoutPart returns a body without a part of its first level, or without all parts if the part is deeper.
func withoutPart(body content.Part, p *content.Part) content.Part {
	i := slices.IndexFunc(body.Parts, func(one content.Part) bool { return one.External == p.External })
	if i < 0 {
		return content.Part{}
	}
	left := slices.Delete(slices.Clone(body.Parts), i, i+1)
	if len(left) == 1 {
		return left[0]
	}
	body.Parts = left
	return body
}
