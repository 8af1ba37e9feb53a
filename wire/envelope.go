package wire

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"slices"
)

// EnvelopeVersion is the version of Envelope that this package writes.
const EnvelopeVersion = 1

// Kind is the kind of a submission.
type Kind uint8

// The kinds of submission.
const (
	KindCreate   Kind = 1 // opens a conversation
	KindProposal Kind = 2 // a Proposal for the epoch
	KindCommit   Kind = 3 // a Commit with the data that belongs to it
	KindClose    Kind = 4 // ends the conversation, or one head of a contested one
)

// String returns the name of the kind.
func (k Kind) String() string {
	switch k {
	case KindCreate:
		return "create"
	case KindProposal:
		return "proposal"
	case KindCommit:
		return "commit"
	case KindClose:
		return "close"
	}
	return "unknown"
}

// Envelope is a submission: content that a client wants to have ordered. Exactly the field of its kind is set;
// KindClose has none.
type Envelope struct {
	Version      uint8          `cbor:"1,keyasint"`
	Conversation ConversationID `cbor:"2,keyasint"`
	Submission   SubmissionID   `cbor:"3,keyasint"` // random; a retry has the same
	Kind         Kind           `cbor:"4,keyasint"`
	// Epoch is the epoch of the submission, and Parent the entry that opened the epoch. Two heads of a contested
	// epoch have the same number, so Parent decides; both are 0 in a create.
	Epoch    Epoch          `cbor:"5,keyasint"`
	Parent   SequenceNumber `cbor:"6,keyasint"`
	Create   *Create        `cbor:"7,keyasint,omitempty"`
	Proposal []byte         `cbor:"8,keyasint,omitempty"` // an MLSMessage
	Commit   *CommitBundle  `cbor:"9,keyasint,omitempty"`
	// Signature is an Ed25519 signature by the submission key of the epoch over SigningInput. With public handshakes
	// it is empty, except in a create.
	Signature []byte `cbor:"10,keyasint,omitempty"`
}

// Create opens a conversation in epoch 0.
type Create struct {
	Policy   Policy        `cbor:"1,keyasint"`
	Key      SubmissionKey `cbor:"2,keyasint"`           // the key of epoch 0; it signs the create
	Delivery []Address     `cbor:"3,keyasint"`           // the first delivery list, strictly ascending
	Info     []byte        `cbor:"4,keyasint,omitempty"` // the GroupInfo as an MLSMessage; needed for public handshakes
	Tree     []byte        `cbor:"5,keyasint,omitempty"` // the ratchet tree, if GroupInfo does not hold it
}

// Handshakes is how a conversation's handshakes are protected.
type Handshakes uint8

// The policies for handshakes.
const (
	HandshakesPrivate Handshakes = 1 // PrivateMessages, signed with the submission key
	HandshakesPublic  Handshakes = 2 // PublicMessages, validated in full by every replica
)

// Policy is fixed when a conversation is created. A zero number selects the default that the state machine documents.
type Policy struct {
	Handshakes  Handshakes `cbor:"1,keyasint"`
	Voters      uint8      `cbor:"2,keyasint,omitempty"` // largest number of voters, odd, at most MaxVoters
	Witness     Domain     `cbor:"3,keyasint,omitempty"` // an organization without members that may hold a voter
	RecentCount uint32     `cbor:"4,keyasint,omitempty"` // entries kept for catching up
	RecentBytes uint32     `cbor:"5,keyasint,omitempty"`
	RecentHours uint32     `cbor:"6,keyasint,omitempty"`
}

// MaxVoters bounds Policy.Voters.
const MaxVoters = 9

// CommitBundle is a Commit with all data that takes effect with it.
type CommitBundle struct {
	// Commit is an MLSMessage; with Rest, the part of the message before its ciphertext.
	Commit []byte `cbor:"1,keyasint"`
	// Welcome is an MLSMessage for the added members. With a ReInit it is the founding of the successor, which has
	// its own log: docs/spec/client.md, Migration.
	Welcome  *Payload       `cbor:"2,keyasint,omitempty"`
	Info     *Payload       `cbor:"3,keyasint,omitempty"` // the GroupInfo of the new epoch
	Tree     *Payload       `cbor:"4,keyasint,omitempty"` // its ratchet tree
	Key      SubmissionKey  `cbor:"5,keyasint"`           // the key of the epoch that the commit opens
	Delivery DeliveryChange `cbor:"6,keyasint"`
	// Contest marks a commit by a member that could not process the commit that won its epoch.
	Contest bool `cbor:"7,keyasint,omitempty"`
	// Rest names the ciphertext of a Commit that is a blob outside the entry: a large group's commit has a secret for
	// each member that has not committed yet. It needs level 3 of the rules, private handshakes, and members that
	// know it.
	Rest *BlobRef `cbor:"8,keyasint,omitempty"`
}

