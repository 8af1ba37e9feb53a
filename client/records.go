package client

import (
	"encoding/binary"

	"github.com/mlsfed/mlsfed/wire"
)

// Records of this package have keys that begin with 'C' and one of these letters; mlscore uses other first bytes. A
// conversation's id follows its length. Numbers are big-endian, so that records sort.
const (
	recordDevice     = 'd' // nothing → deviceRecord
	recordRoots      = 'r' // SHA-256 of the domain → rootsRecord
	recordOne        = 'c' // conversation → conversationRecord
	recordOrder      = 'o' // conversation, sequence → order hash
	recordPending    = 'p' // conversation → pendingRecord
	recordBlob       = 'b' // conversation, SHA-256 → a blob to be uploaded with the pending commit
	recordOperation  = 'q' // conversation, number → operationRecord
	recordMessage    = 'm' // conversation, number → messageRecord
	recordMessageID  = 'i' // conversation, MessageID → number of the message
	recordOutgoing   = 'x' // conversation, number → outgoingRecord
	recordHeld       = 'h' // conversation, number → heldRecord
	recordCursor     = 's' // token, conversation → how far a stream was processed
	recordKeyPackage = 'k' // KeyPackageRef → keyPackageRecord
	recordWelcome    = 'w' // conversation → welcomeRecord: an entry with which the device joins
	recordUpload     = 'u' // SHA-256 of a blob → uploadRecord
	recordDeparted   = 'l' // conversation, device → when that device of this user left
	recordSighting   = 'g' // conversation, sequence, device → order hash that the device has seen; see sighting
	recordAccepted   = 'a' // conversation, number of the outgoing message → its SubmissionID, number of the message
	recordDelivered  = 'n' // conversation, number, device's hash → 1: the device has an own message
	recordPresence   = 'e' // conversation → presenceRecord
	recordFounding   = 'f' // conversation that a ReInit closed → wire.Payload: its successor's founding
	recordFresh      = 'C' // conversation → wire.Committed: the next entry, which waits for fresh roots
)

// recordVersion is the version of the records that this package writes.
const recordVersion = 1

// maxRecord bounds a record that is read back, in bytes: this package has written it.
const maxRecord = 64 << 20

func recordKey(kind byte, parts ...[]byte) []byte {
	k := []byte{'C', kind}
	for _, p := range parts {
		k = append(k, p...)
	}
	return k
}

func idPart(id ConversationID) []byte { return append([]byte{byte(len(id))}, id...) }

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// deviceRecord is the identity of this device.
type deviceRecord struct {
	Version uint8     `cbor:"1,keyasint"`
	Device  DeviceID  `cbor:"2,keyasint"`
	Suite   uint16    `cbor:"3,keyasint"`
	Key     []byte    `cbor:"4,keyasint"`           // the private signature key
	Public  []byte    `cbor:"5,keyasint"`           // the public signature key
	Chain   [][]byte  `cbor:"6,keyasint,omitempty"` // empty until the device is enrolled
	Ends    wire.Time `cbor:"7,keyasint,omitempty"` // when its certificate ends
	// LastResort is when the last-resort KeyPackage was made.
	LastResort wire.Time `cbor:"8,keyasint,omitempty"`
	// Revoked lists devices of the same user that have been or are being revoked, and so have to leave conversations.
	Revoked []DeviceID `cbor:"9,keyasint,omitempty"`
	// Number counts conversations, so that they are listed in the order of their arrival.
	Number uint64 `cbor:"10,keyasint,omitempty"`
	// Others says when the last-resort KeyPackages of suites other than Suite were made.
	Others []lastResort `cbor:"11,keyasint,omitempty"`
}

// lastResort records when a last-resort KeyPackage was made.
type lastResort struct {
	_     struct{} `cbor:",toarray"`
	Suite uint16
	Made  wire.Time
}

// rootsRecord holds the roots that this device trusts for an organization.
type rootsRecord struct {
	Version uint8     `cbor:"1,keyasint"`
	Domain  Domain    `cbor:"5,keyasint"`
	Since   wire.Time `cbor:"2,keyasint"`
	Roots   [][]byte  `cbor:"3,keyasint"` // DER; the pinned root first, then the roots that were accepted later
	// Offered is another root that the node names, and that the user has not accepted.
	Offered []byte `cbor:"4,keyasint,omitempty"`
}

