package lineage

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// Outcome is the result of comparing a document with a Pin.
type Outcome string

// The outcomes. Only Same, Successor and Recovered are followed; with each other outcome the roots and the traffic
// stay as they are, and new contacts wait for the operator.
const (
	Same      Outcome = "same"      // the pinned link is in force
	Successor Outcome = "successor" // ordinary links lead from the pinned link to another one
	Recovered Outcome = "recovered" // a recovery link has replaced the roots: the organization's root key was stolen or lost
	Stale     Outcome = "stale"     // the pinned link, with a statement that is older than a known one
	Lost      Outcome = "lost"      // a link before the pinned one is in force: the web server has lost links, or replays
	Voided    Outcome = "voided"    // a link in force that a known recovery link has voided: somebody uses a stolen root key
	Forked    Outcome = "forked"    // two ordinary links follow one link: a root key is used by two parties
	Disputed  Outcome = "disputed"  // two recovery links follow one link: the recovery key is used by two parties
	Resold    Outcome = "resold"    // another lineage: another organization under the same name
)

// Followed reports whether the document confirms or validly replaces the pinned roots.
func (o Outcome) Followed() bool { return o == Same || o == Successor || o == Recovered }

// Held reports whether new contacts wait until the operator has decided. An old statement alone is no reason.
func (o Outcome) Held() bool { return !o.Followed() && o != Stale }

// Pin is the state of an organization at a party that has met it. A Pin does not change; First and Compare return new
// ones.
type Pin struct {
	domain    wire.Domain
	chain     []*link   // from link 0 to the link in force, without void links
	known     history   // of all links that the owner has learned
	serial    uint64    // of the newest statement of the link in force
	statement wire.Hash // its hash
	since     wire.Time // when the link in force was accepted
}

// storedPin is the encoding of a Pin.
type storedPin struct {
	Domain    wire.Domain `cbor:"1,keyasint"`
	Chain     [][]byte    `cbor:"2,keyasint"` // signed links
	Serial    uint64      `cbor:"3,keyasint"`
	Statement wire.Hash   `cbor:"4,keyasint"`
	Since     wire.Time   `cbor:"5,keyasint"`
	// Evidence has the known signed links that are not in Chain: each follows a link of Chain or an earlier one here.
	Evidence [][]byte `cbor:"6,keyasint"`
}

// Check implements wire.Checker.
func (p *storedPin) Check() error {
	if err := p.Domain.Check(); err != nil {
		return err
	}
	if n := len(p.Chain); n < 1 || n > MaxLinks || len(p.Evidence) > maxEvidence || p.Serial == 0 || p.Serial > maxSerial || p.Since <= 0 {
		return fmt.Errorf("a pin with %d links, %d links of evidence, serial %d, since %d", n, len(p.Evidence), p.Serial, p.Since)
	}
	return nil
}

// Encode encodes the pin for storage.
func (p *Pin) Encode() ([]byte, error) {
	s := &storedPin{Domain: p.domain, Serial: p.serial, Statement: p.statement, Since: p.since}
	inChain := make(map[wire.Hash]bool)
	for _, l := range p.chain {
		inChain[l.hash] = true
		s.Chain = append(s.Chain, l.raw)
	}
	for _, l := range p.known.links() {
		if !inChain[l.hash] {
			s.Evidence = append(s.Evidence, l.raw)
		}
	}
	return wire.Encode(s)
}

// DecodePin decodes a stored pin and verifies its links.
func DecodePin(b []byte) (*Pin, error) {
	s := new(storedPin)
	if err := wire.Decode(b, maxPin, s); err != nil {
		return nil, err
	}
	p := &Pin{domain: s.Domain, serial: s.Serial, statement: s.Statement, since: s.Since}
	var err error
	if p.chain, err = parseChain(s.Chain, s.Domain); err != nil {
		return nil, fmt.Errorf("the pin of %s is damaged: %w", s.Domain, err)
	}
	if len(unvoided(p.chain)) != len(p.chain) {
		return nil, fmt.Errorf("the pin of %s is damaged: its chain has void links", s.Domain)
	}
	all := slices.Clone(p.chain)
	known := make(map[wire.Hash]*link)
	for _, l := range p.chain {
		known[l.hash] = l
	}
	for _, raw := range s.Evidence {
		l, err := parseLink(raw, s.Domain)
		switch {
		case err != nil:
		case l.Previous == nil || known[*l.Previous] == nil || known[l.hash] != nil:
			err = fmt.Errorf("a link that is known, or follows no known link")
		default:
			err = l.verify(known[*l.Previous])
		}
		if err != nil {
			return nil, fmt.Errorf("the evidence about %s is damaged: %w", s.Domain, err)
		}
		known[l.hash] = l
		all = append(all, l)
	}
	p.known = historyOf(all)
	if again, err := p.Encode(); err != nil || !bytes.Equal(again, b) {
		return nil, fmt.Errorf("the pin of %s is damaged: its evidence is not what its links amount to", s.Domain)
	}
	return p, nil
}

// First pins an organization that was not known before, at first contact or by the word of the operator. id is the
// lineage in the TXT record; it is nil if the operator vouches for the document. The error is an *Error.
func First(d *Document, id *wire.Hash, now time.Time) (*Pin, error) {
	if err := d.CheckAhead(now); err != nil {
		return nil, err
	}
	if err := d.CheckEnd(now); err != nil {
		return nil, err
	}
	if id != nil {
		if err := d.CheckID(*id); err != nil {
			return nil, err
		}
	}
	chain := unvoided(d.chain)
	p := &Pin{domain: d.Domain, known: historyOf(chain)}
	p.follow(chain, d, now)
	return p, nil
}

