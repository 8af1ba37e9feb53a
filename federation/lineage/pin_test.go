package lineage

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// TestOutcomes checks each outcome, with the sentence that people read.
func TestOutcomes(t *testing.T) {
	a := found(t, exampleDomain, "root", "recovery")
	at := func(hours int) time.Time { return start.Add(time.Duration(hours) * time.Hour) }
	first := a.document(t, at(0))
	successor := a.succeed(t, "second")
	recovered := a.recover(t, "new", "recovery 2")
	thief := a.succeed(t, "thief")

	for _, c := range []struct {
		name     string
		pinned   *Document
		shown    *Document
		want     Outcome
		sentence string
	}{
		{"same", first, a.document(t, at(1)), Same, "b.example shows the root of 2026-12-01"},
		{"same document", first, first, Same, "shows the root"},
		{"successor", first, successor.document(t, at(1)), Successor, "b.example has replaced its root; the root before it, of 2026-12-01, has signed the new one"},
		{"recovered", first, recovered.document(t, at(1)), Recovered, "b.example has replaced its root with its recovery key"},
		{"recovered, with an earlier statement than the thief's", thief.document(t, at(20)), recovered.document(t, at(1)), Recovered, "recovery key"},
		{"recovered, with void links in the document", thief.document(t, at(2)), thief.recover(t, "new", "recovery 2").document(t, at(1)), Recovered, "recovery key"},
		{"stale", a.document(t, at(1)), first, Stale, "b.example's statement is older than the one of 2026-12-01"},
		{"another statement with the serial", first, a.document(t, at(0), func(s *Statement) { s.Contacts = nil }), Stale, "older"},
		{"replay of the chain", successor.document(t, at(1)), first, Stale, "older"},
		{"lost links", successor.document(t, at(1)), a.document(t, at(2)), Lost, "b.example shows the root that it has replaced on 2026-12-01: its web server has lost links; new contacts wait"},
		{"void", recovered.document(t, at(1)), thief.document(t, at(2)), Voided, "b.example shows a root that its recovery key has withdrawn before 2026-12-01"},
		{"void, the first root", recovered.document(t, at(1)), a.document(t, at(2)), Voided, "withdrawn"},
		{"forked", successor.document(t, at(1)), thief.document(t, at(2)), Forked, "b.example has shown two successors of one root"},
		{"forked, several links later", successor.succeed(t, "third").document(t, at(1)), thief.succeed(t, "thief 2").document(t, at(2)), Forked, "two successors"},
		{"disputed", recovered.document(t, at(1)), a.recover(t, "other", "other recovery").document(t, at(2)), Disputed, "b.example has shown two recoveries of one root"},
		{"resold", first, found(t, exampleDomain, "root of another", "recovery of another").document(t, at(1)), Resold, "b.example shows another root than on 2026-12-01: new contacts wait until your operator has asked its people"},
		{"resold, with the same root", first, found(t, exampleDomain, "root", "recovery of another").document(t, at(1)), Resold, "another root"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := mustPin(t, c.pinned)
			next := compare(t, p, c.shown, c.want)
			if got := p.Sentence(c.want); !strings.Contains(got, c.sentence) {
				t.Errorf("sentence %q, wanted %q", got, c.sentence)
			}
			if c.want == Same || c.want == Recovered || c.want == Successor {
				if next.Link() != c.shown.Link {
					t.Error("the link in force is not pinned")
				}
			}
			if c.want.Held() != strings.Contains(p.Sentence(c.want), "new contacts wait") {
				t.Errorf("the sentence %q does not say whether new contacts wait", p.Sentence(c.want))
			}
		})
	}
}

