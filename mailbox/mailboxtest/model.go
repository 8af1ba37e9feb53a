package mailboxtest

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// modelItem is an item as the model sees it.
type modelItem struct {
	id   int
	at   time.Time
	size int
}

// model is the simplest model of a stream: all items that ever were, with a mark on those that are gone.
type model struct {
	items   []modelItem
	removed int
	cursors map[int]int
	until   map[int]int
	ids     map[int]int // to sequence
}

func (m *model) floor() int {
	if len(m.cursors) == 0 {
		return len(m.items)
	}
	low := len(m.items)
	for _, at := range m.cursors {
		low = min(low, at)
	}
	return max(low, m.removed)
}

func (m *model) unread() (items, size int) {
	for _, it := range m.items[m.floor():] {
		items++
		size += it.size
	}
	return items, size
}

func (m *model) end(reader int) int {
	if end, ok := m.until[reader]; ok {
		return end
	}
	return len(m.items)
}

// testModel runs random operations on streams, cursors, expiry, duplicates, quotas and restarts, and compares the
// results with a model.
func testModel(t *testing.T, fresh func(testing.TB) Place) {
	const maxItems, maxBytes, maxAge = 8, 300, 10 * time.Hour
	rapid.Check(t, func(rt *rapid.T) {
		clock, on := NewClock(), fresh(t)
		defer on.Close()
		cfg := mailbox.Config{Clock: clock, MaxItems: maxItems, MaxBytes: maxBytes, MaxAge: maxAge, OpenStreams: 1}
		m, stop := on.Open(t, cfg)
		defer func() { stop() }()
		names := []mailbox.Stream{"cconversation-1", "cconversation-2", "cconversation-3"}
		models := make(map[mailbox.Stream]*model)
		pick := func() (mailbox.Stream, *model) {
			name := rapid.SampledFrom(names).Draw(rt, "stream")
			return name, models[name]
		}
		code := func(err error, want wire.Code) {
			if wire.CodeOf(err) != want {
				rt.Fatalf("error %v, want code %q", err, want)
			}
		}
		reader := rapid.IntRange(1, 4)

		rt.Repeat(map[string]func(*rapid.T){
			"join": func(rt *rapid.T) {
				name, mod := pick()
				r := reader.Draw(rt, "reader")
				code(m.Change(t.Context(), name, []wire.Token{token(r)}, nil), "")
				if mod == nil {
					mod = &model{cursors: map[int]int{}, until: map[int]int{}, ids: map[int]int{}}
					models[name] = mod
				}
				if _, ok := mod.cursors[r]; !ok {
					mod.cursors[r] = len(mod.items)
				}
				delete(mod.until, r)
			},
			"leave": func(rt *rapid.T) {
				name, mod := pick()
				if mod == nil {
					return
				}
				r := reader.Draw(rt, "reader")
				code(m.Change(t.Context(), name, nil, []wire.Token{token(r)}), "")
				at, ok := mod.cursors[r]
				if _, leaving := mod.until[r]; !ok || leaving {
					return
				}
				if at == len(mod.items) || mod.removed == len(mod.items) {
					delete(mod.cursors, r)
				} else {
					mod.until[r] = len(mod.items)
				}
			},
			"put": func(rt *rapid.T) {
				name, mod := pick()
				n, size := rapid.IntRange(1, 40).Draw(rt, "id"), rapid.IntRange(0, 60).Draw(rt, "size")
				r, err := m.Put(t.Context(), mailbox.Put{Stream: name, ID: id(n), Kind: mailbox.KindMessage, Payload: make([]byte, size)})
				code(err, "")
				if mod == nil {
					code(r[0].Err, wire.UnknownConversation)
					return
				}
				if at, ok := mod.ids[n]; ok {
					if !r[0].Duplicate || r[0].Sequence != uint64(at) {
						rt.Fatalf("duplicate: %+v, want %d", r[0], at)
					}
					return
				}
				items, bytes := mod.unread()
				if len(mod.cursors) > 0 && (items+1 > maxItems || bytes+size > maxBytes) {
					code(r[0].Err, wire.Quota)
					return
				}
				mod.items = append(mod.items, modelItem{n, clock.Now(), size})
				mod.ids[n] = len(mod.items)
				if r[0] != (mailbox.Result{Sequence: uint64(len(mod.items))}) {
					rt.Fatalf("put: %+v, want %d", r[0], len(mod.items))
				}
			},
			"acknowledge": func(rt *rapid.T) {
				name, mod := pick()
				r, to := reader.Draw(rt, "reader"), 0
				if mod != nil {
					to = rapid.IntRange(0, len(mod.items)+1).Draw(rt, "to")
				}
				err := m.Acknowledge(t.Context(), mailbox.Ack{Reader: mailbox.Reader{Stream: name, Token: token(r)}, Sequence: uint64(to)})
				if mod == nil {
					code(err, wire.UnknownConversation)
					return
				}
				at, ok := mod.cursors[r]
				switch {
				case !ok:
					code(err, wire.UnknownConversation)
				case to > mod.end(r):
					code(err, wire.Invalid)
				default:
					code(err, "")
					mod.cursors[r] = max(at, to)
					if end, leaving := mod.until[r]; leaving && end == mod.cursors[r] {
						delete(mod.cursors, r)
						delete(mod.until, r)
					}
				}
			},
			"sweep": func(rt *rapid.T) {
				clock.Advance(time.Duration(rapid.IntRange(0, 5).Draw(rt, "hours")) * time.Hour)
				if err := m.Sweep(t.Context()); err != nil {
					rt.Fatal(err)
				}
				for _, mod := range models {
					old := mod.removed
					for old < len(mod.items) && clock.Now().Sub(mod.items[old].at) > maxAge {
						old++
					}
					mod.removed = max(mod.floor(), old)
					for r, end := range mod.until {
						if end <= mod.removed {
							delete(mod.until, r)
							delete(mod.cursors, r)
						}
					}
				}
			},
			"remove": func(rt *rapid.T) {
				name, _ := pick()
				if rapid.IntRange(0, 4).Draw(rt, "really") > 0 {
					return
				}
				code(m.Remove(t.Context(), name), "")
				delete(models, name)
			},
			"restart": func(rt *rapid.T) {
				stop()
				m, stop = on.Open(t, cfg)
			},
			"": func(rt *rapid.T) {
				for _, name := range slices.Sorted(maps.Keys(models)) {
					compare(rt, m, name, models[name])
				}
			},
		})
	})
}

