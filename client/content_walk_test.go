package client

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// TestContentWalk lets five devices of three organizations write, reply, react, edit, delete and set ends at random,
// with restarts and absences between. In the end all show the same, and no text that is gone is in a store. The same
// property over thousands of walks is tested in package timeline.
func TestContentWalk(t *testing.T) {
	seeds := []uint64{1}
	if !testing.Short() {
		seeds = append(seeds, 2, 3)
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { contentWalk(t, seed) })
	}
}

func contentWalk(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t, "a.example", "b.example", "c.example")
	all := []*peer{
		w.peer(alicePhone).ready(), w.peer(aliceLaptop).ready(), w.peer(bobPhone).ready(),
		w.peer("mimi://b.example/d/dan/phone").ready(), w.peer(carolPhone).ready(),
	}
	confirm(t, all[0], all[1])
	ctx := t.Context()
	id, err := all[0].Create(ctx, CreateOptions{})
	check(t, err)
	check(t, all[0].Add(ctx, id, bob, carol, all[3].id.User()))
	eventually(t, func() error {
		c, err := all[0].Conversation(ctx, id)
		if err == nil && c.Members != len(all) {
			err = fmt.Errorf("%d devices", c.Members)
		}
		return err
	})
	agree(t, id, all[0], all[1:]...)
	away := make(map[*peer]bool)
	texts := make(map[string]bool)
	for n := range 60 {
		p := all[r.IntN(len(all))]
		switch r.IntN(8) {
		case 0:
			if away[p] {
				p.start()
			} else {
				p.stop()
			}
			away[p] = !away[p]
			continue
		case 1:
			if !away[p] {
				p.restart()
			}
			continue
		}
		text := fmt.Sprintf("text-%d;", n)
		texts[text] = true
		page, err := p.History(ctx, id, Query{Limit: MaxPage})
		check(t, err)
		kept := slices.DeleteFunc(page.Messages, func(m Message) bool { return m.Gone != Here })
		if len(kept) == 0 || r.IntN(3) == 0 {
			var options []WriteOption
			if r.IntN(4) == 0 {
				options = append(options, ExpireAt(time.Now().Add(time.Duration(r.IntN(3))*time.Second)))
			}
			check(t, errorOf(p.Write(ctx, id, text, options...)))
			continue
		}
		m := &kept[r.IntN(len(kept))]
		own := m.Sender.User() == p.id.User()
		switch what := r.IntN(6); {
		case what == 0 && own:
			err = errorOf(p.Delete(ctx, m))
		case what < 3 && own:
			err = errorOf(p.Edit(ctx, m, text))
		case what < 4:
			err = errorOf(p.Reply(ctx, m, text))
		case what < 5 && len(m.Reactions) > 0:
			err = errorOf(p.Unreact(ctx, m, ""))
		default:
			err = errorOf(p.React(ctx, m, text))
		}
		if code := wire.CodeOf(err); err != nil && code != wire.NotFound { // it has ended meanwhile, or there is no such reaction
			t.Fatal(err)
		}
	}
	for p, off := range away {
		if off {
			p.start()
		}
	}
	show := func(p *peer) (list []string, err error) {
		page, err := p.History(ctx, id, Query{Limit: MaxPage})
		if err != nil {
			return nil, err
		}
		for i := range page.Messages {
			m := &page.Messages[i]
			line := fmt.Sprintf("%v %s %q edited %v, gone %v by %s, %v, %v", m.Full, m.Sender.User(), m.Content.Text, m.Edited, m.Gone, m.GoneBy, m.Reactions, m.Refused)
			if m.Gone == Here && !m.Expires.IsZero() {
				return nil, fmt.Errorf("message %d will end", m.Number)
			}
			if m.Reply != nil {
				line += fmt.Sprintf(", answers %v", m.Reply.To)
			}
			list = append(list, line)
		}
		slices.Sort(list)
		return list, nil
	}
	eventually(t, func() error {
		first, err := show(all[0])
		if err != nil {
			return err
		}
		for _, p := range all[1:] {
			got, err := show(p)
			if err != nil {
				return err
			}
			if !slices.Equal(first, got) {
				return fmt.Errorf("%s shows\n%s\n%s\n%s", all[0].id, strings.Join(first, "\n"), p.id, strings.Join(got, "\n"))
			}
		}
		visible := strings.Join(first, "\n")
		for text := range texts {
			if strings.Contains(visible, text) {
				continue
			}
			for _, p := range all {
				for _, letters := range p.holds(text) {
					if letters != string(recordKey(recordMessage)) { // the first version of an edited message stays
						return fmt.Errorf("%s has %s, which is gone, in %q", p.id, text, letters)
					}
				}
			}
		}
		return nil
	})
	erasedRecords(t, all, id)
}

// erasedRecords checks that no record of a message that is gone has a content.
func erasedRecords(t *testing.T, all []*peer, id wire.ConversationID) {
	t.Helper()
	for _, p := range all {
		page, err := p.History(t.Context(), id, Query{Limit: MaxPage})
		check(t, err)
		eventually(t, func() error {
			n := 0
			return eachMessage(t, p, id, func(rec *messageRecord) error {
				if m := page.Messages[n]; m.Gone != Here && len(rec.Content) > 0 {
					return fmt.Errorf("%s keeps the content of message %d", p.id, m.Number)
				}
				n++
				return nil
			})
		})
	}
}
