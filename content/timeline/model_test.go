package timeline

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/content"
)

// memory is a Store in maps. Its copies are deep, as those of a store on disk.
type memory struct {
	states map[content.MessageID]State
	links  map[content.MessageID]map[content.MessageID]Link
}

func newMemory() *memory {
	return &memory{states: make(map[content.MessageID]State), links: make(map[content.MessageID]map[content.MessageID]Link)}
}

func (m *memory) Load(id content.MessageID) (State, error) {
	s := m.states[id]
	s.Acts, s.Texts = slices.Clone(s.Acts), slices.Clone(s.Texts)
	return s, nil
}

func (m *memory) Save(id content.MessageID, s *State) error {
	if s == nil {
		delete(m.states, id)
		return nil
	}
	have := *s
	have.Acts, have.Texts = slices.Clone(s.Acts), slices.Clone(s.Texts)
	m.states[id] = have
	return nil
}

func (m *memory) Links(target content.MessageID, sender string) (list []Link, err error) {
	for _, l := range m.links[target] {
		if sender == "" || l.Sender == sender {
			list = append(list, l)
		}
	}
	slices.SortFunc(list, func(a, b Link) int { return cmp.Or(cmp.Compare(a.Sender, b.Sender), a.ID.Compare(b.ID)) })
	return list, nil
}

func (m *memory) PutLink(target content.MessageID, l Link) error {
	if m.links[target] == nil {
		m.links[target] = make(map[content.MessageID]Link)
	}
	m.links[target][l.ID] = l
	return nil
}

func (m *memory) DropLink(target content.MessageID, l Link) error {
	delete(m.links[target], l.ID)
	return nil
}

