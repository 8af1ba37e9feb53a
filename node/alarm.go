package node

import (
	"context"
	"slices"
	"strings"

	"github.com/mlsfed/mlsfed/consensus"
	"github.com/mlsfed/mlsfed/wire"
)

// suspect hears that another node contradicts this one about a conversation, or broke a rule. The conversation
// goes on; whoever reads it is told. It does not block.
func (n *Node) suspect(id wire.ConversationID, why consensus.Refusal, peer wire.NodeID, err error) {
	n.log.Error("another node is not to be trusted with a conversation", "conversation", id, "peer", peer, "reason", string(why), "error", err)
	text := err.Error()
	a := wire.Alarm{Conversation: id, Reason: string(why), Text: strings.ToValidUTF8(text[:min(len(text), wire.MaxAlarm)], ""), Time: wire.TimeOf(n.now())}
	n.suspicions.note(a)
	n.raise(a)
}

func (n *Node) raise(a wire.Alarm) {
	select {
	case n.alarmed <- a:
	default:
	}
}

// alarm hears of a conversation that goes into quarantine. It does not block: of very many at once, some
// reach devices when they connect again.
func (n *Node) alarm(id wire.ConversationID, q consensus.Quarantine) {
	n.log.Error("look at the conversation: 'mlsfed status' names it, 'mlsfed release' serves it again", "conversation", id, "reason", q.Reason, "detail", q.Detail)
	n.raise(alarmOf(id, &q))
}

// tellAlarms tells the devices that read a conversation of its alarm.
func (n *Node) tellAlarms(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case a := <-n.alarmed:
			for _, d := range n.gateway.Online() {
				if n.reads(d, a.Conversation) {
					n.gateway.Alarm(d, &a)
				}
			}
		}
	}
}

// alarms are those that stand about the conversations that a device reads.
func (n *Node) alarms(_ context.Context, d wire.DeviceID) []wire.Alarm {
	readers, err := n.devices.mail.streams.of(d)
	if err != nil {
		n.log.Error("alarms not looked up", "device", d, "error", err)
		return nil
	}
	var list []wire.Alarm
	for _, r := range readers {
		s, err := n.orders.Status(r.Conversation)
		if err == nil && s.Quarantine != nil {
			list = append(list, alarmOf(r.Conversation, s.Quarantine))
		}
		if a, ok := n.suspicions.about(r.Conversation, n.now()); ok {
			list = append(list, a)
		}
	}
	return list
}

func (n *Node) reads(d wire.DeviceID, id wire.ConversationID) bool {
	readers, err := n.devices.mail.streams.of(d)
	if err != nil {
		n.log.Error("alarm not told", "device", d, "conversation", id, "error", err)
	}
	return slices.ContainsFunc(readers, func(r reader) bool { return r.Conversation == id })
}

func alarmOf(id wire.ConversationID, q *consensus.Quarantine) wire.Alarm {
	return wire.Alarm{Conversation: id, Reason: q.Reason.String(), Text: strings.ToValidUTF8(q.Detail[:min(len(q.Detail), wire.MaxAlarm)], ""), Time: q.Since}
}
