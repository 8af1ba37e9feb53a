package node

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/mlsfed/mlsfed/consensus"
	"github.com/mlsfed/mlsfed/gateway"
	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/wire"
)

// alarms brings alarms about conversations to the devices that read these.
type alarms struct {
	readers    store.Readers
	now        func() time.Time
	log        *slog.Logger
	suspicions *suspicions
	raised     chan wire.Alarm
}

func newAlarms(readers store.Readers, now func() time.Time, log *slog.Logger) *alarms {
	return &alarms{readers: readers, now: now, log: log, suspicions: newSuspicions(), raised: make(chan wire.Alarm, 256)}
}

// suspect handles a report that another node contradicts this node about a conversation, or broke a rule. The
// conversation goes on, and its readers get an alarm. suspect does not block.
func (a *alarms) suspect(id wire.ConversationID, why consensus.Refusal, peer wire.NodeID, err error) {
	a.log.Error("another node is not to be trusted with a conversation", "conversation", id, "peer", peer, "reason", string(why), "error", err)
	text := err.Error()
	v := wire.Alarm{Conversation: id, Reason: string(why), Text: strings.ToValidUTF8(text[:min(len(text), wire.MaxAlarm)], ""), Time: wire.TimeOf(a.now())}
	a.suspicions.note(v)
	a.raise(v)
}

func (a *alarms) raise(v wire.Alarm) {
	select {
	case a.raised <- v:
	default:
	}
}

// quarantined handles a conversation that goes into quarantine. It does not block: if very many conversations do so at
// once, some alarms reach devices only when they connect again.
func (a *alarms) quarantined(id wire.ConversationID, q consensus.Quarantine) {
	a.log.Error("look at the conversation: 'mlsfed status' names it, 'mlsfed release' serves it again", "conversation", id, "reason", q.Reason, "detail", q.Detail)
	a.raise(alarmOf(id, &q))
}

// run sends each alarm to the devices that are online and read its conversation.
func (a *alarms) run(ctx context.Context, to *gateway.Gateway) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case v := <-a.raised:
			for _, d := range to.Online() {
				if a.reads(ctx, d, v.Conversation) {
					to.Alarm(d, &v)
				}
			}
		}
	}
}

// of returns the current alarms of the conversations that a device reads.
func (a *alarms) of(ctx context.Context, orders *consensus.Manager, d wire.DeviceID) []wire.Alarm {
	readers, err := a.readers.Of(ctx, d)
	if err != nil {
		a.log.Error("alarms not looked up", "device", d, "error", err)
		return nil
	}
	var list []wire.Alarm
	for _, r := range readers {
		s, err := orders.Status(r.Conversation)
		if err == nil && s.Quarantine != nil {
			list = append(list, alarmOf(r.Conversation, s.Quarantine))
		}
		if v, ok := a.suspicions.about(r.Conversation, a.now()); ok {
			list = append(list, v)
		}
	}
	return list
}

func (a *alarms) reads(ctx context.Context, d wire.DeviceID, id wire.ConversationID) bool {
	readers, err := a.readers.In(ctx, d, id)
	if err != nil {
		a.log.Error("alarm not sent", "device", d, "conversation", id, "error", err)
	}
	return len(readers) > 0
}

func alarmOf(id wire.ConversationID, q *consensus.Quarantine) wire.Alarm {
	return wire.Alarm{Conversation: id, Reason: q.Reason.String(), Text: strings.ToValidUTF8(q.Detail[:min(len(q.Detail), wire.MaxAlarm)], ""), Time: q.Since}
}
