package client

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// TestRandomWalks lets devices of three organizations create, add, remove, race, talk, crash and go offline, while
// connections break, answers get lost and entries lag. In the end all members agree, and have every message once and
// in its sender's order. MLSFED_SEED=n repeats one walk alone.
func TestRandomWalks(t *testing.T) {
	seeds := 6
	switch os.Getenv("MLSFED_LONG") {
	case "short":
		seeds = 30
	case "full":
		seeds = 300
	}
	first := 0
	t.Logf("%d seeds; MLSFED_LONG=short or full walks more", seeds)
	if s := os.Getenv("MLSFED_SEED"); s != "" {
		n, err := strconv.Atoi(s)
		check(t, err)
		first, seeds = n, 1
	}
	for seed := first; seed < first+seeds; seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { newWalk(t, uint64(seed)).run(60) })
	}
}

type walk struct {
	t     *testing.T
	w     *world
	dice  *rand.Rand
	peers []*peer
	id    wire.ConversationID
	work  sync.WaitGroup

	mu    sync.Mutex
	sent  map[string][]string // by sender: the texts that Send accepted
	maybe map[string]bool     // the process died while sending the text
	count int
}

func newWalk(t *testing.T, seed uint64) *walk {
	w := newWorld(t, "a.example", "b.example", "c.example")
	k := &walk{t: t, w: w, dice: rand.New(rand.NewPCG(seed, 7)), sent: make(map[string][]string), maybe: make(map[string]bool)}
	for _, id := range []string{alicePhone, bobPhone, carolPhone, "mimi://b.example/d/dave/phone", "mimi://c.example/d/erin/phone"} {
		k.peers = append(k.peers, w.peer(id).ready())
	}
	var err error
	k.id, err = k.peers[0].Create(t.Context(), CreateOptions{Name: "walk", MembersRename: true})
	check(t, err)
	check(t, k.peers[0].Add(t.Context(), k.id, bob, carol))
	agree(t, k.id, k.peers[0], k.peers[1], k.peers[2])
	return k
}

func (k *walk) run(steps int) {
	for range steps {
		k.step()
		time.Sleep(time.Duration(k.dice.IntN(10)) * time.Millisecond) // makes actions overlap; nothing depends on it
	}
	k.heal()
	k.compare()
}

func (k *walk) step() {
	p := k.peers[k.dice.IntN(len(k.peers))]
	other := k.peers[1+k.dice.IntN(len(k.peers)-1)]
	switch n := k.dice.IntN(100); {
	case n < 40:
		k.send(p)
	case n < 52:
		k.try(func(ctx context.Context) error { return p.UpdateKeys(ctx, k.id) })
	case n < 57:
		k.count++
		name := fmt.Sprint("name ", k.count)
		k.try(func(ctx context.Context) error { return p.Rename(ctx, k.id, name) })
	case n < 67:
		k.try(func(ctx context.Context) error { return p.Add(ctx, k.id, other.id.User()) })
	case n < 71:
		k.try(func(ctx context.Context) error { return k.peers[0].Remove(ctx, k.id, other.id.User()) })
	case n < 74:
		k.try(func(ctx context.Context) error { return other.Leave(ctx, k.id) })
	case n < 82:
		k.crash(p)
	case n < 88:
		k.work.Wait()
		p.restart()
	case n < 93:
		k.w.disconnect(p.id)
	default:
		k.trouble()
	}
}

func (k *walk) trouble() {
	org := []wire.Domain{"a.example", "b.example", "c.example"}[k.dice.IntN(3)]
	switch k.dice.IntN(4) {
	case 0:
		k.w.mu.Lock()
		k.w.faults.lag[org] = true
		k.w.mu.Unlock()
	case 1:
		k.w.catchUp(org)
	default:
		k.w.mu.Lock()
		k.w.faults.dropAnswers, k.w.faults.dropBefore = k.dice.Float64()/8, k.dice.Float64()/8
		k.w.mu.Unlock()
	}
}

// try starts an action that may fail, and the walk continues meanwhile.
func (k *walk) try(f func(context.Context) error) {
	k.work.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		_ = f(ctx)
	})
}

func (k *walk) send(p *peer) {
	k.count++
	text := fmt.Sprint(k.count)
	_, err := p.SendText(context.Background(), k.id, text)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		k.sent[string(p.id)] = append(k.sent[string(p.id)], text)
	} else if strings.Contains(err.Error(), errCrash.Error()) {
		k.maybe[text] = true
	}
}

// crash makes a process die at one of its next writes, and starts another one.
func (k *walk) crash(p *peer) {
	p.disk.mu.Lock()
	p.disk.left, p.disk.after = k.dice.IntN(4), k.dice.IntN(2) == 0
	p.disk.mu.Unlock()
	k.send(p)
	k.try(func(ctx context.Context) error { return p.UpdateKeys(ctx, k.id) })
	k.send(p)
	k.work.Wait()
	p.restart()
}

// heal ends all faults.
func (k *walk) heal() {
	k.work.Wait()
	k.w.mu.Lock()
	k.w.faults.dropAnswers, k.w.faults.dropBefore = 0, 0
	k.w.mu.Unlock()
	for d := range k.w.orgs {
		k.w.catchUp(d)
	}
	for _, p := range k.peers {
		p.restart()
	}
	check(k.t, k.peers[0].UpdateKeys(k.t.Context(), k.id))
}

