package wire

// Method names what a device asks of its node. Names follow MIMI's where it has the operation.
type Method string

const maxMethod = 32

// The methods of a session: what the body of the request is → what that of the answer is. Nothing is an
// empty body.
const (
	MethodUpload        Method = "upload"        // UploadRequest → nothing: KeyPackages for others to claim
	MethodAddress       Method = "address"       // AddressRequest → nothing: an address of the device, without a KeyPackage
	MethodRefuse        Method = "refuse"        // RefuseRequest → nothing: an address of the device takes nothing of a conversation
	MethodCount         Method = "count"         // nothing → CountAnswer: the device's KeyPackages
	MethodDiscard       Method = "discard"       // nothing → nothing: the directory forgets the device's KeyPackages
	MethodKeyMaterial   Method = "keyMaterial"   // KeyMaterialRequest → KeyMaterialAnswer: claims one KeyPackage of each device of a user
	MethodUpdate        Method = "update"        // Envelope → Receipt: a handshake, a new conversation, its end
	MethodSubmit        Method = "submitMessage" // Message → Accepted: an application message
	MethodEntries       Method = "entries"       // EntriesRequest → EntriesAnswer: what the log has ordered
	MethodGroupInfo     Method = "groupInfo"     // GroupInfoRequest → GroupInfoAnswer: what an external join needs
	MethodDownload      Method = "download"      // DownloadRequest → DownloadAnswer: a piece of a blob
	MethodPutBlob       Method = "putBlob"       // PutBlobRequest → PutBlobAnswer: a piece of a blob
	MethodConversations Method = "conversations" // nothing → ConversationsAnswer: the device's streams
	MethodDevices       Method = "devices"       // nothing → DevicesAnswer: the devices of the same user
	MethodInvite        Method = "invite"        // InviteRequest → InviteAnswer: a code for another device of the same user
	MethodRevoke        Method = "revoke"        // RevokeRequest → nothing: a device of the same user
	MethodRenew         Method = "renew"         // nothing → ChainAnswer: the device's certificate, a new one if it ends soon
	MethodOrganizations Method = "organizations" // nothing → OrganizationsAnswer: the admitted ones, with their roots
	MethodFeatures      Method = "features"      // FeaturesRequest → FeaturesAnswer: what the device understands, and what the node does
	MethodDelivery      Method = "delivery"      // DeliveryRequest → DeliveryAnswer: whom a conversation is delivered to, as a hash
	MethodPolicy        Method = "policy"        // PolicyRequest → PolicyAnswer: that of a conversation, or the one proposed for new ones
	MethodWaiting       Method = "waiting"       // WaitingRequest → WaitingAnswer: what waits for other organizations
	MethodLimits        Method = "limits"        // nothing → LimitsAnswer: what the node lets this session do
	MethodRevocations   Method = "revocations"   // RevocationsRequest → RevocationsAnswer: the revocation list of an organization
)

// UploadRequest hands in KeyPackages, all or none. A repetition does no harm.
type UploadRequest struct {
	KeyPackages []UploadedKeyPackage `cbor:"1,keyasint"`
}

// UploadedKeyPackage is a KeyPackage and the address that its user will be reached at.
type UploadedKeyPackage struct {
	Message []byte `cbor:"1,keyasint"` // an MLSMessage
	Token   Token  `cbor:"2,keyasint"` // random, for this KeyPackage alone
}

// AddressRequest registers an address under which the device will receive: for a conversation that it
// creates, or enters by an external commit, where no claimed KeyPackage names one. A repetition by the
// same device does no harm; another device's token is refused with Exists.
type AddressRequest struct {
	Token Token `cbor:"1,keyasint"` // random, for one conversation alone
}

// Check refuses the zero token, which stands for the inbox.
func (r *AddressRequest) Check() error {
	if r.Token == (Token{}) {
		return Errorf(Malformed, "address", "token is zero: choose 16 random bytes")
	}
	return nil
}

// RefuseRequest gives up an address in one conversation: its stream is forgotten, and nothing of the
// conversation is stored for the address any more, whoever adds it. A node of a build before December 2026 says
// that the method is unknown.
type RefuseRequest struct {
	Conversation ConversationID `cbor:"1,keyasint"`
	Token        Token          `cbor:"2,keyasint"`
}

