package mlscore

import (
	"maps"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// memberIndex knows of all members together what a new leaf has to be compared with, so that no rule
// needs a pass over the leaves: signature keys and identities, and how many members have which
// capabilities and credential types.
type memberIndex struct {
	auth       Authenticator
	signatures keyIndex // → LeafIndex
	identities keyIndex // → LeafIndex

	// A client announces few different sets of capabilities; members that announce the same share a
	// class. The maps belong to the edit under way if owned, else to all trees that share them.
	owned       bool
	classes     map[string]capabilityClass
	credentials map[CredentialType]int
}

// capabilityClass counts the members whose capabilities are the same but for GREASE. Leaving GREASE
// out changes no answer: it counts as unsupported, whoever lists it (§13.5).
type capabilityClass struct {
	capabilities Capabilities
	members      int
}

func newMemberIndex(auth Authenticator) memberIndex {
	return memberIndex{
		auth:        auth,
		signatures:  newKeyIndex(),
		identities:  newKeyIndex(),
		owned:       true,
		classes:     map[string]capabilityClass{},
		credentials: map[CredentialType]int{},
	}
}

// own makes the maps writable.
func (x *memberIndex) own() {
	if !x.owned {
		x.classes = maps.Clone(x.classes)
		x.credentials = maps.Clone(x.credentials)
		x.owned = true
	}
}

func (x *memberIndex) add(i LeafIndex, body string) error {
	leaf, id, err := x.identify(body)
	if err != nil {
		return err
	}
	x.signatures = x.signatures.add(string(leaf.SignatureKey), uint32(i))
	x.identities = x.identities.add(id, uint32(i))
	x.count(leaf, 1)
	return nil
}

func (x *memberIndex) remove(i LeafIndex, body string) error {
	leaf, id, err := x.identify(body)
	if err != nil {
		return err
	}
	x.signatures = x.signatures.remove(string(leaf.SignatureKey), uint32(i))
	x.identities = x.identities.remove(id, uint32(i))
	x.count(leaf, -1)
	return nil
}

// count adds a leaf's capabilities and credential type to the totals, or takes them out.
func (x *memberIndex) count(leaf *LeafNode, by int) {
	x.own()
	key := classOf(leaf.Capabilities)
	c := x.classes[key]
	if c.members += by; c.members == 0 {
		delete(x.classes, key)
	} else {
		if by > 0 && c.members == by {
			c.capabilities = leaf.Capabilities
		}
		x.classes[key] = c
	}
	if x.credentials[leaf.Credential.Type] += by; x.credentials[leaf.Credential.Type] == 0 {
		delete(x.credentials, leaf.Credential.Type)
	}
}

func (x *memberIndex) identify(body string) (*LeafNode, string, error) {
	leaf, err := parseLeafNode(body)
	if err != nil {
		return nil, "", err
	}
	id, err := x.identity(leaf)
	return leaf, id, err
}

// identity asks the application whom a leaf represents.
func (x *memberIndex) identity(leaf *LeafNode) (string, error) {
	id, err := x.auth.Identity(leaf.Credential, leaf.SignatureKey)
	if err != nil {
		return "", &Error{Kind: ErrPolicy, Clause: "§5.3", Object: "credential", Detail: "has no identity", Err: err}
	}
	return string(id), nil
}

// classOf encodes capabilities without GREASE.
func classOf(c Capabilities) string {
	c.CipherSuites = withoutGREASE(c.CipherSuites)
	c.Extensions = withoutGREASE(c.Extensions)
	c.Proposals = withoutGREASE(c.Proposals)
	c.Credentials = withoutGREASE(c.Credentials)
	var w codec.Writer
	c.encode(&w)
	return string(w.Buffer())
}

func withoutGREASE[T ~uint16](codes []T) []T {
	out := make([]T, 0, len(codes))
	for _, c := range codes {
		if !isGREASE(uint16(c)) {
			out = append(out, c)
		}
	}
	return out
}

// all says whether a condition holds for the capabilities of every member.
func (x *memberIndex) all(holds func(Capabilities) bool) bool {
	for _, c := range x.classes {
		if !holds(c.capabilities) {
			return false
		}
	}
	return true
}

// memberByIdentity finds the member whom the application knows by id.
func (t *ratchetTree) memberByIdentity(id string) (at LeafIndex, found bool) {
	found = t.people.identities.find(id, func(place uint32) bool {
		leaf, ok := t.leaf(LeafIndex(place))
		if !ok {
			return false
		}
		at = LeafIndex(place)
		have, err := t.people.identity(leaf)
		return err == nil && have == id
	})
	return at, found
}

// noNode is no node of any tree.
const noNode = ^NodeIndex(0)

// otherNode finds a node other than n with an encryption key.
func (t *ratchetTree) otherNode(n NodeIndex, key []byte) (at NodeIndex, found bool) {
	found = t.keys.find(string(key), func(place uint32) bool {
		at = NodeIndex(place)
		have := t.nodeAbove(at.firstLeaf(), at.level())
		return at != n && have != nil && have.encryptionKey() == string(key)
	})
	return at, found
}

// otherMember finds a leaf other than i that stands under key in an index and is like it.
func (t *ratchetTree) otherMember(x keyIndex, i LeafIndex, key string, like func(*LeafNode) bool) (at LeafIndex, found bool) {
	found = x.find(key, func(place uint32) bool {
		if at = LeafIndex(place); at == i {
			return false
		}
		leaf, ok := t.leaf(at)
		return ok && like(leaf)
	})
	return at, found
}
