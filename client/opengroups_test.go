package client

import (
	"fmt"
	"testing"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// TestLeastRecentlyUsedGroupLeaves checks that one group over the limit drops one group, the least recently used, and
// that a failed turn drops the groups that it used.
func TestLeastRecentlyUsedGroupLeaves(t *testing.T) {
	o := newOpenGroups(&Limits{Groups: 3, GroupMembers: 100})
	id := func(n int) wire.ConversationID { return wire.ConversationID(fmt.Sprint(n)) }
	open := func() (list []int) {
		for n := range 6 {
			if o.byID[id(n)] != nil {
				list = append(list, n)
			}
		}
		if len(list) != o.order.Len() {
			t.Errorf("%d groups in the order, %d by id", o.order.Len(), len(list))
		}
		return list
	}
	first := new(mlscore.Group)
	o.keep(id(0), first, 2)
	o.keep(id(1), new(mlscore.Group), 2)
	o.keep(id(2), new(mlscore.Group), 2)
	if o.get(id(0)) != first {
		t.Fatal("the group is another one")
	}
	o.keep(id(3), new(mlscore.Group), 2)
	if got := fmt.Sprint(open()); got != "[0 2 3]" {
		t.Errorf("open are %v, wanted 0, 2 and 3", got)
	}
	o.begin()
	o.get(id(2))
	o.keep(id(4), new(mlscore.Group), 2) // replaces group 0
	o.forget()
	if got := fmt.Sprint(open()); got != "[3]" {
		t.Errorf("open are %v after a turn that failed, wanted 3 alone", got)
	}
	if o.get(id(2)) != nil {
		t.Error("a group that was dropped is still there")
	}
	o.keep(id(0), first, 90)
	o.keep(id(1), first, 8)
	if got := fmt.Sprint(open()); got != "[0 1 3]" {
		t.Errorf("open are %v, wanted 0, 1 and 3 with 100 members", got)
	}
	o.keep(id(1), first, 9) // the group has grown: one member too many
	if got := fmt.Sprint(open()); got != "[0 1]" {
		t.Errorf("open are %v, wanted 0 and 1", got)
	}
	o.keep(id(5), first, 1000)
	if got := fmt.Sprint(open()); got != "[5]" || o.members != 1000 {
		t.Errorf("open are %v with %d members, wanted the large one alone", got, o.members)
	}
}
