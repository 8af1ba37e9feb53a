package client

import (
	"encoding/binary"

	"github.com/mlsfed/mlsfed/wire"
)

// Records of this package stand under 'C' and one of these letters; mlscore uses other first bytes. A
// conversation's id comes with its length before it. Numbers are big-endian, so that records sort.
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
	recordWelcome    = 'w' // conversation → welcomeRecord: an entry to be joined by
	recordUpload     = 'u' // SHA-256 of a blob → uploadRecord
	recordDeparted   = 'l' // conversation, device → when that device of the user's went
	recordSighting   = 'g' // conversation, sequence, device → order hash that the device has seen; see sighting
	recordAccepted   = 'a' // conversation, number of the outgoing message → its SubmissionID, number of the message
	recordDelivered  = 'n' // conversation, number, device's hash → 1: the device has an own message
	recordPresence   = 'e' // conversation → presenceRecord
	recordFounding   = 'f' // conversation that a ReInit closed → wire.Payload: its successor's founding
)

// recordVersion is the version of the records that this package writes.
const recordVersion = 1

// maxRecord bounds what is read back, in bytes: it was written here.
const maxRecord = 64 << 20

func recordKey(kind byte, parts ...[]byte) []byte {
	k := []byte{'C', kind}
	for _, p := range parts {
		k = append(k, p...)
	}
	return k
}

func idPart(id wire.ConversationID) []byte { return append([]byte{byte(len(id))}, id...) }

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// deviceRecord is who this device is.
type deviceRecord struct {
	Version uint8         `cbor:"1,keyasint"`
	Device  wire.DeviceID `cbor:"2,keyasint"`
	Suite   uint16        `cbor:"3,keyasint"`
	Key     []byte        `cbor:"4,keyasint"`           // the signature key, private
	Public  []byte        `cbor:"5,keyasint"`           // and public
	Chain   [][]byte      `cbor:"6,keyasint,omitempty"` // empty until it is enrolled
	Ends    wire.Time     `cbor:"7,keyasint,omitempty"` // the end of its certificate
	// LastResort is when the last-resort KeyPackage was made.
	LastResort wire.Time `cbor:"8,keyasint,omitempty"`
	// Revoked are devices of the same user that were revoked or are, and so have to leave conversations.
	Revoked []wire.DeviceID `cbor:"9,keyasint,omitempty"`
	// Number counts conversations, so that they are listed in the order in which they came.
	Number uint64 `cbor:"10,keyasint,omitempty"`
	// Others are when the last-resort KeyPackages of other suites than Suite were made.
	Others []lastResort `cbor:"11,keyasint,omitempty"`
}

// lastResort is when a last-resort KeyPackage was made.
type lastResort struct {
	_     struct{} `cbor:",toarray"`
	Suite uint16
	Made  wire.Time
}

// rootsRecord is what is believed of an organization.
type rootsRecord struct {
	Version uint8       `cbor:"1,keyasint"`
	Domain  wire.Domain `cbor:"5,keyasint"`
	Since   wire.Time   `cbor:"2,keyasint"`
	Roots   [][]byte    `cbor:"3,keyasint"` // DER, the one pinned first before those that were accepted later
	// Offered is another root that the node names, and that nobody has accepted.
	Offered []byte `cbor:"4,keyasint,omitempty"`
}

// conversationRecord is where a device is in a conversation, beside the group's own state.
type conversationRecord struct {
	Version  uint8       `cbor:"1,keyasint"`
	State    State       `cbor:"2,keyasint"`
	Number   uint64      `cbor:"3,keyasint"`
	Token    wire.Token  `cbor:"4,keyasint"` // of the own address
	Position position    `cbor:"5,keyasint"`
	Joined   wire.Epoch  `cbor:"6,keyasint,omitempty"` // the first epoch that this device can read
	Behind   behind      `cbor:"7,keyasint"`
	Failed   failed      `cbor:"8,keyasint"`
	Title    string      `cbor:"9,keyasint,omitempty"`  // the last name, kept for when the group is gone
	Policy   uint8       `cbor:"10,keyasint,omitempty"` // wire.Handshakes
	Keys     keyAge      `cbor:"11,keyasint"`
	Counters counters    `cbor:"12,keyasint"`
	Why      string      `cbor:"13,keyasint,omitempty"` // of StateBroken, and of StateJoining
	Padding  PaddingMode `cbor:"14,keyasint,omitempty"`
	Waiting  wire.Time   `cbor:"15,keyasint,omitempty"` // since when proposals wait for a commit
	Line     lineage     `cbor:"16,keyasint"`
}

// lineage is what a conversation has to do with others: see migrate.go.
type lineage struct {
	_     struct{} `cbor:",toarray"`
	Suite uint16   // 0 in records of before there was a choice: the device's
	// From is the id of the conversation that this one succeeds, and Base how many messages of the history
	// stand there.
	From []byte
	Base uint64
	// Successor is the id of the conversation that goes on after a ReInit; CloseAt is when this one is to be
	// closed on the servers.
	Successor []byte
	CloseAt   wire.Time
	Closed    bool
	Erased    bool // the group's keys are gone
	Leaving   bool // this device had asked to leave when the ReInit came
	// Expected is the binding of the delivery list of a create that names this device: a founding is to follow.
	Expected []byte
	// Unknown is since when the node does not know the conversation. It stands here because wire's maps have
	// no key left for it.
	Unknown wire.Time
}