// TestRecoveryEndsAFork checks that the recovery key ends what a thief of the root key has begun, and that the
// thief's documents change nothing afterwards.
func TestRecoveryEndsAFork(t *testing.T) {
	a := found(t, exampleDomain, "root", "recovery")
	thief := a.succeed(t, "thief")
	p := mustPin(t, a.document(t, start))
	p = compare(t, p, a.succeed(t, "second").document(t, start), Successor)
	p = compare(t, p, thief.document(t, start), Forked)
	p = compare(t, p, a.succeed(t, "second").document(t, start.Add(time.Hour)), Forked)
	stolen := thief.links[1].Roots[0]
	if v := p.Verdict(stolen); v != Refused {
		t.Errorf("the thief's root is %s", v)
	}
	r := a.recover(t, "new", "recovery 2")
	p = compare(t, p, r.document(t, start), Recovered)
	for _, root := range [][]byte{stolen, a.links[0].Roots[0]} {
		if v := p.Verdict(root); v != Refused {
			t.Errorf("a root of before the recovery is %s", v)
		}
	}
	if v := p.Verdict(r.links[1].Roots[0]); v != Current {
		t.Errorf("the new root is %s", v)
	}
	compare(t, p, thief.document(t, start.Add(20*time.Hour)), Voided)
	p = compare(t, p, r.succeed(t, "third").document(t, start), Successor)
	if v := p.Verdict(r.links[1].Roots[0]); v != Former {
		t.Errorf("the root before the successor is %s", v)
	}
}

// TestFirstContact checks what first contact refuses, and what the operator's word admits.
func TestFirstContact(t *testing.T) {
	a := found(t, exampleDomain, "root", "recovery")
	d := a.document(t, start)
	other := found(t, exampleDomain, "other root", "recovery").document(t, start).Lineage
	for _, c := range []struct {
		name string
		d    *Document
		at   time.Time
		want Reason
		text string
	}{
		{"another id", d, start, OtherID, "b.example's statement has another id than its TXT record"},
		{"ended", d, start.Add(90 * day), Expired, "b.example's statement ended on 2027-03-01"},
		{"from the future", d, start.Add(-day - time.Millisecond), Future, "b.example's statement is from 2026-12-01: its clock or yours is wrong"},
		{"serial from the future", a.document(t, start, func(s *Statement) { s.Serial = maxSerial }), start, Future, "b.example's statement is from the far future"},
	} {
		id := &d.Lineage
		if c.want == OtherID {
			id = &other
		}
		_, err := First(c.d, id, c.at)
		if e, ok := err.(*Error); !ok || e.Reason != c.want || !strings.Contains(e.Text, c.text) {
			t.Errorf("%s: %v, wanted %s: %s", c.name, err, c.want, c.text)
		}
	}
	if _, err := First(d, nil, start); err != nil {
		t.Errorf("by the word of the operator: %v", err)
	}
	if _, err := First(d, &d.Lineage, start.Add(-day)); err != nil {
		t.Errorf("a statement that is a day ahead: %v", err)
	}
	// A pinned organization stays, though its statement ends.
	p := mustPin(t, d)
	if o, _, err := p.Compare(d, start.Add(1000*day)); err != nil || o != Same {
		t.Errorf("a pinned organization with an old statement: %s, %v", o, err)
	}
	if _, _, err := p.Compare(d, start.Add(-2*day)); err == nil {
		t.Error("a pinned organization with a statement from the future is accepted")
	}
	if _, _, err := p.Compare(found(t, "c.example", "root", "recovery").document(t, start), start); err == nil {
		t.Error("the document of another domain is accepted")
	}
}

// TestVoidLinksAreNotPinned checks that void links in a document, which may be listed, are no part of a pin.
func TestVoidLinksAreNotPinned(t *testing.T) {
	a := found(t, exampleDomain, "root", "recovery")
	listed := mustPin(t, a.succeed(t, "thief").recover(t, "new", "recovery 2").document(t, start))
	left := mustPin(t, a.recover(t, "new", "recovery 2").document(t, start))
	x, err := listed.Encode()
	if err != nil {
		t.Fatal(err)
	}
	y, err := left.Encode()
	if err != nil || !bytes.Equal(x, y) {
		t.Errorf("a document with void links is pinned otherwise than without them: %v", err)
	}
}
