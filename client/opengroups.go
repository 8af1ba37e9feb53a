package client

import (
	"container/list"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// openGroups are the groups in memory: at most a number of them, and of members of all together, since that is what a
// group takes memory by. The least recently used leave first; the one that is used stays, however large. Every
// change of a group is in the store at the end of the turn that made it, so that a group that leaves loses nothing.
// The holder of the turn owns it.
type openGroups struct {
	most, mostMembers int

	members int
	byID    map[wire.ConversationID]*list.Element // of openGroup
	order   *list.List                            // the most recently used first
	used    map[wire.ConversationID]bool          // in this turn
}

type openGroup struct {
	id      wire.ConversationID
	group   *mlscore.Group
	members int // when it was opened
}

func newOpenGroups(l *Limits) *openGroups {
	return &openGroups{most: l.Groups, mostMembers: l.GroupMembers, byID: make(map[wire.ConversationID]*list.Element), order: list.New(), used: make(map[wire.ConversationID]bool)}
}

// get returns a group that is open, nil for another one.
func (o *openGroups) get(id wire.ConversationID) *mlscore.Group {
	e := o.byID[id]
	if e == nil {
		return nil
	}
	o.order.MoveToFront(e)
	o.used[id] = true
	return e.Value.(*openGroup).group
}

// keep adds a group, or replaces the one of the same id.
func (o *openGroups) keep(id wire.ConversationID, g *mlscore.Group, members int) {
	o.used[id] = true
	o.drop(id)
	for o.order.Len() > 0 && (o.order.Len() >= o.most || o.members+members > o.mostMembers) {
		o.drop(o.order.Back().Value.(*openGroup).id)
	}
	o.byID[id] = o.order.PushFront(&openGroup{id, g, members})
	o.members += members
}

func (o *openGroups) drop(id wire.ConversationID) {
	if e := o.byID[id]; e != nil {
		o.members -= e.Value.(*openGroup).members
		o.order.Remove(e)
		delete(o.byID, id)
	}
}

// begin begins a turn.
func (o *openGroups) begin() { clear(o.used) }

// forget drops the groups that the present turn has used: memory and store may differ in them. Others have not changed.
func (o *openGroups) forget() {
	for id := range o.used {
		o.drop(id)
	}
}