// conversationRecord is the state of a conversation on a device, in addition to the state of the group itself.
type conversationRecord struct {
	Version  uint8       `cbor:"1,keyasint"`
	State    State       `cbor:"2,keyasint"`
	Number   uint64      `cbor:"3,keyasint"`
	Token    wire.Token  `cbor:"4,keyasint"` // the token of the own address
	Position position    `cbor:"5,keyasint"`
	Joined   Epoch       `cbor:"6,keyasint,omitempty"` // the first epoch that this device can read
	Behind   behind      `cbor:"7,keyasint"`
	Failed   failed      `cbor:"8,keyasint"`
	Title    string      `cbor:"9,keyasint,omitempty"`  // the last name, for use when the group is gone
	Policy   uint8       `cbor:"10,keyasint,omitempty"` // wire.Handshakes
	Keys     keyAge      `cbor:"11,keyasint"`
	Counters counters    `cbor:"12,keyasint"`
	Why      string      `cbor:"13,keyasint,omitempty"` // for StateBroken, StateLeft and StateJoining
	Padding  PaddingMode `cbor:"14,keyasint,omitempty"`
	Waiting  wire.Time   `cbor:"15,keyasint,omitempty"` // since when proposals wait for a commit
	Line     lineage     `cbor:"16,keyasint"`
}

// lineage relates a conversation to those before and after it: see migrate.go.
type lineage struct {
	_     struct{} `cbor:",toarray"`
	Suite uint16   // 0 in records from before suites could be chosen: the device's suite
	// From is the id of the conversation that this one succeeds, and Base the number of history messages that are
	// stored there.
	From []byte
	Base uint64
	// Successor is the id of the conversation that continues after a ReInit; CloseAt is when to close this one on the
	// servers.
	Successor []byte
	CloseAt   wire.Time
	Closed    bool
	Erased    bool // the group's keys are gone
	Leaving   bool // this device had asked to leave when the ReInit came
	// Expected is the binding of the delivery list of a create that names this device: a founding has to follow.
	Expected []byte
	// Unknown is since when the node does not know the conversation. It is here because wire's maps have no free key
	// for it.
	Unknown wire.Time
}

// position is a position in a conversation's log.
type position struct {
	_      struct{}       `cbor:",toarray"`
	Last   SequenceNumber // the last entry that was taken in
	Order  wire.Hash      // the order hash up to Last
	Parent SequenceNumber // the entry that opened the present epoch
}

// behind says which entries have to be fetched.
type behind struct {
	_     struct{}       `cbor:",toarray"`
	Until SequenceNumber // up to this entry; 0 for none
	Since wire.Time      // when the gap became known
	Fresh bool           // after requesting the organizations' roots again
}

// failed is the first child of the present epoch that this device could not process.
type failed struct {
	_       struct{}       `cbor:",toarray"`
	At      SequenceNumber // 0 for none
	Contest wire.Time      // when to contest the commit
}

// keyAge records when this device last gave itself new keys.
type keyAge struct {
	_     struct{} `cbor:",toarray"`
	Since wire.Time
	Sent  uint32 // messages since then
}

// counters number the records of a conversation; each is the next number.
type counters struct {
	_         struct{} `cbor:",toarray"`
	Message   uint64
	Outgoing  uint64
	Operation uint64
	Held      uint64
	Oldest    SequenceNumber // the oldest entry whose order hash is kept
	Unread    uint64
	Sending   uint64 // the first outgoing message that has not been sent
	Sent      Epoch  // epoch of the last message that was sent
}

// pendingRecord is an envelope that is sent, with the same bytes each time, until it is accepted or refused.
type pendingRecord struct {
	Version   uint8          `cbor:"1,keyasint"`
	Envelope  []byte         `cbor:"2,keyasint"`
	Blobs     []wire.BlobRef `cbor:"3,keyasint,omitempty"`
	Operation uint64         `cbor:"4,keyasint,omitempty"` // number of the operation plus one; 0 for none
	Accepted  SequenceNumber `cbor:"5,keyasint,omitempty"`
	After     wire.Time      `cbor:"6,keyasint,omitempty"` // not to be sent before: its maker may send it
	// Refusals is how often the envelope was refused as stale while there was no entry after Refused to take in.
	Refusals uint32         `cbor:"7,keyasint,omitempty"`
	Refused  SequenceNumber `cbor:"8,keyasint,omitempty"`
}

