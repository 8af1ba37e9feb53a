package content

import (
	"bytes"
	"math"
)

// Fields of the arrays of the format.
const (
	contentFields    = 7
	expirationFields = 2
	partFields       = 3 // before the fields of the cardinality
	singleFields     = 5
	externalFields   = 15
	multiFields      = 5
)

// Decode decodes a content from a member. An accepted content encodes to the same bytes. Decode refuses what the draft
// does not allow, with ErrMalformed, and a content that exceeds a limit, with ErrLimit. Its time and memory are
// proportional to the length of the input.
func Decode(b []byte, limits Limits) (*Content, error) {
	l := limits.withDefaults()
	if len(b) > l.Size {
		return nil, exceeded("bytes", uint64(len(b)), uint64(l.Size))
	}
	r := &reader{b: bytes.Clone(b), limits: l}
	c, err := r.content()
	if err != nil {
		return nil, err
	}
	if r.at != len(b) {
		return nil, malformed(r.at, "%d bytes follow the content", len(b)-r.at)
	}
	return c, nil
}

func (r *reader) content() (*Content, error) {
	n, err := r.array("the content")
	if err != nil {
		return nil, err
	}
	if n != contentFields {
		return nil, malformed(0, "the content has %d fields, wanted %d", n, contentFields)
	}
	c := new(Content)
	if err := r.salt(&c.Salt); err != nil {
		return nil, err
	}
	if c.Replaces, err = r.messageID("replaces"); err != nil {
		return nil, err
	}
	if c.TopicID, err = r.bytes("topicId"); err != nil {
		return nil, err
	}
	if len(c.TopicID) > r.limits.Topic {
		return nil, exceeded("bytes of topicId", uint64(len(c.TopicID)), uint64(r.limits.Topic))
	}
	if c.Expires, err = r.expiration(); err != nil {
		return nil, err
	}
	if c.InReplyTo, err = r.messageID("inReplyTo"); err != nil {
		return nil, err
	}
	if c.Extensions, err = r.extensions(); err != nil {
		return nil, err
	}
	r.parts = 1
	return c, r.part(&c.Body, 1)
}

// salt reads the salt. A random salt is never zero.
func (r *reader) salt(s *Salt) error {
	start := r.at
	b, err := r.bytes("salt")
	if err != nil {
		return err
	}
	if len(b) != len(s) {
		return malformed(start, "salt has %d bytes, wanted %d", len(b), len(s))
	}
	*s = Salt(b)
	if *s == (Salt{}) {
		return malformed(start, "salt is zero, wanted random bytes")
	}
	return nil
}

// messageID reads an id or null.
func (r *reader) messageID(what string) (MessageID, error) {
	if r.null() {
		return MessageID{}, nil
	}
	return r.presentID(what)
}

func (r *reader) presentID(what string) (MessageID, error) {
	start := r.at
	b, err := r.bytes(what)
	if err != nil {
		return MessageID{}, err
	}
	if len(b) != len(MessageID{}) {
		return MessageID{}, malformed(start, "%s has %d bytes, wanted %d", what, len(b), len(MessageID{}))
	}
	if HashAlg(b[0]) != HashSHA256 { // §9.1
		return MessageID{}, malformed(start, "%s has the unknown hash algorithm %d", what, b[0])
	}
	return MessageID(b), nil
}

func (r *reader) expiration() (*Expiration, error) {
	if r.null() {
		return nil, nil
	}
	start := r.at
	n, err := r.array("expires")
	if err != nil {
		return nil, err
	}
	if n != expirationFields {
		return nil, malformed(start, "expires has %d fields, wanted %d", n, expirationFields)
	}
	if r.at >= len(r.b) || r.b[r.at] != cborFalse && r.b[r.at] != cborTrue {
		return nil, malformed(r.at, "the first field of expires is not a boolean")
	}
	e := &Expiration{Relative: r.b[r.at] == cborTrue}
	r.at++
	seconds, err := r.uint(math.MaxUint32, "time of expires")
	e.Seconds = uint32(seconds)
	return e, err
}

func (r *reader) extensions() ([]Extension, error) {
	start := r.at
	h, err := r.want(majorMap, "extensions")
	if err != nil {
		return nil, err
	}
	if h.arg > uint64(len(r.b)-r.at)/2 {
		return nil, malformed(start, "extensions has %d fields, more than the content has bytes", h.arg)
	}
	if h.arg > uint64(r.limits.Extensions) {
		return nil, exceeded("extension fields", h.arg, uint64(r.limits.Extensions))
	}
	if h.arg == 0 {
		return nil, nil
	}
	extensions := make([]Extension, h.arg)
	var last []byte
	for i := range extensions {
		e := &extensions[i]
		if last, err = r.extension(e, last, i == 0); err != nil {
			return nil, err
		}
		start := r.at
		if e.Value, err = r.raw(MaxExtensionDepth - 1); err != nil {
			return nil, err
		}
		if _, text := e.Value.Text(); !text && (e.Key == KeySender || e.Key == KeyRoom) {
			return nil, malformed(start, "extension %v is not a text string", e.Key)
		}
	}
	return extensions, nil
}

