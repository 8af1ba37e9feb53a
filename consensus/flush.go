package consensus

import (
	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/wire"
)

// Copy makes a copy of the log in an empty folder, for a backup, with the current records of all conversations: a
// node that starts from the copy must know which other nodes hold replicas. See Config.Restored.
func (m *Manager) Copy(dir string) error {
	m.flush()
	return m.cfg.Log.Copy(dir)
}

// maxFlush is the number of records in one write.
const maxFlush = 256

// flush writes the records of the conversations that have changed since the last call.
func (m *Manager) flush() {
	ids := m.dirty.take()
	for len(ids) > 0 {
		n := min(len(ids), maxFlush)
		m.flushSome(ids[:n])
		ids = ids[n:]
	}
}

func (m *Manager) flushSome(ids []wire.ConversationID) {
	var changes []raftlog.MetaChange
	var held []*live
	for _, id := range ids {
		c, err := m.find(id)
		if err != nil {
			continue
		}
		// While the replica is in use, no other goroutine closes it and writes the same record.
		l, release := c.use()
		if l == nil {
			continue
		}
		defer release()
		if change, err := l.position(); err == nil {
			changes, held = append(changes, change, c.sizeChange()), append(held, l)
		}
	}
	if err := m.cfg.Log.Meta().Apply(changes...); err != nil {
		m.log.Warn("positions not written; they will be, with the next entries", "conversations", len(held), "error", err)
		for _, l := range held {
			m.dirty.mark(l.c.id)
		}
	}
}

// position returns the current record of a replica as a change for the log.
func (l *live) position() (change raftlog.MetaChange, err error) {
	defer l.m.quarantineOnPanic(l.c, "write down", &err)
	rec, err := l.m.readRecord(l.c.id)
	if err != nil {
		return change, err
	}
	l.fillRecord(rec, l.r.Load(), 0, l.leader())
	return recordChange(l.c.id, rec)
}