// Payload is content in the entry itself, or a reference to a blob. Exactly one field is set.
type Payload struct {
	Inline []byte   `cbor:"1,keyasint,omitempty"`
	Blob   *BlobRef `cbor:"2,keyasint,omitempty"`
}

// DeliveryChange changes a delivery list. Both lists are strictly ascending and disjoint.
type DeliveryChange struct {
	Add    []Address `cbor:"1,keyasint,omitempty"`
	Remove []Address `cbor:"2,keyasint,omitempty"`
}

// MaxBlob is the maximum size of a blob that a Payload or Rest may name, in bytes.
const MaxBlob = 256 << 20

// MinRest is the minimum size of a blob that Rest may name, in bytes: a smaller commit belongs in the entry.
const MinRest = 1024

// SigningInput returns the bytes that the submission key signs: a domain separator and the envelope without its
// signature, in its deterministic encoding.
func (e *Envelope) SigningInput() ([]byte, error) {
	var input []byte
	err := e.lookSigned(func(b []byte) { input = bytes.Clone(b) })
	return input, err
}

func (e *Envelope) lookSigned(fn func(input []byte)) error {
	bare := *e
	bare.Signature = nil
	return look("mlsfed submission 1\x00", &bare, fn)
}

// Sign sets the signature. The key is the private half of the epoch's submission key pair.
func (e *Envelope) Sign(key ed25519.PrivateKey) error {
	var signature []byte
	if err := e.lookSigned(func(input []byte) { signature = ed25519.Sign(key, input) }); err != nil {
		return err
	}
	e.Signature = signature
	return nil
}

// Verify reports whether the signature was made with key.
func (e *Envelope) Verify(key SubmissionKey) bool {
	if len(e.Signature) != ed25519.SignatureSize {
		return false
	}
	valid := false
	err := e.lookSigned(func(input []byte) { valid = ed25519.Verify(key[:], input, e.Signature) })
	return err == nil && valid
}

// Digest returns a SHA-256 over the whole envelope.
func (e *Envelope) Digest() (Hash, error) {
	var h Hash
	err := look("mlsfed envelope 1\x00", e, func(b []byte) { h = sha256.Sum256(b) })
	return h, err
}

// Binding returns the hash that a committer puts into the Commit's authenticated_data and that a member compares: a
// hash over the change of the delivery list. It exposes a server that alters the change. The key of the next epoch
// needs no binding, and can have none, since it follows from the commit: members compare it with the key that they
// derive.
func (b *CommitBundle) Binding() (Hash, error) {
	raw, err := Encode(&b.Delivery)
	if err != nil {
		return Hash{}, err
	}
	return sha256.Sum256(append([]byte("mlsfed delivery 1\x00"), raw...)), nil
}

// Blobs returns the references of the blobs that the envelope names.
func (e *Envelope) Blobs() []BlobRef {
	if e.Commit == nil {
		return nil
	}
	var refs []BlobRef
	for _, p := range []*Payload{e.Commit.Welcome, e.Commit.Info, e.Commit.Tree} {
		if p != nil && p.Blob != nil {
			refs = append(refs, *p.Blob)
		}
	}
	if e.Commit.Rest != nil {
		refs = append(refs, *e.Commit.Rest)
	}
	return refs
}

// Check refuses an envelope that breaks a rule that needs no state.
func (e *Envelope) Check() error {
	if e.Version != EnvelopeVersion {
		return Errorf(Version, "envelope", "version %d, this node knows %d", e.Version, EnvelopeVersion)
	}
	if err := e.Conversation.Check(); err != nil {
		return Errorf(Malformed, "envelope", "%v", err)
	}
	if e.Submission == (SubmissionID{}) {
		return Errorf(Malformed, "envelope", "submission id is zero, wanted random bytes")
	}
	if n := len(e.Signature); n != 0 && n != ed25519.SignatureSize {
		return Errorf(Malformed, "envelope", "signature of %d bytes", n)
	}
	set := [...]bool{KindCreate: e.Create != nil, KindProposal: len(e.Proposal) > 0, KindCommit: e.Commit != nil, KindClose: false}
	for kind, isSet := range set {
		wanted := Kind(kind) == e.Kind && e.Kind != KindClose
		if kind != 0 && isSet != wanted {
			return Errorf(Malformed, "envelope", "kind %v with the fields of another", e.Kind)
		}
	}
	return e.checkKind()
}

