package gateway

import "github.com/mlsfed/mlsfed/wire"

// orderedIn returns the conversation whose requests must stay in order with this one, "" for none: a submission must
// not overtake an earlier one.
func orderedIn(body any) wire.ConversationID {
	switch b := body.(type) {
	case *wire.Envelope:
		return b.Conversation
	case *wire.Message:
		return b.Conversation
	}
	return ""
}
