package client

import (
	"container/list"

	"github.com/mlsfed/mlsfed/mlscore"
)

// openGroups holds the groups in memory. It bounds their number and the sum of their members, since a group uses
// memory in proportion to its members. It drops the least recently used groups first; the group in use stays even if
// it is larger than the bound. Every change of a group is in the store at the end of the turn that made it, so
// dropping a group loses nothing. The holder of the turn owns openGroups.
type openGroups struct {
	most, mostMembers int

	members int
	byID    map[ConversationID]*list.Element // values are openGroup
	order   *list.List                       // most recently used first
	used    map[ConversationID]bool          // used in this turn
}

type openGroup struct {
	id      ConversationID
	group   *mlscore.Group
	members int // number of members when the group was opened
}

func newOpenGroups(l *Limits) *openGroups {
	return &openGroups{most: l.Groups, mostMembers: l.GroupMembers, byID: make(map[ConversationID]*list.Element), order: list.New(), used: make(map[ConversationID]bool)}
}

// get returns an open group, or nil if the group is not open.
func (o *openGroups) get(id ConversationID) *mlscore.Group {
	e := o.byID[id]
	if e == nil {
		return nil
	}
	o.order.MoveToFront(e)
	o.used[id] = true
	return e.Value.(*openGroup).group
}

// keep adds a group, or replaces the group with the same id.
func (o *openGroups) keep(id ConversationID, g *mlscore.Group, members int) {
	o.used[id] = true
	o.drop(id)
	for o.order.Len() > 0 && (o.order.Len() >= o.most || o.members+members > o.mostMembers) {
		o.drop(o.order.Back().Value.(*openGroup).id)
	}
	o.byID[id] = o.order.PushFront(&openGroup{id, g, members})
	o.members += members
}

func (o *openGroups) drop(id ConversationID) {
	if e := o.byID[id]; e != nil {
		o.members -= e.Value.(*openGroup).members
		o.order.Remove(e)
		delete(o.byID, id)
	}
}

// begin starts a turn.
func (o *openGroups) begin() { clear(o.used) }

// forget drops the groups that the present turn has used: memory and store may differ for them. The other groups have
// not changed.
func (o *openGroups) forget() {
	for id := range o.used {
		o.drop(id)
	}
}
