package node

// later is a part that other parts call while the node runs and that is built after them. Three pairs of parts call
// each other: the ordering and delivery, the ordering and the links to other nodes, the sessions and the notices to
// devices. One part of each pair gets the other one through a later. All other parts are complete when they are built.
type later[T any] struct {
	part  T
	built bool
}

// is names the part, once, before the node runs.
func (l *later[T]) is(part T) { l.part, l.built = part, true }

func (l *later[T]) get() T {
	if !l.built {
		panic("node: a part was used before all parts were built")
	}
	return l.part
}
