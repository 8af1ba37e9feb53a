package wire

// Subprotocol is the WebSocket subprotocol of a session between a device and its organization's node.
const Subprotocol = "mlsfed.v1"

// SessionVersion is the version in a Challenge.
const SessionVersion = 1

// maxLoginSignature bounds Login.Signature, in bytes: those of ML-DSA-87 have 4,627.
const maxLoginSignature = 5 << 10

// MaxSessionFrame is the default limit of one frame of a session, in bytes: an entry of the maximum size with its
// framing.
const MaxSessionFrame = MaxEntry + 128<<10

// FrameType is the type of a Frame.
type FrameType uint8

// The types of Frame, in the order in which they appear in a session.
const (
	FrameChallenge FrameType = 1 // node → device, the first frame; the body is a Challenge
	FrameLogin     FrameType = 2 // device → node; a Login
	FrameSession   FrameType = 3 // node → device: logged in; a Session
	FrameRequest   FrameType = 4 // device → node: ID, Method and the request's body
	FrameAnswer    FrameType = 5 // node → device: the ID of its request, and the answer's body
	FrameError     FrameType = 6 // node → device: the ID of its request, or 0 when the session ends; an Error
	FramePush      FrameType = 7 // node → device: a Push
	FrameAck       FrameType = 8 // device → node: an Ack
	FrameAlarm     FrameType = 9 // node → device that has announced FeatureAlarm: an Alarm
)

// Frame is one binary WebSocket message.
type Frame struct {
	Type   FrameType `cbor:"1,keyasint"`
	ID     uint64    `cbor:"2,keyasint,omitempty"` // chosen by the device, not 0, not in use
	Method Method    `cbor:"3,keyasint,omitempty"`
	Body   []byte    `cbor:"4,keyasint,omitempty"` // an encoded structure by Type or Method
}

// Check refuses a frame whose fields do not belong to its type.
func (f *Frame) Check() error {
	if f.Type < FrameChallenge || f.Type > FrameAlarm {
		return Errorf(Malformed, "frame", "type %d is unknown", f.Type)
	}
	if (f.Type == FrameRequest) != (f.Method != "") || len(f.Method) > maxMethod {
		return Errorf(Malformed, "frame", "type %d with method %.40q", f.Type, f.Method)
	}
	if (f.Type == FrameRequest || f.Type == FrameAnswer) && f.ID == 0 {
		return Errorf(Malformed, "frame", "type %d without an id", f.Type)
	}
	return nil
}

// Challenge opens a session.
type Challenge struct {
	Version uint8  `cbor:"1,keyasint"`
	Domain  Domain `cbor:"2,keyasint"` // the organization; a device that expects another one leaves
	Nonce   Hash   `cbor:"3,keyasint"` // 32 random bytes, for this connection only
	Time    Time   `cbor:"4,keyasint"` // the node's clock
}

// Check refuses another version, and a missing domain.
func (c *Challenge) Check() error {
	if c.Version != SessionVersion {
		return Errorf(Version, "challenge", "version %d, this side knows %d", c.Version, SessionVersion)
	}
	if err := c.Domain.Check(); err != nil {
		return Errorf(Malformed, "challenge", "%v", err)
	}
	return nil
}

// LoginInput returns the bytes that a device signs with the key in its leaves to answer the challenge.
func (c *Challenge) LoginInput(d DeviceID) ([]byte, error) {
	b, err := Encode(struct {
		_      struct{} `cbor:",toarray"`
		Domain Domain
		Nonce  Hash
		Device DeviceID
	}{Domain: c.Domain, Nonce: c.Nonce, Device: d})
	if err != nil {
		return nil, err
	}
	return append([]byte("mlsfed login 1\x00"), b...), nil
}

// Login answers a challenge.
type Login struct {
	Device    DeviceID `cbor:"1,keyasint"`
	Signature []byte   `cbor:"2,keyasint"` // over Challenge.LoginInput
	// Receive requests pushes. A device has one session that receives: a newer one ends the older one. A session
	// without Receive only serves requests.
	Receive bool `cbor:"3,keyasint,omitempty"`
}

// Check refuses a login without a device or a signature.
func (l *Login) Check() error {
	if err := l.Device.Check(); err != nil {
		return Errorf(Malformed, "login", "%v", err)
	}
	if n := len(l.Signature); n == 0 || n > maxLoginSignature {
		return Errorf(Malformed, "login", "signature of %d bytes", n)
	}
	return nil
}