// Check refuses the zero token, which stands for the inbox, and a bad id.
func (r *RefuseRequest) Check() error {
	if r.Token == (Token{}) {
		return Errorf(Malformed, "refuse", "token is zero: name the address under which the conversation came")
	}
	if err := r.Conversation.Check(); err != nil {
		return Errorf(Malformed, "refuse", "%v", err)
	}
	return nil
}

// CountAnswer says how many KeyPackages a device has left.
type CountAnswer struct {
	Counts []KeyPackageCount `cbor:"1,keyasint"`
}

// KeyPackageCount is about one cipher suite.
type KeyPackageCount struct {
	Suite      uint16 `cbor:"1,keyasint"`
	Left       uint32 `cbor:"2,keyasint"` // not counting the last resort
	LastResort bool   `cbor:"3,keyasint,omitempty"`
}

// KeyMaterialRequest claims one KeyPackage of each device of a user, of any organization. A repetition
// with the same ID gets the same answer.
type KeyMaterialRequest struct {
	ID    SubmissionID `cbor:"1,keyasint"`
	User  UserID       `cbor:"2,keyasint"`
	Suite uint16       `cbor:"3,keyasint"`
	// Devices are those of the own user that are asked for, sorted, at most MaxElements; all where there are none. Needs
	// FeatureClaimOwn.
	Devices []DeviceID `cbor:"4,keyasint,omitempty"`
}

// Check refuses a request without an id or a user, and devices of another user.
func (r *KeyMaterialRequest) Check() error {
	if r.ID == (SubmissionID{}) {
		return Errorf(Malformed, "keyMaterial", "without an id: choose 16 random bytes")
	}
	if err := r.User.Check(); err != nil {
		return Errorf(Malformed, "keyMaterial", "%v", err)
	}
	if len(r.Devices) > MaxElements {
		return Errorf(Malformed, "keyMaterial", "%d devices, at most %d", len(r.Devices), MaxElements)
	}
	for i, d := range r.Devices {
		if err := d.Check(); err != nil {
			return Errorf(Malformed, "keyMaterial", "%v", err)
		}
		if d.User() != r.User || i > 0 && r.Devices[i-1] >= d {
			return Errorf(Malformed, "keyMaterial", "devices: wanted those of %s alone, in order", r.User)
		}
	}
	return nil
}

// KeyMaterialAnswer has one KeyPackage of each device that has any.
type KeyMaterialAnswer struct {
	Devices []KeyMaterial `cbor:"1,keyasint"`
}

// KeyMaterial is one claimed KeyPackage.
type KeyMaterial struct {
	Device     DeviceID `cbor:"1,keyasint"`
	Address    Address  `cbor:"2,keyasint"` // where the device will receive
	Message    []byte   `cbor:"3,keyasint"` // an MLSMessage
	LastResort bool     `cbor:"4,keyasint,omitempty"`
}

// EntriesRequest asks for the entries after Since. Zero Count and Bytes stand for 100 and 512 KiB; the
// node may give fewer, but at least one where there is one.
type EntriesRequest struct {
	Conversation ConversationID `cbor:"1,keyasint"`
	Since        SequenceNumber `cbor:"2,keyasint,omitempty"`
	Count        uint32         `cbor:"3,keyasint,omitempty"`
	Bytes        uint32         `cbor:"4,keyasint,omitempty"`
}

// EntriesAnswer has entries in order. With Gap, the first ones after Since are no longer kept.
type EntriesAnswer struct {
	Entries []Committed `cbor:"1,keyasint"`
	Gap     bool        `cbor:"2,keyasint,omitempty"`
}

// GroupInfoRequest asks for the epochs of a conversation that can be joined.
type GroupInfoRequest struct {
	Conversation ConversationID `cbor:"1,keyasint"`
}

// DeliveryRequest asks whom a conversation is delivered to. A node that takes it announces FeatureDelivery.
type DeliveryRequest struct {
	Conversation ConversationID `cbor:"1,keyasint"`
}

