package content

import "fmt"

// Encode encodes a content in the one form that Decode accepts. It refuses what Decode refuses with these limits.
func (c *Content) Encode(limits Limits) ([]byte, error) {
	b := appendHead(nil, majorArray, contentFields)
	b = appendBytes(b, c.Salt[:])
	b = appendMessageID(b, c.Replaces)
	b = appendBytes(b, c.TopicID)
	b = appendExpiration(b, c.Expires)
	b = appendMessageID(b, c.InReplyTo)
	b, err := appendExtensions(b, c.Extensions)
	if err != nil {
		return nil, err
	}
	if b, err = appendPart(b, &c.Body, 1); err != nil {
		return nil, err
	}
	if _, err := Decode(b, limits); err != nil {
		return nil, fmt.Errorf("encode a content: %w", err)
	}
	return b, nil
}

func appendMessageID(b []byte, id MessageID) []byte {
	if id.IsZero() {
		return append(b, cborNull)
	}
	return appendBytes(b, id[:])
}

func appendExpiration(b []byte, e *Expiration) []byte {
	if e == nil {
		return append(b, cborNull)
	}
	relative := byte(cborFalse)
	if e.Relative {
		relative = cborTrue
	}
	return appendHead(append(appendHead(b, majorArray, expirationFields), relative), majorUint, uint64(e.Seconds))
}

func appendPart(b []byte, p *Part, level int) ([]byte, error) {
	if level > MaxPartDepth {
		return nil, exceeded("levels of parts", uint64(level), MaxPartDepth)
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	start := func(fields int) {
		b = appendHead(b, majorArray, uint64(fields))
		b = appendHead(b, majorUint, uint64(p.Disposition))
		b = appendText(b, p.Language)
		b = appendHead(b, majorUint, uint64(p.Cardinality))
	}
	switch p.Cardinality {
	case Null:
		start(partFields)
	case Single:
		start(singleFields)
		b = appendBytes(appendText(b, p.ContentType), p.Content)
	case External:
		start(externalFields)
		b = appendReference(appendText(b, p.ContentType), p.External)
	case Multi:
		start(multiFields)
		b = appendHead(b, majorUint, uint64(p.Semantics))
		b = appendHead(b, majorArray, uint64(len(p.Parts)))
		for i := range p.Parts {
			var err error
			if b, err = appendPart(b, &p.Parts[i], level+1); err != nil {
				return nil, err
			}
		}
	default:
		start(partFields + len(p.Rest))
		for _, v := range p.Rest {
			if err := v.check(); err != nil {
				return nil, fmt.Errorf("part of %v: %w", p.Cardinality, err)
			}
			b = append(b, v...)
		}
	}
	return b, nil
}

func appendReference(b []byte, e *Reference) []byte {
	b = appendText(b, e.URL)
	b = appendHead(b, majorUint, uint64(e.Expires))
	b = appendHead(b, majorUint, e.Size)
	b = appendHead(b, majorUint, uint64(e.Encryption))
	b = appendBytes(b, e.Key)
	b = appendBytes(b, e.Nonce)
	b = appendBytes(b, e.AAD)
	b = appendHead(b, majorUint, uint64(e.Hash))
	b = appendBytes(b, e.ContentHash)
	b = appendText(b, e.Description)
	return appendText(b, e.Filename)
}