// compare reads a stream as each reader, in pages of three, and checks it against the model.
func compare(rt *rapid.T, m mailbox.Box, name mailbox.Stream, mod *model) {
	for r := 1; r <= 4; r++ {
		at, ok := mod.cursors[r]
		var want mailbox.ReaderState
		if ok {
			want = mailbox.ReaderState{Known: true, Acknowledged: uint64(at), End: uint64(mod.end(r)), Until: uint64(mod.until[r])}
		}
		list, err := m.ReaderStates(rt.Context(), mailbox.Reader{Stream: name, Token: token(r)})
		if err != nil || list[0] != want {
			rt.Fatalf("%s: reader %d: %+v (%v), want %+v", name, r, list, err, want)
		}
		if !ok {
			continue
		}
		for after, more := at, true; more; {
			p, err := m.Read(rt.Context(), name, token(r), uint64(after), mailbox.Limit{Items: 3})
			if err != nil {
				rt.Fatalf("%s: %v", name, err)
			}
			// The sweeper may have removed acknowledged items earlier than the model, never other items.
			want := fmt.Sprint((*mailbox.Gap)(nil))
			if mod.removed > after {
				want = fmt.Sprint(&mailbox.Gap{From: uint64(after + 1), To: uint64(min(mod.removed, mod.end(r)))})
				after = min(mod.removed, mod.end(r))
			}
			if got := fmt.Sprint(p.Gap); got != want {
				rt.Fatalf("%s: reader %d: gap %s, want %s", name, r, got, want)
			}
			if len(p.Items) != min(3, mod.end(r)-after) {
				rt.Fatalf("%s: reader %d: %d items after %d of %d", name, r, len(p.Items), after, mod.end(r))
			}
			for _, it := range p.Items {
				after++
				want := mod.items[after-1]
				if it.Sequence != uint64(after) || it.ID != id(want.id) || len(it.Payload) != want.size || it.Time != wire.TimeOf(want.at) {
					rt.Fatalf("%s: reader %d: item %+v, want %d of %+v", name, r, it, after, want)
				}
			}
			if more = p.More; more != (after < mod.end(r)) {
				rt.Fatalf("%s: more is %v after %d of %d", name, more, after, mod.end(r))
			}
		}
	}
}