// extension reads the key of an extension field and returns its encoding.
func (r *reader) extension(e *Extension, last []byte, first bool) ([]byte, error) {
	start := r.at
	key, err := r.key(last, first)
	if err != nil {
		return nil, err
	}
	k := reader{b: key}
	h, err := k.head()
	if err != nil {
		return nil, err
	}
	switch h.major {
	case majorUint:
		e.Key.Number = int64(h.arg)
	case majorNegint:
		e.Key.Number = -1 - int64(h.arg)
	case majorText:
		e.Key.Name = string(key[k.at:])
		if e.Key.Name == "" || len(e.Key.Name) > maxKeyName {
			return nil, malformed(start, "the key of an extension has %d bytes, wanted 1 to %d", len(e.Key.Name), maxKeyName)
		}
	default:
		return nil, malformed(start, "the key of an extension is not an integer or a text string")
	}
	if e.Key == (Key{}) {
		return nil, malformed(start, "an extension has the reserved key 0")
	}
	return key, nil
}

// part reads a part at a level of at most MaxPartDepth; the body is level 1.
func (r *reader) part(p *Part, level int) error {
	start := r.at
	n, err := r.array("a part")
	if err != nil {
		return err
	}
	if n < partFields {
		return malformed(start, "a part has %d fields, wanted %d or more", n, partFields)
	}
	disposition, err := r.uint(math.MaxUint8, "disposition")
	if err != nil {
		return err
	}
	p.Disposition = Disposition(disposition)
	if p.Language, err = r.text("language"); err != nil {
		return err
	}
	cardinality, err := r.uint(math.MaxUint64, "cardinality")
	if err != nil {
		return err
	}
	p.Cardinality = Cardinality(cardinality)
	fields := n
	switch p.Cardinality {
	case Null:
		fields = partFields
	case Single:
		fields = singleFields
	case External:
		fields = externalFields
	case Multi:
		fields = multiFields
	}
	if n != fields {
		return malformed(start, "a part of cardinality %v has %d fields, wanted %d", p.Cardinality, n, fields)
	}
	switch p.Cardinality {
	case Null:
		return nil
	case Single:
		return r.single(p)
	case External:
		return r.external(p)
	case Multi:
		return r.multi(p, level)
	}
	return r.rest(p, n-partFields)
}

func (r *reader) single(p *Part) (err error) {
	if p.ContentType, err = r.text("contentType"); err != nil {
		return err
	}
	p.Content, err = r.bytes("content")
	return err
}

func (r *reader) external(p *Part) (err error) {
	e := new(Reference)
	p.External = e
	text := func(field *string, what string) {
		if err == nil {
			*field, err = r.text(what)
		}
	}
	octets := func(field *[]byte, what string) {
		if err == nil {
			*field, err = r.bytes(what)
		}
	}
	number := func(most uint64, what string) (n uint64) {
		if err == nil {
			n, err = r.uint(most, what)
		}
		return n
	}
	text(&p.ContentType, "contentType")
	text(&e.URL, "url")
	e.Expires = uint32(number(math.MaxUint32, "expires of an external part"))
	e.Size = number(math.MaxUint64, "size")
	e.Encryption = EncryptionAlg(number(math.MaxUint16, "encAlg"))
	octets(&e.Key, "key")
	octets(&e.Nonce, "nonce")
	octets(&e.AAD, "aad")
	e.Hash = HashAlg(number(math.MaxUint8, "hashAlg"))
	octets(&e.ContentHash, "contentHash")
	text(&e.Description, "description")
	text(&e.Filename, "filename")
	return err
}

// leastPart is the size of the smallest part, in bytes.
const leastPart = 4

func (r *reader) multi(p *Part, level int) error {
	start := r.at
	semantics, err := r.uint(uint64(ProcessAll), "partSemantics")
	if err != nil {
		return err
	}
	p.Semantics = Semantics(semantics)
	n, err := r.array("parts")
	if err != nil {
		return err
	}
	if n < 2 {
		return malformed(start, "a part of cardinality multi has %d parts, wanted 2 or more", n)
	}
	if level+1 > MaxPartDepth {
		return exceeded("levels of parts", uint64(level+1), MaxPartDepth)
	}
	if n > r.limits.Parts-r.parts {
		return exceeded("parts", uint64(r.parts)+uint64(n), uint64(r.limits.Parts))
	}
	if r.parts+n > len(r.b)/leastPart { // parts that arrays around this one have announced need their bytes too
		return malformed(start, "parts has %d elements, more than the content can have", n)
	}
	r.parts += n
	p.Parts = make([]Part, n)
	for i := range p.Parts {
		if err := r.part(&p.Parts[i], level+1); err != nil {
			return err
		}
	}
	return nil
}

// rest reads what follows an unknown cardinality.
func (r *reader) rest(p *Part, n int) error {
	if n > len(r.b)-r.at {
		return malformed(r.at, "a part has %d more fields, more than the content has bytes", n)
	}
	if n > 0 {
		p.Rest = make([]Raw, 0, n)
	}
	for range n {
		v, err := r.raw(MaxExtensionDepth)
		if err != nil {
			return err
		}
		p.Rest = append(p.Rest, v)
	}
	return nil
}