// DeliveryAnswer has more than one head where an epoch is contested.
type DeliveryAnswer struct {
	Heads []DeliveryHead `cbor:"1,keyasint"`
}

// DeliveryHead is the delivery list of one epoch. A member compares it with the addresses of the members: an
// address that is nobody's is somebody's who reads in silence.
type DeliveryHead struct {
	Parent    SequenceNumber `cbor:"1,keyasint"` // the entry that opened the epoch
	Addresses uint32         `cbor:"2,keyasint"` // how many
	Binding   Hash           `cbor:"3,keyasint"` // CommitBundle.Binding of a change that adds them all, sorted
}

// DeliveryHeadOf describes a sorted delivery list.
func DeliveryHeadOf(parent SequenceNumber, list []Address) (DeliveryHead, error) {
	binding, err := (&CommitBundle{Delivery: DeliveryChange{Add: list}}).Binding()
	return DeliveryHead{Parent: parent, Addresses: uint32(len(list)), Binding: binding}, err
}

// GroupInfoAnswer has more than one head where an epoch is contested.
type GroupInfoAnswer struct {
	Heads []GroupInfo `cbor:"1,keyasint"`
}

// GroupInfo is what the bundle that opened an epoch published of it.
type GroupInfo struct {
	Epoch  Epoch          `cbor:"1,keyasint"`
	Parent SequenceNumber `cbor:"2,keyasint"` // the entry that opened it
	Order  Hash           `cbor:"3,keyasint"` // the order hash up to now
	Info   *Payload       `cbor:"4,keyasint,omitempty"`
	Tree   *Payload       `cbor:"5,keyasint,omitempty"`
}

// DownloadRequest asks for a piece of a blob that belongs to a conversation: one that an entry names, or
// one that a member of Organization uploaded.
type DownloadRequest struct {
	Conversation ConversationID `cbor:"1,keyasint"`
	Organization Domain         `cbor:"2,keyasint,omitempty"` // "" for what an entry names
	Blob         BlobRef        `cbor:"3,keyasint"`
	Offset       uint64         `cbor:"4,keyasint,omitempty"`
}

// DownloadAnswer is what stands at the offset: as much as fits a frame, and something unless the
// offset is the end.
type DownloadAnswer struct {
	Data []byte `cbor:"1,keyasint,omitempty"`
}

// PutBlobRequest hands in a piece of a blob at an offset. Pieces come in order; a piece that was stored
// already is passed over, so that an upload resumes with the offset that the last answer named.
type PutBlobRequest struct {
	Conversation ConversationID `cbor:"1,keyasint"`
	Blob         BlobRef        `cbor:"2,keyasint"`
	Offset       uint64         `cbor:"3,keyasint,omitempty"`
	Data         []byte         `cbor:"4,keyasint,omitempty"` // empty to ask how much is there
}

// PutBlobAnswer says how much is stored. The blob is durable, and its hash was checked, when that is its
// size.
type PutBlobAnswer struct {
	Stored uint64 `cbor:"1,keyasint"`
}

// ConversationsAnswer lists the conversations that the device reads.
type ConversationsAnswer struct {
	Conversations []ConversationState `cbor:"1,keyasint"`
}

// ConversationState is how far a device has read one stream.
type ConversationState struct {
	Conversation ConversationID `cbor:"1,keyasint"`
	Token        Token          `cbor:"2,keyasint"`
	Acknowledged uint64         `cbor:"3,keyasint"`
	End          uint64         `cbor:"4,keyasint"`
}

// DevicesAnswer lists devices.
type DevicesAnswer struct {
	Devices []DeviceInfo `cbor:"1,keyasint"`
}

// DeviceInfo is what a user sees of a device.
type DeviceInfo struct {
	ID              DeviceID `cbor:"1,keyasint"`
	Key             []byte   `cbor:"2,keyasint"` // its signature key, as MLS encodes it
	Enrolled        Time     `cbor:"3,keyasint"`
	CertificateEnds Time     `cbor:"4,keyasint"`
}

// InviteRequest asks for a code. Zero Seconds stand for ten minutes; at most a day.
type InviteRequest struct {
	Seconds uint32 `cbor:"1,keyasint,omitempty"`
}