// Session confirms the login of a device, and contains the session's bounds.
type Session struct {
	Node            NodeID `cbor:"1,keyasint"`
	Time            Time   `cbor:"2,keyasint"`
	CertificateEnds Time   `cbor:"3,keyasint"` // end of the device's certificate: the device renews it earlier
	MaxFrame        uint32 `cbor:"4,keyasint"` // bytes of a frame in either direction
	Window          uint32 `cbor:"5,keyasint"` // maximum number of unacknowledged pushes
	Requests        uint32 `cbor:"6,keyasint"` // maximum number of concurrent requests
}

// Check refuses a session whose bounds allow nothing.
func (s *Session) Check() error {
	if s.MaxFrame == 0 || s.Window == 0 || s.Requests == 0 {
		return Errorf(Malformed, "session", "frames of %d bytes, a window of %d, %d requests", s.MaxFrame, s.Window, s.Requests)
	}
	return nil
}

// ItemKind is the kind of an item of a stream.
type ItemKind uint8

// The kinds of item, and the type of their payload.
const (
	ItemEntry   ItemKind = 1 // in a conversation: a Committed
	ItemMessage ItemKind = 2 // in a conversation: a Message
	ItemJoined  ItemKind = 3 // in the inbox: a Joined
	ItemNotice  ItemKind = 4 // in the inbox: a Notice
	// ItemUndelivered is in a conversation: an Undelivered. A device of the first release ignores it, like every kind
	// that it does not know.
	ItemUndelivered ItemKind = 5
	ItemMissed      ItemKind = 6 // in the inbox: a Missed; an earlier device ignores it
)

// Push carries one item of a stream, or reports a gap. Items of one stream come in the order of their sequence,
// without holes except for reported gaps. After a reconnection unacknowledged items come again: a device recognizes
// them by their sequence and drops them.
type Push struct {
	// Conversation is nil for the device's inbox.
	Conversation *ConversationID `cbor:"1,keyasint,omitempty"`
	Token        Token           `cbor:"2,keyasint"` // of the address under which the stream is read; zero for the inbox
	Sequence     uint64          `cbor:"3,keyasint"` // in the stream, not in the conversation's log; for a gap: its end
	Kind         ItemKind        `cbor:"4,keyasint,omitempty"`
	ID           SubmissionID    `cbor:"5,keyasint"`
	Time         Time            `cbor:"6,keyasint"` // when the organization stored it
	Payload      []byte          `cbor:"7,keyasint,omitempty"`
	// GapFrom is set in a gap: the items from GapFrom to Sequence expired before the device read them.
	GapFrom uint64 `cbor:"8,keyasint,omitempty"`
}

// Check refuses a push that is neither an item nor a gap.
func (p *Push) Check() error {
	gap := p.GapFrom > 0
	if p.Sequence == 0 || gap == (p.Kind != 0) || gap && (p.GapFrom > p.Sequence || len(p.Payload) > 0) {
		return Errorf(Malformed, "push", "sequence %d, kind %d, gap from %d", p.Sequence, p.Kind, p.GapFrom)
	}
	return nil
}

// Ack acknowledges all items of one stream up to a sequence, permanently: acknowledged items are not sent again. It
// makes room in the window.
type Ack struct {
	Conversation *ConversationID `cbor:"1,keyasint,omitempty"`
	Token        Token           `cbor:"2,keyasint"`
	Sequence     uint64          `cbor:"3,keyasint"`
}

// Check refuses an acknowledgement of no item.
func (a *Ack) Check() error {
	if a.Sequence == 0 {
		return Errorf(Malformed, "ack", "of sequence 0")
	}
	return nil
}

// Joined is in a device's inbox after the device was added to a conversation. The entry that added it, with the
// Welcome, is the first item of the conversation's stream that the device gets.
type Joined struct {
	Conversation ConversationID `cbor:"1,keyasint"`
	Token        Token          `cbor:"2,keyasint"` // the token of the KeyPackage that was used
	Sequence     SequenceNumber `cbor:"3,keyasint"` // position of the entry
}

// Check refuses a sequence that no entry can have.
func (j *Joined) Check() error {
	if j.Sequence == 0 {
		return Errorf(Malformed, "joined", "by entry 0")
	}
	return nil
}

