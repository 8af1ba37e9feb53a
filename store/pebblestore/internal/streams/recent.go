package streams

import "sync"

// Each reader of a stream reads an item as soon as it is on disk. The newest items of all streams are therefore in
// memory, so that a room of many devices does not read an item from the database once per device.

// Bounds of the items in memory, in bytes of payload.
const (
	maxRecent     = 4 << 20
	maxRecentItem = 64 << 10
	recentCost    = 256 // bytes that an item takes in addition to its payload
)

// recent has the newest items. The oldest go first. Nobody writes to the payloads.
type recent struct {
	mu    sync.Mutex // guards what follows
	items map[stagedItem]recentItem
	order []stagedItem
	size  int
}

// put adds items that a batch has appended.
func (r *recent) put(list []placed) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.items == nil {
		r.items = make(map[stagedItem]recentItem)
	}
	for _, p := range list {
		r.items[p.at] = p.recentItem
		r.order = append(r.order, p.at)
		r.size += recentCost + len(p.item.Payload)
	}
	for r.size > maxRecent {
		r.size -= recentCost + len(r.items[r.order[0]].item.Payload)
		delete(r.items, r.order[0])
		r.order = r.order[1:]
	}
}

// page returns the items between two sequence numbers, both included, that a page of a limit has, or nil if one of
// them is not in memory.
func (r *recent) page(number, from, to uint64, limit Limit) (list []Item) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.items[stagedItem{number, from}]; !ok {
		return nil
	}
	list = make([]Item, 0, min(uint64(max(limit.Items, 1)), to-from+1))
	for size := 0; from <= to; from++ {
		i, ok := r.items[stagedItem{number, from}]
		if !ok {
			return nil
		}
		if size += len(i.item.Payload); len(list) > 0 && (len(list) >= limit.Items || size > limit.Bytes) {
			break
		}
		list = append(list, i.item)
	}
	return list
}

// bytesAt returns the payload of all items of a stream up to one of the items in memory.
func (r *recent) bytesAt(at stagedItem) (uint64, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, ok := r.items[at]
	return i.bytes, ok
}

type recentItem struct {
	item  Item
	bytes uint64 // of payload, of all items of the stream up to this one
}

// placed is an item with its place.
type placed struct {
	at stagedItem
	recentItem
}

// keepRecent copies an item that the batch appends, so that readers find it in memory.
func (b *commit) keepRecent(number, sequence uint64, i *item) {
	if len(i.payload) > maxRecentItem {
		return
	}
	var room []byte
	b.fresh = append(b.fresh, placed{stagedItem{number, sequence}, recentItem{i.item(sequence, &room, 0), i.bytes}})
}