// InviteAnswer is a one-time code.
type InviteAnswer struct {
	Code string `cbor:"1,keyasint"`
	Ends Time   `cbor:"2,keyasint"`
}

// RevokeRequest names a device of the same user.
type RevokeRequest struct {
	Device DeviceID `cbor:"1,keyasint"`
}

// ChainAnswer is a certificate chain, the device's first, DER.
type ChainAnswer struct {
	Chain [][]byte `cbor:"1,keyasint"`
}

// OrganizationsAnswer lists organizations.
type OrganizationsAnswer struct {
	Organizations []Organization `cbor:"1,keyasint"`
}

// Organization is one that the node's operator has admitted, and the node's own.
type Organization struct {
	Domain Domain `cbor:"1,keyasint"`
	Root   []byte `cbor:"2,keyasint"` // its root certificate, DER
}

// RevocationsRequest names an admitted organization.
type RevocationsRequest struct {
	Domain Domain `cbor:"1,keyasint"`
}

// RevocationsAnswer is a certificate revocation list (RFC 5280 §5), DER.
type RevocationsAnswer struct {
	List []byte `cbor:"1,keyasint"`
}

// EnrolRequest is the body of the HTTP request POST /v1/enrol; its answer is a ChainAnswer. Exactly one
// of Code and Token is set.
type EnrolRequest struct {
	Device DeviceID `cbor:"1,keyasint"`
	Key    []byte   `cbor:"2,keyasint"`           // the device's signature key, as MLS encodes it
	Proof  []byte   `cbor:"3,keyasint"`           // its signature over EnrolInput
	Code   string   `cbor:"4,keyasint,omitempty"` // an invitation
	Token  string   `cbor:"5,keyasint,omitempty"` // an OpenID Connect ID token
}

// Check refuses a request without a device, or with both ways to enrol.
func (r *EnrolRequest) Check() error {
	if err := r.Device.Check(); err != nil {
		return Errorf(Malformed, "enrol", "%v", err)
	}
	if (r.Code == "") == (r.Token == "") {
		return Errorf(Malformed, "enrol", "wanted either an invitation's code or a token")
	}
	return nil
}

// EnrolInput is what a device signs to enrol, with the key that it enrols: a domain separator, its name,
// a zero byte and the key as MLS encodes it.
func EnrolInput(d DeviceID, key []byte) []byte {
	b := append([]byte("mlsfed enrol 1\x00"), d...)
	return append(append(b, 0), key...)
}

// Federation's calls between nodes of admitted organizations. Bodies are the structures of sessions
// where they say the same.
const (
	// CallNotify hands over application messages: NotifyRequest → NotifyAnswer.
	CallNotify Method = "notify"
	// CallKeyMaterial claims: KeyMaterialRequest → KeyMaterialAnswer.
	CallKeyMaterial Method = "keyMaterial"
	// CallUpdate forwards a handshake to a node that holds a replica: Envelope → Receipt.
	CallUpdate Method = "update"
	// CallGroupInfo asks a node that holds a replica: GroupInfoRequest → GroupInfoAnswer.
	CallGroupInfo Method = "groupInfo"
	// CallRevocations asks for the organization's own list: nothing → RevocationsAnswer.
	CallRevocations Method = "revocations"
	// CallDownload asks for a piece of a blob that a member of this organization uploaded.
	CallDownload Method = "download"
	// CallFeatures asks what a node understands beyond the first release: nothing → FeaturesAnswer.
	CallFeatures Method = "features"
)

// NotifyRequest hands over messages of one lane, in order.
type NotifyRequest struct {
	Messages []Message `cbor:"1,keyasint"`
}

// Check checks every message.
func (r *NotifyRequest) Check() error {
	for i := range r.Messages {
		if err := r.Messages[i].Check(); err != nil {
			return err
		}
	}
	return nil
}

// NotifyAnswer says what became of each message; nil is accepted. A message whose error tells to wait
// (Busy, Unavailable) is sent again, with those after it.
type NotifyAnswer struct {
	Results []*Error `cbor:"1,keyasint"`
}
