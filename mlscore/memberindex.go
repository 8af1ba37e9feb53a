package mlscore

import (
	"encoding/binary"
	"maps"
)

// memberIndex holds the data of all members that a new leaf is compared with, so that no rule needs a pass over the
// leaves: signature keys, identities, and the number of members with each set of capabilities and each credential
// type.
type memberIndex struct {
	suite      *suite
	auth       Authenticator
	signatures keyIndex // → LeafIndex
	identities keyIndex // → LeafIndex

	// A client announces few different sets of capabilities; members that announce the same share a class. If owned
	// is set, the maps belong to the current edit, else to all trees that share them.
	owned       bool
	classes     map[string]*capabilityClass
	credentials map[CredentialType]int
}

// capabilityClass counts the members whose capabilities are the same apart from GREASE. Leaving GREASE out changes no
// result: GREASE is never supported, even if a member lists it (§13.5).
type capabilityClass struct {
	capabilities Capabilities
	members      int
}

func newMemberIndex(s *suite, auth Authenticator) memberIndex {
	return memberIndex{
		suite:       s,
		auth:        auth,
		signatures:  newKeyIndex(),
		identities:  newKeyIndex(),
		owned:       true,
		classes:     map[string]*capabilityClass{},
		credentials: map[CredentialType]int{},
	}
}

// own makes the maps writable.
func (x *memberIndex) own() {
	if !x.owned {
		classes := make(map[string]*capabilityClass, len(x.classes))
		for key, c := range x.classes {
			classes[key] = &capabilityClass{c.capabilities, c.members}
		}
		x.classes = classes
		x.credentials = maps.Clone(x.credentials)
		x.owned = true
	}
}

// addAll adds leaves that are not in the index.
func (x *memberIndex) addAll(leaves []leafChange) error {
	signatures := make([]uint64, len(leaves))
	identities := make([]uint64, len(leaves))
	for k, l := range leaves {
		leaf, id, err := x.identify(l.body)
		if err != nil {
			return err
		}
		signatures[k] = x.signatures.entry(x.suite.canonicalKey(firstVector(afterVector(l.body))), uint32(l.index))
		identities[k] = x.identities.entry(id, uint32(l.index))
		x.count(leaf, 1)
	}
	x.signatures = x.signatures.addAll(signatures)
	x.identities = x.identities.addAll(identities)
	return nil
}

func (x *memberIndex) remove(i LeafIndex, body string) error {
	leaf, id, err := x.identify(body)
	if err != nil {
		return err
	}
	x.signatures = x.signatures.remove(x.suite.canonicalKey(string(leaf.SignatureKey)), uint32(i))
	x.identities = x.identities.remove(id, uint32(i))
	x.count(leaf, -1)
	return nil
}

// count adds a leaf's capabilities and credential type to the totals, or subtracts them.
func (x *memberIndex) count(leaf *LeafNode, by int) {
	x.own()
	var scratch [128]byte
	key := appendClass(scratch[:0], leaf.Capabilities)
	c := x.classes[string(key)]
	if c == nil {
		c = &capabilityClass{capabilities: leaf.Capabilities.clone()}
		x.classes[string(key)] = c
	}
	if c.members += by; c.members == 0 {
		delete(x.classes, string(key))
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

// identity asks the Authenticator for the identity of a leaf.
func (x *memberIndex) identity(leaf *LeafNode) (string, error) {
	id, err := x.identityBytes(leaf)
	return string(id), err
}

func (x *memberIndex) identityBytes(leaf *LeafNode) ([]byte, error) {
	id, err := x.auth.Identity(leaf.Credential, x.suite.authKey(leaf.SignatureKey))
	if err != nil {
		return nil, &Error{Kind: ErrPolicy, Clause: "§5.3", Object: "credential", Detail: "has no identity", Err: err}
	}
	return id, nil
}

// appendClass appends an encoding of capabilities without GREASE.
func appendClass(b []byte, c Capabilities) []byte {
	b = appendCodes(b, c.Versions)
	b = appendCodes(b, c.CipherSuites)
	b = appendCodes(b, c.Extensions)
	b = appendCodes(b, c.Proposals)
	return appendCodes(b, c.Credentials)
}

// appendCodes appends the length of code points in bytes and the code points, without GREASE.
func appendCodes[T ~uint16](b []byte, codes []T) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	for _, c := range codes {
		if !isGREASE(uint16(c)) {
			b = binary.BigEndian.AppendUint16(b, uint16(c))
		}
	}
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-4))
	return b
}

// all reports whether a condition holds for the capabilities of every member.
func (x *memberIndex) all(holds func(Capabilities) bool) bool {
	for _, c := range x.classes {
		if !holds(c.capabilities) {
			return false
		}
	}
	return true
}

// memberByIdentity returns the member to whom the Authenticator gives the identity id.
func (t *ratchetTree) memberByIdentity(id string) (at LeafIndex, found bool) {
	found = t.indexed().people.identities.find(id, func(place uint32) bool {
		leaf, ok := t.leaf(LeafIndex(place))
		if !ok {
			return false
		}
		at = LeafIndex(place)
		have, err := t.identity(leaf)
		return err == nil && have == id
	})
	return at, found
}

// noNode is not a node of any tree.
const noNode = ^nodeIndex(0)

// otherNode returns a node other than n that has the encryption key.
func (t *ratchetTree) otherNode(n nodeIndex, key []byte) (at nodeIndex, found bool) {
	found = t.indexed().keys.find(string(key), func(place uint32) bool {
		if at = nodeIndex(place); at == n {
			return false
		}
		have := t.nodeAbove(at.firstLeaf(), at.level())
		return have != nil && have.encryptionKey() == string(key)
	})
	return at, found
}

// otherMember returns a leaf other than i that an index holds under key and for which like returns true.
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