// position is a place in a conversation's log.
type position struct {
	_      struct{}            `cbor:",toarray"`
	Last   wire.SequenceNumber // the last entry that was taken in
	Order  wire.Hash           // the order hash up to it
	Parent wire.SequenceNumber // the entry that opened the present epoch
}

// behind says which entries are to be fetched.
type behind struct {
	_     struct{}            `cbor:",toarray"`
	Until wire.SequenceNumber // up to this one; 0 for none
	Since wire.Time           // when that became known
	Fresh bool                // after the organizations' roots have been asked for anew
}

// failed is the first child of the present epoch that this device could not process.
type failed struct {
	_       struct{}            `cbor:",toarray"`
	At      wire.SequenceNumber // 0 for none
	Contest wire.Time           // when to contest it
}

// keyAge says when this device last gave itself new keys.
type keyAge struct {
	_     struct{} `cbor:",toarray"`
	Since wire.Time
	Sent  uint32 // messages since
}

// counters number the records of a conversation; the next of each.
type counters struct {
	_         struct{} `cbor:",toarray"`
	Message   uint64
	Outgoing  uint64
	Operation uint64
	Held      uint64
	Oldest    wire.SequenceNumber // order hashes are kept from here
	Unread    uint64
	Sending   uint64     // the first outgoing message that has not been sent
	Sent      wire.Epoch // of the last one that was
}

// pendingRecord is an envelope that goes out until it is accepted or refused, the same bytes each time.
type pendingRecord struct {
	Version   uint8               `cbor:"1,keyasint"`
	Envelope  []byte              `cbor:"2,keyasint"`
	Blobs     []wire.BlobRef      `cbor:"3,keyasint,omitempty"`
	Operation uint64              `cbor:"4,keyasint,omitempty"` // plus one; 0 for none
	Accepted  wire.SequenceNumber `cbor:"5,keyasint,omitempty"`
	After     wire.Time           `cbor:"6,keyasint,omitempty"` // not to be sent before: its maker may do it
	// Refusals is how often it was refused as stale with nothing to take in after entry Refused.
	Refusals uint32              `cbor:"7,keyasint,omitempty"`
	Refused  wire.SequenceNumber `cbor:"8,keyasint,omitempty"`
}

// operationRecord is a change of a group that is to be made; how, depends on the epoch in which it wins.
type operationRecord struct {
	Version  uint8           `cbor:"1,keyasint"`
	Kind     opKind          `cbor:"2,keyasint"`
	Attempts uint32          `cbor:"3,keyasint,omitempty"`
	Add      []addition      `cbor:"4,keyasint,omitempty"`
	Users    []wire.UserID   `cbor:"5,keyasint,omitempty"`
	Devices  []wire.DeviceID `cbor:"6,keyasint,omitempty"`
	Rules    *RulesChange    `cbor:"7,keyasint,omitempty"`
	Evidence [][]byte        `cbor:"8,keyasint,omitempty"`  // revocation lists
	Own      bool            `cbor:"9,keyasint,omitempty"`  // made by the device itself, not asked for by a call
	After    wire.Time       `cbor:"10,keyasint,omitempty"` // not to be tried before
	Next     []byte          `cbor:"11,keyasint,omitempty"` // that a ReInit names
	Reason   opReason        `cbor:"12,keyasint,omitempty"` // of an own opCommit
}

// addition is a device to be added, with what was claimed of it.
type addition struct {
	_          struct{} `cbor:",toarray"`
	Device     wire.DeviceID
	Token      wire.Token
	KeyPackage []byte
}

// messageRecord is one message of the local history.
type messageRecord struct {
	Version   uint8         `cbor:"1,keyasint"`
	ID        MessageID     `cbor:"2,keyasint"`
	Sender    wire.DeviceID `cbor:"3,keyasint"`
	Stored    wire.Time     `cbor:"4,keyasint"` // when the organization stored it; of an own one, when it was made
	Epoch     wire.Epoch    `cbor:"5,keyasint"`
	Content   []byte        `cbor:"6,keyasint"`
	Status    Status        `cbor:"7,keyasint"`
	Delivered uint32        `cbor:"8,keyasint,omitempty"` // devices that have acknowledged it
	Error     string        `cbor:"9,keyasint,omitempty"`
	Person    uint32        `cbor:"10,keyasint,omitempty"` // Message.Person; 0 for the first
	Refusals  []refusal     `cbor:"11,keyasint,omitempty"` // organizations that will not get it
}

// refusal says why an organization will not get a message that was accepted.
type refusal struct {
	_            struct{} `cbor:",toarray"`
	Organization wire.Domain
	Reason       wire.Loss
}

// outgoingRecord is an encrypted message on its way, the same bytes each time.
type outgoingRecord struct {
	Version uint8  `cbor:"1,keyasint"`
	Message []byte `cbor:"2,keyasint"`           // a wire.Message
	Local   uint64 `cbor:"3,keyasint,omitempty"` // its number in the history, plus one; 0 for a receipt
	Content []byte `cbor:"4,keyasint"`           // to be protected anew should its epoch end
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
	Message    []byte     `cbor:"5,keyasint,omitempty"` // until the directory has it
}

// welcomeRecord is an entry by which this device is to join, until what it needs is here.
type welcomeRecord struct {
	Version uint8     `cbor:"1,keyasint"`
	Entry   []byte    `cbor:"2,keyasint"` // a wire.Committed
	Time    wire.Time `cbor:"3,keyasint"`
}

// getRecord reads a record into v, and reports whether there is one.
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