// NoticeType is the subject of a Notice.
type NoticeType uint8

// The types of Notice.
const (
	NoticeKeyPackages NoticeType = 1 // few KeyPackages of Suite are left: Left
	NoticeEnrolled    NoticeType = 2 // Device, of the same user, was enrolled
	NoticeRevoked     NoticeType = 3 // Device, of the same user, was revoked
)

// Notice is a message of a node to a device, in the device's inbox.
type Notice struct {
	Type   NoticeType `cbor:"1,keyasint"`
	Suite  uint16     `cbor:"2,keyasint,omitempty"`
	Left   uint32     `cbor:"3,keyasint,omitempty"`
	Device DeviceID   `cbor:"4,keyasint,omitempty"`
}

// Check refuses an unknown type.
func (n *Notice) Check() error {
	if n.Type < NoticeKeyPackages || n.Type > NoticeRevoked {
		return Errorf(Malformed, "notice", "type %d is unknown", n.Type)
	}
	return nil
}

// Loss is why the organization gave up messages that it had accepted.
type Loss uint8

// The reasons of an Undelivered.
const (
	LossRefused  Loss = 1 // the other organization refused them for good
	LossExpired  Loss = 2 // the other organization could not be reached, or had no room, for too long
	LossExcluded Loss = 3 // the other organization is no longer admitted
	LossDamaged  Loss = 4 // they could not be read back from the disk
)

// String returns the reason in words.
func (l Loss) String() string {
	names := [...]string{"", "refused", "expired", "excluded", "damaged"}
	if int(l) < len(names) {
		return names[l]
	}
	return "unknown"
}

// MaxUndelivered bounds the messages of one Undelivered.
const MaxUndelivered = 256

// Undelivered reports messages that the device's organization had accepted and has given up delivering to another
// organization. All devices of the organization in the conversation get it: the organization does not know which
// device sent a message. A device looks for its own messages among the ids.
type Undelivered struct {
	Organization Domain         `cbor:"1,keyasint"`
	Reason       Loss           `cbor:"2,keyasint"`
	IDs          []SubmissionID `cbor:"3,keyasint"` // ids of Messages
}

// Check refuses an unknown reason, and no or too many messages.
func (u *Undelivered) Check() error {
	if u.Reason < LossRefused || u.Reason > LossDamaged {
		return Errorf(Malformed, "undelivered", "reason %d is unknown", u.Reason)
	}
	if n := len(u.IDs); n == 0 || n > MaxUndelivered {
		return Errorf(Malformed, "undelivered", "%d messages, wanted 1 to %d", n, MaxUndelivered)
	}
	return u.Organization.Check()
}

// Missed informs a device that was removed from a conversation about a message for it: another organization had
// accepted the message before it heard of the removal, and delivered it afterwards.
type Missed struct {
	Conversation ConversationID `cbor:"1,keyasint"`
	Organization Domain         `cbor:"2,keyasint"`
	More         bool           `cbor:"3,keyasint,omitempty"` // there may be more messages, without a notice
}

// Check refuses invalid names.
func (m *Missed) Check() error {
	if err := m.Conversation.Check(); err != nil {
		return err
	}
	return m.Organization.Check()
}

// CloseCode is the WebSocket close code with which a node ends a session, one for each reason.
type CloseCode int

// The close codes. The text of the close frame has more details.
const (
	CloseStopping    CloseCode = 1001 // the node stops: come back after a moment
	CloseMalformed   CloseCode = 4000 // a frame breaks the protocol: a fault of the device's software
	CloseLogin       CloseCode = 4001 // the login was refused: the certificate is unknown, revoked or expired, or the signature is wrong
	CloseLoginSlow   CloseCode = 4002 // no login came in time
	CloseReplaced    CloseCode = 4003 // a newer session of the device receives
	CloseSlow        CloseCode = 4004 // the device did not read, or did not answer pings
	CloseFlood       CloseCode = 4005 // too many frames, requests or bytes: come back later
	CloseTooLarge    CloseCode = 4006 // a frame over MaxFrame
	CloseRevoked     CloseCode = 4007 // the device was revoked meanwhile
	CloseTooMany     CloseCode = 4008 // the node has no room for another session, or for another one from this address
	CloseInternal    CloseCode = 4009 // a fault of the node: its log says more
	CloseSubprotocol CloseCode = 4010 // the client did not offer the subprotocol
)