// operationRecord is a change to be made to a group. The details depend on the epoch in which the change wins.
type operationRecord struct {
	Version  uint8        `cbor:"1,keyasint"`
	Kind     opKind       `cbor:"2,keyasint"`
	Attempts uint32       `cbor:"3,keyasint,omitempty"`
	Add      []addition   `cbor:"4,keyasint,omitempty"`
	Users    []UserID     `cbor:"5,keyasint,omitempty"`
	Devices  []DeviceID   `cbor:"6,keyasint,omitempty"`
	Rules    *RulesChange `cbor:"7,keyasint,omitempty"`
	Evidence [][]byte     `cbor:"8,keyasint,omitempty"`  // revocation lists
	Own      bool         `cbor:"9,keyasint,omitempty"`  // made by the device itself, not requested by a call
	After    wire.Time    `cbor:"10,keyasint,omitempty"` // not to be tried before
	Next     []byte       `cbor:"11,keyasint,omitempty"` // the id that a ReInit names
	Reason   opReason     `cbor:"12,keyasint,omitempty"` // for an own opCommit or opRules
}

// addition is a device to be added, with the KeyPackage that was claimed.
type addition struct {
	_          struct{} `cbor:",toarray"`
	Device     DeviceID
	Token      wire.Token
	KeyPackage []byte
}

// messageRecord is a message of the local history.
type messageRecord struct {
	Version   uint8     `cbor:"1,keyasint"`
	ID        MessageID `cbor:"2,keyasint"`
	Sender    DeviceID  `cbor:"3,keyasint"`
	Stored    wire.Time `cbor:"4,keyasint"` // when the organization stored it; for an own message, when it was made
	Epoch     Epoch     `cbor:"5,keyasint"`
	Content   []byte    `cbor:"6,keyasint"`
	Status    Status    `cbor:"7,keyasint"`
	Delivered uint32    `cbor:"8,keyasint,omitempty"` // number of devices that have acknowledged the message
	Error     string    `cbor:"9,keyasint,omitempty"`
	Person    uint32    `cbor:"10,keyasint,omitempty"` // Message.Person; 0 for the first
	Refusals  []refusal `cbor:"11,keyasint,omitempty"` // organizations that will not get the message
	Full      []byte    `cbor:"12,keyasint,omitempty"` // a ContentID, once the message has a state: see content_take.go
}

// refusal is why an organization will not get a message that was accepted.
type refusal struct {
	_            struct{} `cbor:",toarray"`
	Organization Domain
	Reason       wire.Loss
}

// outgoingRecord is an encrypted message on its way, with the same bytes each time.
type outgoingRecord struct {
	Version uint8  `cbor:"1,keyasint"`
	Message []byte `cbor:"2,keyasint"`           // a wire.Message
	Local   uint64 `cbor:"3,keyasint,omitempty"` // its number in the history, plus one; 0 for a receipt
	Content []byte `cbor:"4,keyasint"`           // to be encrypted again if its epoch ends
	Act     []byte `cbor:"5,keyasint,omitempty"` // the ContentID of a reaction, edit or delete
}

// heldRecord is a message ahead of its epoch.
type heldRecord struct {
	Version uint8        `cbor:"1,keyasint"`
	Message wire.Message `cbor:"2,keyasint"`
	Stored  wire.Time    `cbor:"3,keyasint"`
}

// keyPackageRecord is a KeyPackage of this device.
type keyPackageRecord struct {
	Version    uint8      `cbor:"1,keyasint"`
	Token      wire.Token `cbor:"2,keyasint"`
	Ends       wire.Time  `cbor:"3,keyasint"`
	LastResort bool       `cbor:"4,keyasint,omitempty"`
	Message    []byte     `cbor:"5,keyasint,omitempty"` // set until the directory has it
}

// welcomeRecord is an entry with which this device will join, kept until the content that the join needs is here.
type welcomeRecord struct {
	Version uint8     `cbor:"1,keyasint"`
	Entry   []byte    `cbor:"2,keyasint"` // a wire.Committed
	Time    wire.Time `cbor:"3,keyasint"`
}

// getRecord reads a record into v, and reports whether it exists.
func (u *unit) getRecord(key []byte, v any) (bool, error) {
	b, ok, err := u.Get(key)
	if err != nil || !ok {
		return false, err
	}
	defer clear(b)
	return true, wire.Decode(b, maxRecord, v)
}

func (u *unit) putRecord(key []byte, v any) error {
	b, err := wire.Encode(v)
	if err != nil {
		return err
	}
	u.put(key, b)
	clear(b)
	return nil
}

func parseNumber(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}