func (k *walk) compare() {
	t := k.t
	first := k.peers[0]
	eventually(t, func() error {
		members, err := first.Members(t.Context(), k.id)
		if err != nil {
			return err
		}
		in := make(map[wire.DeviceID]bool)
		for _, m := range members {
			in[m.Device] = true
			if m.Leaving {
				return fmt.Errorf("%s is still leaving", m.Device)
			}
		}
		a, err := first.Conversation(t.Context(), k.id)
		if err != nil {
			return err
		}
		for _, p := range k.peers {
			b, err := p.Conversation(t.Context(), k.id)
			switch {
			case wire.CodeOf(err) == wire.UnknownConversation && !in[p.id]:
				continue
			case err != nil:
				return err
			case b.Outgoing > 0:
				return fmt.Errorf("%s (%v) has %d messages to send", p.id, b.State, b.Outgoing)
			case !in[p.id] && b.State != StateLeft:
				return fmt.Errorf("%s is %v (%s) and no member", p.id, b.State, b.Why)
			case !in[p.id]:
				continue
			case b.State != StateActive || string(a.Authenticator) != string(b.Authenticator) || a.Order != b.Order || a.Rules.Name != b.Rules.Name:
				return fmt.Errorf("%s in epoch %d after %d, %s %v (%s) in %d after %d", first.id, a.Epoch, a.Sequence, p.id, b.State, b.Why, b.Epoch, b.Sequence)
			}
			if err := k.complete(p); err != nil {
				return err
			}
		}
		return nil
	})
	for _, p := range k.peers {
		for _, alarm := range []EventType{EventDivergence, EventPoison, EventBroken, EventTrust} {
			if e := p.events(alarm); len(e) > 0 {
				t.Errorf("%s: %v: %v", p.id, alarm, e[0].Err)
			}
		}
	}
}

// complete checks that a member has every accepted message of the epochs since it joined, once and in order.
func (k *walk) complete(p *peer) error {
	var since wire.Epoch
	err := p.turn(context.Background(), func(u *unit) error {
		t, err := p.knownConversation(u, k.id)
		if err == nil {
			since = t.rec.Joined
		}
		return err
	})
	if err != nil {
		return err
	}
	have := make(map[string]int)
	last := make(map[string]int)
	for _, m := range p.all(k.id) {
		n, err := strconv.Atoi(m.Content.Text)
		if err != nil {
			return err
		}
		sender := string(m.Sender)
		if have[m.Content.Text]++; have[m.Content.Text] > 1 {
			return fmt.Errorf("%s has %q twice", p.id, m.Content.Text)
		}
		if n < last[sender] {
			return fmt.Errorf("%s has %d of %s after %d%s", p.id, n, sender, last[sender], k.dump(p))
		}
		last[sender] = n
	}
	for _, from := range k.peers {
		for _, m := range from.all(k.id) {
			if m.Sender == from.id && m.Status == StatusAccepted && k.epochOf(m) >= since && have[m.Content.Text] == 0 {
				return fmt.Errorf("%s, in it since epoch %d, lacks %q of %s from epoch %d", p.id, since, m.Content.Text, from.id, m.Epoch)
			}
		}
	}
	for sender, texts := range k.sent {
		if sender != string(p.id) {
			continue
		}
		for _, text := range texts {
			if have[text] == 0 {
				return fmt.Errorf("%s has forgotten its own %q", p.id, text)
			}
		}
	}
	return nil
}

// dump formats a device's history and its organization's stream, to help find the cause of a failure.
func (k *walk) dump(p *peer) string {
	var b strings.Builder
	for _, m := range p.all(k.id) {
		fmt.Fprintf(&b, "\n%3d %s %q epoch %d, %v", m.Number, m.Sender, m.Content.Text, m.Epoch, m.Status)
	}
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	s := k.w.convs[k.id].streams[p.id.Organization()]
	for n, it := range s.items {
		if it.kind == wire.ItemMessage {
			m := new(wire.Message)
			if wire.Decode(it.payload, wire.MaxFrame, m) == nil {
				fmt.Fprintf(&b, "\nitem %d: message of epoch %d, %x", n+1, m.Epoch, m.ID[:4])
			}
			continue
		}
		c := new(wire.Committed)
		if wire.Decode(it.payload, wire.MaxSessionFrame, c) == nil {
			fmt.Fprintf(&b, "\nitem %d: entry %d", n+1, c.Sequence)
		}
	}
	for token, r := range s.readers {
		fmt.Fprintf(&b, "\nreader %x of %s: acknowledged %d, until %d", token[:4], k.w.orgs[p.id.Organization()].tokens[token], r.acked, r.until)
	}
	return b.String()
}

// epochOf returns the epoch in which a message was accepted, as far as its sender knows.
func (k *walk) epochOf(m Message) wire.Epoch { return m.Epoch }

func (p *peer) all(id wire.ConversationID) []Message {
	page, err := p.History(context.Background(), id, Query{Limit: MaxPage})
	if err != nil {
		return nil
	}
	return page.Messages
}
