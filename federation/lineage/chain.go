package lineage

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"

	"github.com/mlsfed/mlsfed/wire"
)

// A link is a decoded Link with its hash. Its signatures are verified when a chain takes it.
type link struct {
	Link
	hash   wire.Hash
	raw    []byte // the Signed
	signed Signed
	roots  []*x509.Certificate
}

// recovery reports whether the recovery key has made the link.
func (l *link) recovery() bool { return len(l.Key) > 0 }

// anchor reports whether the link has set the recovery hash that is valid for the links after it.
func (l *link) anchor() bool { return l.Previous == nil || l.recovery() }

func (l *link) keys() (all []crypto.PublicKey) {
	for _, r := range l.roots {
		all = append(all, r.PublicKey)
	}
	return all
}

func parseLink(raw []byte, d wire.Domain) (*link, error) {
	l := &link{raw: raw}
	if err := wire.Decode(raw, MaxLink, &l.signed); err != nil {
		return nil, err
	}
	if err := wire.Decode(l.signed.Body, MaxLink, &l.Link); err != nil {
		return nil, err
	}
	if l.Domain != d {
		return nil, fmt.Errorf("a link of %s", l.Domain)
	}
	l.hash = LinkHash(l.signed.Body)
	ids := make(map[KeyID]bool)
	for _, der := range l.Roots {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("root certificate: %w", err)
		}
		if err := CheckRoot(c, d); err != nil {
			return nil, fmt.Errorf("root certificate %w", err)
		}
		id, _, err := keyIDOf(c.PublicKey)
		if err != nil {
			return nil, err
		}
		if ids[id] {
			return nil, fmt.Errorf("two roots of a link have one key")
		}
		ids[id] = true
		l.roots = append(l.roots, c)
	}
	return l, nil
}

// verify verifies a link that follows previous, which is nil for link 0.
func (l *link) verify(previous *link) error {
	switch {
	case previous == nil:
		if l.Previous != nil {
			return fmt.Errorf("the first link has a link before it")
		}
		return l.signed.signedBy(linkLabel, l.keys())
	case l.Previous == nil || *l.Previous != previous.hash:
		return fmt.Errorf("the link does not follow the link that it has to follow")
	case !l.recovery():
		if l.Recovery != previous.Recovery {
			return fmt.Errorf("an ordinary link changes the recovery key")
		}
		return l.signed.signedBy(linkLabel, previous.keys())
	case !previous.anchor():
		return fmt.Errorf("a recovery link follows an ordinary link")
	case sha256.Sum256(l.Key) != previous.Recovery:
		return fmt.Errorf("a recovery link has another key than the link before it names")
	}
	public, err := x509.ParsePKIXPublicKey(l.Key)
	if err != nil {
		return fmt.Errorf("recovery key: %w", err)
	}
	key, ok := public.(ed25519.PublicKey)
	if !ok {
		return fmt.Errorf("a recovery key of type %T, wanted Ed25519", public)
	}
	return l.signed.signedBy(linkLabel, []crypto.PublicKey{key})
}

// parseChain decodes and verifies the links of a document. Each ordinary link follows the link before it in the
// list. A recovery link follows the last link before it that set a recovery key, and so voids the links between.
func parseChain(raw [][]byte, d wire.Domain) ([]*link, error) {
	if len(raw) < 1 || len(raw) > MaxLinks {
		return nil, fmt.Errorf("%d links, wanted 1 to %d", len(raw), MaxLinks)
	}
	var chain []*link
	var last, anchor *link
	for i, b := range raw {
		l, err := parseLink(b, d)
		if err == nil {
			previous := last
			if l.recovery() {
				previous = anchor
			}
			err = l.verify(previous)
		}
		if err != nil {
			return nil, fmt.Errorf("link %d: %w", i, err)
		}
		if last = l; l.anchor() {
			anchor = l
		}
		chain = append(chain, l)
	}
	return chain, nil
}

// unvoided returns the links of a chain that its recovery links leave: the anchors, and the ordinary links after the
// last anchor.
func unvoided(chain []*link) []*link {
	last := anchored(chain)
	var left []*link
	for i, l := range chain {
		if l.anchor() || i > last {
			left = append(left, l)
		}
	}
	return left
}

// A history is what a set of verified links of one lineage amounts to. It depends on the set alone, not on the order
// in which the links were learned: the history of a history's links and further links is the history of all of them.
type history struct {
	path []*link // from link 0 to the last link that is neither void nor disputed
	// rivals are two links with one Previous, the last of path, those with the smallest hashes; none if the path is
	// not disputed. Links after rivals are not kept: no link but a recovery link can end the dispute.
	rivals []*link
}

// historyOf computes the history. Each link was verified in a chain, and links has the whole chain, except void links.
func historyOf(links []*link) history {
	var h history
	after := make(map[wire.Hash][]*link)
	for _, l := range links {
		if l.Previous == nil {
			h.path = []*link{l}
			continue
		}
		after[*l.Previous] = append(after[*l.Previous], l)
	}
	next := func(of *link, recovery bool) []*link {
		var found []*link
		for _, l := range after[of.hash] {
			if l.recovery() == recovery {
				found = append(found, l)
			}
		}
		slices.SortFunc(found, func(a, b *link) int { return bytes.Compare(a.hash[:], b.hash[:]) })
		found = slices.CompactFunc(found, func(a, b *link) bool { return a.hash == b.hash })
		return found[:min(len(found), 2)]
	}
	for {
		end := h.tip()
		var found []*link
		if end.anchor() {
			found = next(end, true)
		}
		if len(found) == 0 {
			found = next(end, false)
		}
		switch len(found) {
		case 0:
			return h
		case 1:
			h.path = append(h.path, found[0])
		default:
			h.rivals = found
			return h
		}
	}
}

func (h history) tip() *link { return h.path[len(h.path)-1] }

// links returns all links of the history.
func (h history) links() []*link { return append(slices.Clone(h.path), h.rivals...) }

// recoveryDisputed reports whether two recovery links have one Previous.
func (h history) recoveryDisputed() bool { return len(h.rivals) > 0 && h.rivals[0].recovery() }

// position returns the index of a link in the path, or -1.
func (h history) position(hash wire.Hash) int {
	return slices.IndexFunc(h.path, func(l *link) bool { return l.hash == hash })
}

// anchored returns the index of the last link that has set the recovery hash.
func anchored(chain []*link) (i int) {
	for n, l := range chain {
		if l.anchor() {
			i = n
		}
	}
	return i
}
