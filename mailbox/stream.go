package mailbox

import "github.com/mlsfed/mlsfed/wire"

// Stream names a stream: a conversation's or a device's inbox.
type Stream string

// Conversation returns the stream of a conversation of this organization.
func Conversation(id wire.ConversationID) Stream { return "c" + Stream(id) }

// Inbox returns the stream of a device, for Welcomes and notices. Its only reader is Owner.
func Inbox(d wire.DeviceID) Stream { return "i" + Stream(d) }

// Owner returns the reader of an inbox: the zero token, which no mailbox address has.
func Owner() wire.Token { return wire.Token{} }

// maxStream is the longest name: an inbox's.
const maxStream = 512

// Check refuses a name that neither Conversation nor Inbox returns.
func (s Stream) Check() error {
	switch {
	case len(s) > 1 && len(s) <= maxStream && s[0] == 'c':
		return wire.ConversationID(s[1:]).Check()
	case len(s) > 1 && len(s) <= maxStream && s[0] == 'i':
		return wire.DeviceID(s[1:]).Check()
	}
	return wire.Errorf(wire.Malformed, "stream", "name of %d bytes is neither a conversation's nor an inbox's", len(s))
}

// String returns a text for people: "conversation 0a1b…" or "inbox mimi://…".
func (s Stream) String() string {
	switch {
	case s == "":
		return "no stream"
	case s[0] == 'c':
		return "conversation " + wire.ConversationID(s[1:]).String()
	}
	return "inbox " + string(s[1:])
}
