package content

import (
	"strconv"

	"github.com/mlsfed/mlsfed/content/markdown"
)

// Kind is the meaning of a content for a person. Fields of the content have the details: a content of any kind can
// expire or belong to a topic, and a reply can bring a file.
type Kind uint8

// Kinds. docs/spec/content.md has the condition for each.
const (
	// KindUnknown is a content whose body has a cardinality that the draft does not define. Show it as unknown.
	KindUnknown Kind = iota
	// KindEmpty is a content without a body that deletes nothing. The draft gives it no meaning.
	KindEmpty
	// KindUnlike withdraws the reaction Replaces (§5.7). A client that sends it without the disposition reaction makes it
	// KindDelete; the effect on a reaction is the same.
	KindUnlike
	// KindDelete deletes the message Replaces (§5.6).
	KindDelete
	// KindReactionChange replaces the reaction Replaces with another one (§4.1).
	KindReactionChange
	// KindReaction is a reaction to the message InReplyTo (§5.3). Reactions returns its texts. If InReplyTo is zero, as in
	// §B.2, the reaction has no message: show it as a text.
	KindReaction
	// KindEdit replaces the body of the message Replaces (§5.5).
	KindEdit
	// KindProfile is a profile of a participant or a room (§8.2.2).
	KindProfile
	// KindConference invites to a multimedia session (§5.10).
	KindConference
	// KindReply answers the message InReplyTo (§5.2).
	KindReply
	// KindAttachment brings files: the body is an external part, or a part with the disposition attachment (§5.9).
	KindAttachment
	// KindMessage is any other content: text, pictures, parts of different kinds (§5.1).
	KindMessage
)

var kinds = [...]string{
	"unknown", "empty", "unlike", "delete", "reaction change", "reaction",
	"edit", "profile", "conference", "reply", "attachment", "message",
}

func (k Kind) String() string {
	if int(k) < len(kinds) {
		return kinds[k]
	}
	return "kind " + strconv.Itoa(int(k))
}

// Kind returns the meaning of the content. The sender's right to edit or delete a message is for the caller to check
// (§9.3): nobody but the sender of a message may, unless the rules of the room allow it.
func (c *Content) Kind() Kind {
	reaction := c.Body.Disposition == DispReaction
	replaces := !c.Replaces.IsZero()
	switch {
	case !c.Body.Cardinality.Known():
		return KindUnknown
	case c.Body.Cardinality == Null:
		return c.nullKind(replaces, reaction)
	case reaction && replaces:
		return KindReactionChange
	case reaction:
		return KindReaction
	case replaces:
		return KindEdit
	case c.Body.Disposition == DispProfile:
		return KindProfile
	case c.Body.Disposition == DispConference:
		return KindConference
	case !c.InReplyTo.IsZero():
		return KindReply
	case c.Body.Disposition == DispAttachment || c.Body.Cardinality == External:
		return KindAttachment
	}
	return KindMessage
}

func (c *Content) nullKind(replaces, reaction bool) Kind {
	switch {
	case !replaces:
		return KindEmpty
	case reaction:
		return KindUnlike
	}
	return KindDelete
}

// Reactions returns the texts of a reaction: one for each part, because texts of two reactions must not be joined
// (§5.3). A reaction by a picture has no text.
func (c *Content) Reactions() []string {
	if c.Body.Disposition != DispReaction {
		return nil
	}
	var texts []string
	parts, _ := Device{MediaTypes: []string{"text/*"}}.Choose(&c.Body)
	for _, p := range parts {
		if p.Cardinality == Single && len(p.Content) > 0 {
			texts = append(texts, markdown.Clean(string(p.Content)))
		}
	}
	return texts
}