// take takes in an item as a device does.
func (m *memory) take(t testing.TB, it *Item, now uint64) *Result {
	t.Helper()
	r, err := Take(m, it)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range r.Touched {
		if _, err := Expire(m, id, now); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// expireAll does what the timers of a device do.
func (m *memory) expireAll(t testing.TB, now uint64) {
	t.Helper()
	for id, s := range m.states {
		if due := s.Due(); due > 0 && due <= now {
			if _, err := Expire(m, id, now); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// shown describes all messages in a form that is equal for equal histories.
func (m *memory) shown(t testing.TB, now uint64) []string {
	t.Helper()
	var list []string
	for id, s := range m.states {
		if s.Role != Message {
			continue
		}
		gone, by := s.Gone(now)
		line := fmt.Sprintf("%v of %s, gone %d by %q, refused %v", id, s.Sender, gone, by, s.Refused())
		if gone == Here {
			if e := s.Latest(); e != nil {
				line += fmt.Sprintf(", edit %d %v %x", e.Number, e.ID, e.Raw)
			}
			reactions, err := Reactions(m, id, now)
			if err != nil {
				t.Fatal(err)
			}
			line += fmt.Sprintf(", %v", reactions)
		}
		list = append(list, line)
	}
	slices.Sort(list)
	return list
}

// raw returns all bytes of contents that the store has.
func (m *memory) raw() string {
	var b strings.Builder
	for _, s := range m.states {
		for _, text := range s.Texts {
			b.WriteString(text + "\n")
		}
		for _, a := range s.Acts {
			b.Write(a.Raw)
			for _, text := range a.Texts {
				b.WriteString(text + "\n")
			}
		}
	}
	return b.String()
}

var users = []string{"mimi://a.example/u/alice", "mimi://a.example/u/amy", "mimi://b.example/u/bob", "mimi://c.example/u/carol"}

// talk makes items that concern each other in all ways, also in forbidden ones. Texts are unique.
type talk struct {
	r     *rand.Rand
	items []*Item
	ids   []content.MessageID
}

func (k *talk) any() content.MessageID {
	if len(k.ids) == 0 || k.r.IntN(20) == 0 {
		return content.MessageID{1, byte(k.r.IntN(4))} // a content that nobody has sent
	}
	return k.ids[k.r.IntN(len(k.ids))]
}

func (k *talk) body(mark string) content.Part {
	return content.SinglePart(content.PlainText, []byte(fmt.Sprintf("%s-%d;", mark, len(k.items))))
}

func (k *talk) next(t testing.TB) {
	to := k.any()
	var c *content.Content
	switch n := k.r.IntN(20); {
	case n < 6:
		c = content.Message(k.body("message"))
	case n < 8:
		c = content.Reply(to, k.body("reply"))
	case n < 12:
		c = content.Edit(nil, to, uint64(k.r.IntN(4)), k.body("edit"))
	case n < 14:
		c = content.Delete(nil, to)
	case n < 17:
		c = content.Reaction(to, []string{"+", "-", "x"}[k.r.IntN(3)], fmt.Sprintf("r-%d;", len(k.items)))
	case n < 18:
		c = content.ChangeReaction(to, k.any(), fmt.Sprintf("c-%d;", len(k.items)))
	default:
		c = content.Unlike(to, k.any())
	}
	switch k.r.IntN(8) {
	case 0:
		c.WithExpires(content.Expiration{Seconds: uint32(k.r.IntN(100))})
	case 1:
		c.WithExpires(content.Expiration{Relative: true, Seconds: uint32(k.r.IntN(50))})
	}
	k.r.Uint64()
	for i := range c.Salt {
		c.Salt[i] = byte(k.r.Uint32())
	}
	c.Salt[0] |= 1
	sender := users[k.r.IntN(len(users))]
	if k.r.IntN(2) == 0 && len(k.items) > 0 { // often the right one
		for _, it := range k.items {
			if it.ID == c.Replaces {
				sender = it.Sender
			}
		}
	}
	raw, err := c.Encode(content.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	id, err := c.ID(sender, "mimi://a.example/r/1")
	if err != nil {
		t.Fatal(err)
	}
	k.items = append(k.items, &Item{ID: id, Sender: sender, Moderator: sender == users[0] && k.r.IntN(2) == 0, Content: c, Raw: raw})
	k.ids = append(k.ids, id)
}

// TestOrderHasNoEffect checks that devices which see the same contents in different orders, at different times, some
// of them twice, show the same after the last end, and that nothing of a message that is gone is left.
func TestOrderHasNoEffect(t *testing.T) {
	const devices = 5
	seeds := 4000
	if testing.Short() {
		seeds = 500
	}
	for seed := range uint64(seeds) {
		k := &talk{r: rand.New(rand.NewPCG(seed, 1))}
		for range 4 + k.r.IntN(30) {
			k.next(t)
		}
		var first []string
		for device := range uint64(devices) {
			r := rand.New(rand.NewPCG(seed, 2+device))
			m := newMemory()
			order := slices.Clone(k.items)
			order = append(order, k.items[r.IntN(len(k.items))], k.items[r.IntN(len(k.items))])
			r.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
			now := uint64(r.IntN(60))
			for _, it := range order {
				m.take(t, it, now)
				if r.IntN(3) == 0 {
					now += uint64(r.IntN(10))
				}
				if r.IntN(3) == 0 {
					m.expireAll(t, now)
				}
			}
			for id, s := range m.states {
				if s.Role == Message {
					if _, err := Read(m, id, now); err != nil {
						t.Fatal(err)
					}
				}
			}
			m.expireAll(t, 1000)
			shown := m.shown(t, 1000)
			if device == 0 {
				first = shown
			} else if !slices.Equal(first, shown) {
				t.Fatalf("seed %d: device %d shows\n%s\nthe first one\n%s", seed, device, strings.Join(shown, "\n"), strings.Join(first, "\n"))
			}
			checkErased(t, seed, k, m)
		}
	}
}

// checkErased checks that no text of a message that is gone is in the store.
func checkErased(t *testing.T, seed uint64, k *talk, m *memory) {
	t.Helper()
	raw := m.raw()
	for i, it := range k.items {
		s, _ := m.Load(it.ID)
		on := it.ID
		if s.Role == Edit {
			on = s.Target
		}
		root, _ := m.Load(on)
		gone, _ := root.Gone(1000)
		if gone == Here && root.Role != Edit && root.Role != Delete && root.Role != Other {
			continue
		}
		for _, mark := range []string{"message", "reply", "edit", "r", "c"} {
			if text := fmt.Sprintf("%s-%d;", mark, i); strings.Contains(raw, text) {
				t.Fatalf("seed %d: %s of %v, which is gone, is in the store: %+v", seed, text, it.ID, root)
			}
		}
	}
	for target, links := range m.links {
		root, _ := m.Load(target)
		if len(links) > 0 && (root.Erased || root.Role != Message && root.Role != Unseen) {
			t.Fatalf("seed %d: %v is gone and has %d reactions", seed, target, len(links))
		}
	}
}

// TestStatesAreEqual checks that even the stored states are equal, without ends that pass meanwhile.
func TestStatesAreEqual(t *testing.T) {
	for seed := range uint64(500) {
		k := &talk{r: rand.New(rand.NewPCG(seed, 100))}
		for range 4 + k.r.IntN(30) {
			k.next(t)
		}
		var first *memory
		for device := range uint64(3) {
			m := newMemory()
			order := slices.Clone(k.items)
			rand.New(rand.NewPCG(seed, device)).Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
			for _, it := range order {
				m.take(t, it, 0)
			}
			for id, links := range m.links {
				if len(links) == 0 {
					delete(m.links, id)
				}
			}
			if first == nil {
				first = m
				continue
			}
			for id, s := range m.states {
				if want := first.states[id]; fmt.Sprintf("%+v", s) != fmt.Sprintf("%+v", want) {
					t.Fatalf("seed %d: %v is\n%+v, at the first device\n%+v", seed, id, s, want)
				}
			}
			if len(m.states) != len(first.states) || !reflect.DeepEqual(m.links, first.links) {
				t.Fatalf("seed %d: %d states, %d at the first device; links %v and %v", seed, len(m.states), len(first.states), m.links, first.links)
			}
		}
	}
}
