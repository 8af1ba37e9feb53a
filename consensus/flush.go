package consensus

import (
	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/wire"
)

// Copy makes a copy of the log in an empty folder, for a backup, with the records of all conversations as
// they are now: who starts from it must know who else holds replicas. See Config.Restored.
func (m *Manager) Copy(dir string) error {
	m.flush()
	return m.cfg.Log.Copy(dir)
}

// maxFlush is the number of records in one write.
const maxFlush = 256

// flush writes the records of the conversations that have got on since the last time.
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
		// While it is held, nobody closes it and writes the same record.
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

// position is the record of a replica as it is now.
func (l *live) position() (change raftlog.MetaChange, err error) {
	defer l.m.caught(l.c, "write down", &err)
	rec, err := l.m.readRecord(l.c.id)
	if err != nil {
		return change, err
	}
	l.fill(rec, l.r.Load(), 0, l.leader())
	return recordChange(l.c.id, rec)
}