func (e *Envelope) checkKind() error {
	switch e.Kind {
	case KindCreate:
		if e.Epoch != 0 || e.Parent != 0 {
			return Errorf(Malformed, "envelope", "create for epoch %d after entry %d, wanted 0 and 0", e.Epoch, e.Parent)
		}
		return e.Create.Check()
	case KindProposal, KindClose:
	case KindCommit:
		if err := e.Commit.Check(); err != nil {
			return err
		}
	default:
		return Errorf(Malformed, "envelope", "kind %d is unknown", e.Kind)
	}
	if e.Parent == 0 {
		return Errorf(Malformed, "envelope", "%v without the entry that opened its epoch", e.Kind)
	}
	return nil
}

// Check refuses a create that breaks a rule that needs no state.
func (c *Create) Check() error {
	if c.Key.IsZero() {
		return Errorf(Malformed, "create", "without a submission key")
	}
	if len(c.Delivery) == 0 {
		return Errorf(Malformed, "create", "with an empty delivery list: nobody would receive it")
	}
	if err := checkAddresses(c.Delivery); err != nil {
		return err
	}
	if c.Policy.Handshakes == HandshakesPublic && len(c.Info) == 0 {
		return Errorf(Malformed, "create", "public handshakes without a GroupInfo to validate them against")
	}
	return c.Policy.Check()
}

// Check refuses a policy that exceeds its bounds.
func (p *Policy) Check() error {
	if p.Handshakes != HandshakesPrivate && p.Handshakes != HandshakesPublic {
		return Errorf(Malformed, "policy", "handshakes %d, wanted private (1) or public (2)", p.Handshakes)
	}
	if p.Voters > MaxVoters || p.Voters != 0 && p.Voters%2 == 0 {
		return Errorf(Malformed, "policy", "%d voters, wanted an odd number up to %d", p.Voters, MaxVoters)
	}
	if p.Witness != "" {
		if err := p.Witness.Check(); err != nil {
			return Errorf(Malformed, "policy", "witness: %v", err)
		}
	}
	if p.RecentCount > 4096 || p.RecentBytes > 64<<20 || p.RecentHours > 24*365 {
		return Errorf(Malformed, "policy", "keeps %d entries, %d bytes, %d hours; at most 4096, 64 MiB, a year",
			p.RecentCount, p.RecentBytes, p.RecentHours)
	}
	return nil
}

// Check refuses a bundle that breaks a rule that needs no state.
func (b *CommitBundle) Check() error {
	if len(b.Commit) == 0 {
		return Errorf(Malformed, "commit", "without a Commit")
	}
	if b.Key.IsZero() {
		return Errorf(Malformed, "commit", "without the submission key of the epoch that it opens")
	}
	if r := b.Rest; r != nil && (r.Size < MinRest || r.Size > MaxBlob) {
		return Errorf(TooLarge, "commit", "rest of %d bytes in a blob, wanted %d to %d", r.Size, MinRest, MaxBlob)
	}
	for _, p := range []*Payload{b.Welcome, b.Info, b.Tree} {
		if p == nil {
			continue
		}
		if (len(p.Inline) > 0) == (p.Blob != nil) {
			return Errorf(Malformed, "commit", "payload is neither inline nor a blob, or both")
		}
		if p.Blob != nil && (p.Blob.Size == 0 || p.Blob.Size > MaxBlob) {
			return Errorf(TooLarge, "commit", "blob of %d bytes, wanted 1 to %d", p.Blob.Size, MaxBlob)
		}
	}
	return b.Delivery.Check()
}

// IsZero reports whether nothing changes.
func (d *DeliveryChange) IsZero() bool { return len(d.Add)+len(d.Remove) == 0 }

// Check refuses a change that is not sorted or contradicts itself.
func (d *DeliveryChange) Check() error {
	if err := checkAddresses(d.Add); err != nil {
		return err
	}
	if err := checkAddresses(d.Remove); err != nil {
		return err
	}
	for _, a := range d.Remove {
		if _, both := slices.BinarySearchFunc(d.Add, a, Address.Compare); both {
			return Errorf(Malformed, "delivery", "%v is added and removed at once", a)
		}
	}
	return nil
}

// checkAddresses refuses a list that is not strictly ascending.
func checkAddresses(list []Address) error {
	for i, a := range list {
		if i > 0 && list[i-1].Compare(a) >= 0 {
			return Errorf(Malformed, "delivery", "address %d is not after the one before it", i)
		}
		if i > 0 && list[i-1].Organization == a.Organization {
			continue // checked with its predecessor
		}
		if err := a.Check(); err != nil {
			return Errorf(Malformed, "delivery", "address %d: %v", i, err)
		}
	}
	return nil
}