// follow sets the chain and the statement of a document.
func (p *Pin) follow(chain []*link, d *Document, now time.Time) {
	p.chain, p.serial, p.statement, p.since = chain, d.Statement.Serial, d.statement, wire.TimeOf(now)
}

// Compare compares a document of the pinned organization with the pin, and returns the pin to store: with other roots
// if a valid chain of links leads to them, with more evidence if the document has some, or p itself. The error is an
// *Error: the document is not to be used at all.
func (p *Pin) Compare(d *Document, now time.Time) (Outcome, *Pin, error) {
	if d.Domain != p.domain {
		return "", nil, refuse(OtherName, "the document of %s is compared with the pin of %s", d.Domain, p.domain)
	}
	if err := d.CheckAhead(now); err != nil {
		return "", nil, err
	}
	if d.Lineage != p.Lineage() {
		return Resold, p, nil
	}
	next := *p
	next.known = historyOf(slices.Concat(p.known.links(), p.chain, unvoided(d.chain)))
	outcome := p.outcome(next.known, d)
	switch outcome {
	case Successor, Recovered:
		next.follow(next.known.path, d, now)
	case Same:
		next.serial, next.statement = d.Statement.Serial, d.statement
	}
	return outcome, &next, nil
}

// outcome compares the history of all links, those of the document included, with the pinned chain.
func (p *Pin) outcome(h history, d *Document) Outcome {
	anchor := h.path[anchored(h.path)].hash
	at, shown := h.position(p.Link()), h.position(d.Link)
	switch {
	case h.recoveryDisputed():
		return Disputed
	case d.chain[anchored(d.chain)].hash != anchor:
		return Voided
	case len(h.rivals) > 0:
		return Forked
	case p.chain[anchored(p.chain)].hash != anchor:
		return Recovered
	case shown > at:
		return Successor
	case shown < at && d.Statement.Serial > p.serial:
		return Lost
	case shown < at, d.Statement.Serial < p.serial, d.Statement.Serial == p.serial && d.statement != p.statement:
		return Stale
	}
	return Same
}

// Domain returns the organization's domain.
func (p *Pin) Domain() wire.Domain { return p.domain }

// Lineage returns the hash of link 0.
func (p *Pin) Lineage() wire.Hash { return p.chain[0].hash }

// Link returns the hash of the link in force.
func (p *Pin) Link() wire.Hash { return p.chain[len(p.chain)-1].hash }

// Since returns the time at which the link in force was accepted.
func (p *Pin) Since() time.Time { return p.since.Std() }

// Roots returns the root certificates in force. The first signs nodes.
func (p *Pin) Roots() []*x509.Certificate { return slices.Clone(p.chain[len(p.chain)-1].roots) }

// Verdict is what the known links say about a root certificate of a leaf in a conversation.
type Verdict string

// The verdicts.
const (
	Current Verdict = "current" // a root of the last undisputed link
	Former  Verdict = "former"  // a root of a link before it that no recovery link has voided
	Refused Verdict = "refused" // any other root
)

// Verdict decides about a root, DER, by the set of links that the pin's owner has learned. It does not depend on the
// order in which the owner learned them, nor on the link that the owner has accepted: all owners of one lineage that
// know the same links decide alike.
func (p *Pin) Verdict(root []byte) Verdict {
	path := p.known.path
	if p.known.recoveryDisputed() {
		return Refused // two recovery links void the roots before them, and neither of the two counts
	}
	for i := len(path) - 1; i >= anchored(path); i-- {
		if slices.ContainsFunc(path[i].Roots, func(der []byte) bool { return bytes.Equal(der, root) }) {
			if i == len(path)-1 {
				return Current
			}
			return Former
		}
	}
	return Refused
}

// Sentence describes an outcome to people: what the organization shows, compared with the pin, and what follows.
func (p *Pin) Sentence(o Outcome) string {
	since := date(p.since)
	const held = "new contacts wait until your operator has asked its people"
	switch o {
	case Same:
		return fmt.Sprintf("%s shows the root of %s", p.domain, since)
	case Successor:
		return fmt.Sprintf("%s has replaced its root; the root before it, of %s, has signed the new one", p.domain, since)
	case Recovered:
		return fmt.Sprintf("%s has replaced its root with its recovery key; the root of before was stolen or lost", p.domain)
	case Stale:
		return fmt.Sprintf("%s's statement is older than the one of %s", p.domain, date(wire.Time(p.serial)))
	case Lost:
		return fmt.Sprintf("%s shows the root that it has replaced on %s: its web server has lost links; %s", p.domain, since, held)
	case Voided:
		return fmt.Sprintf("%s shows a root that its recovery key has withdrawn before %s: somebody may use a stolen root; %s", p.domain, since, held)
	case Forked:
		return fmt.Sprintf("%s has shown two successors of one root: somebody else may have its root key; %s", p.domain, held)
	case Disputed:
		return fmt.Sprintf("%s has shown two recoveries of one root: somebody else may have its recovery key; %s", p.domain, held)
	}
	return fmt.Sprintf("%s shows another root than on %s: %s", p.domain, since, held)
}
