package content

// The functions of this file make contents. The caller sets the salt, and whatever else WithTopic, WithExpires and the
// methods SetTime and SetExtension set, before it encodes the content.

// SinglePart returns an inline part that is to be shown.
func SinglePart(mediaType string, body []byte) Part {
	return Part{Disposition: Render, Cardinality: Single, ContentType: mediaType, Content: body}
}

// MarkdownPart returns a part with a text in GFM-MIMI (§7.1.1). Text from a person that is not Markdown must pass
// through markdown.Escape first.
func MarkdownPart(markdown string) Part { return SinglePart(Markdown, []byte(markdown)) }

// ExternalPart returns a part whose content is elsewhere, to be downloaded (§5.9).
func ExternalPart(mediaType string, at Reference) Part {
	return Part{Disposition: DispAttachment, Cardinality: External, ContentType: mediaType, External: &at}
}

// MultiPart returns a part of two or more parts.
func MultiPart(semantics Semantics, parts ...Part) Part {
	return Part{Disposition: Render, Cardinality: Multi, Semantics: semantics, Parts: parts}
}

// Message returns a message with a body of any kind (§5.1).
func Message(body Part) *Content { return &Content{Body: body} }

// Text returns a message with a text in GFM-MIMI (§5.1).
func Text(markdown string) *Content { return Message(MarkdownPart(markdown)) }

// Plain returns a message with a text without markup (§7.1).
func Plain(text string) *Content { return Message(SinglePart(PlainText, []byte(text))) }

// Reply returns an answer to the latest version of a message (§5.2).
func Reply(to MessageID, body Part) *Content { return &Content{InReplyTo: to, Body: body} }

// Reaction returns a reaction to a message with one or more texts, usually one emoji each (§5.3).
func Reaction(to MessageID, texts ...string) *Content {
	return &Content{InReplyTo: to, Body: reactionPart(texts)}
}

// ChangeReaction returns a reaction that takes the place of an earlier one to the same message (§4.1).
func ChangeReaction(reaction, to MessageID, texts ...string) *Content {
	return &Content{Replaces: reaction, InReplyTo: to, Body: reactionPart(texts)}
}

func reactionPart(texts []string) Part {
	parts := make([]Part, len(texts))
	for i, text := range texts {
		parts[i] = SinglePart(PlainText, []byte(text))
		parts[i].Disposition = DispReaction
	}
	if len(parts) == 1 {
		return parts[0]
	}
	p := MultiPart(ProcessAll, parts...)
	p.Disposition = DispReaction
	return p
}

// Unlike returns the withdrawal of a reaction to a message (§5.7).
func Unlike(reaction, to MessageID) *Content {
	return &Content{Replaces: reaction, InReplyTo: to, Body: Part{Disposition: DispReaction}}
}

// Edit returns a new version of a message (§5.5). original is the first version and id its id. number is one more than
// the highest EditNumber of the edits of this message that the sender has seen. An edit changes nothing but the body:
// it has the other fields of the original (§9.3).
func Edit(original *Content, id MessageID, number uint64, body Part) *Content {
	c := replacement(original, id, body)
	c.SetExtension(KeyEdit, Uint(number))
	return c
}

// Delete returns the deletion of a message (§5.6). original is its first version, or nil if it is not known, and id is
// the id of the first version.
func Delete(original *Content, id MessageID) *Content {
	return replacement(original, id, Part{Disposition: Render})
}

func replacement(original *Content, id MessageID, body Part) *Content {
	c := &Content{Replaces: id, Body: body}
	if original != nil {
		c.TopicID, c.Expires, c.InReplyTo = original.TopicID, original.Expires, original.InReplyTo
	}
	return c
}

// Attachment returns a message that brings a file (§5.9).
func Attachment(mediaType string, at Reference) *Content { return Message(ExternalPart(mediaType, at)) }

// Conference returns an invitation to a session at a URL, with a description for people (§5.10).
func Conference(url, description string) *Content {
	p := ExternalPart("", Reference{URL: url, Description: description})
	p.Disposition = DispConference
	return Message(p)
}

// Profile returns a profile of the sender, for example a display name and a picture (§8.2.2).
func Profile(parts ...Part) *Content {
	body := MultiPart(ProcessAll, parts...)
	if len(parts) == 1 {
		body = parts[0]
	}
	body.Disposition = DispProfile
	return Message(body)
}

// WithTopic puts the content into a topic, and returns the content (§5.11).
func (c *Content) WithTopic(id []byte) *Content {
	c.TopicID = id
	return c
}

// WithExpires sets the end of the content, and returns the content (§5.8).
func (c *Content) WithExpires(e Expiration) *Content {
	c.Expires = &e
	return c
}

// WithSalt sets the salt, and returns the content.
func (c *Content) WithSalt(s Salt) *Content {
	c.Salt = s
	return c
}
