package wire

// Method names a request of a device to its node. Names follow MIMI's where MIMI has the operation.
type Method string

const maxMethod = 32

// The methods of a session: the type of the request's body → the type of the answer's body. "Nothing" is an empty
// body.
const (
	MethodUpload            Method = "upload"            // UploadRequest → nothing: KeyPackages for others to claim
	MethodAddress           Method = "address"           // AddressRequest → nothing: an address of the device, without a KeyPackage
	MethodRefuse            Method = "refuse"            // RefuseRequest → nothing: an address of the device refuses a conversation
	MethodCount             Method = "count"             // nothing → CountAnswer: the device's KeyPackages
	MethodDiscard           Method = "discard"           // nothing → nothing: the directory forgets the device's KeyPackages
	MethodKeyMaterial       Method = "keyMaterial"       // KeyMaterialRequest → KeyMaterialAnswer: claims one KeyPackage of each device of a user
	MethodUpdate            Method = "update"            // Envelope → Receipt: a handshake, a new conversation, its end
	MethodSubmit            Method = "submitMessage"     // Message → Accepted: an application message
	MethodEntries           Method = "entries"           // EntriesRequest → EntriesAnswer: entries of the log
	MethodGroupInfo         Method = "groupInfo"         // GroupInfoRequest → GroupInfoAnswer: the data for an external join
	MethodDownload          Method = "download"          // DownloadRequest → DownloadAnswer: a piece of a blob
	MethodPutBlob           Method = "putBlob"           // PutBlobRequest → PutBlobAnswer: a piece of a blob
	MethodConversations     Method = "conversations"     // nothing → ConversationsAnswer: the device's streams
	MethodDevices           Method = "devices"           // nothing → DevicesAnswer: the devices of the same user
	MethodInvite            Method = "invite"            // InviteRequest → InviteAnswer: a code for another device of the same user
	MethodRevoke            Method = "revoke"            // RevokeRequest → nothing: a device of the same user
	MethodRenew             Method = "renew"             // nothing → ChainAnswer: the device's certificate, a new one if it ends soon
	MethodOrganizations     Method = "organizations"     // nothing → OrganizationsAnswer: the admitted organizations, with their roots
	MethodOrganizationsPage Method = "organizationsPage" // OrganizationsPageRequest → OrganizationsPage
	MethodRevocationsPage   Method = "revocationsPage"   // RevocationsPageRequest → RevocationsPage
	MethodFeatures          Method = "features"          // FeaturesRequest → FeaturesAnswer: features of the device, and of the node
	MethodDelivery          Method = "delivery"          // DeliveryRequest → DeliveryAnswer: the delivery list of a conversation, as a hash
	MethodPolicy            Method = "policy"            // PolicyRequest → PolicyAnswer: the policy of a conversation, or the proposed one
	MethodWaiting           Method = "waiting"           // WaitingRequest → WaitingAnswer: messages that wait for other organizations
	MethodLimits            Method = "limits"            // nothing → LimitsAnswer: the node's limits for this session
	MethodRevocations       Method = "revocations"       // RevocationsRequest → RevocationsAnswer: the revocation list of an organization
)

// UploadRequest uploads KeyPackages, all or none. Repeating it is safe.
type UploadRequest struct {
	KeyPackages []UploadedKeyPackage `cbor:"1,keyasint"`
}

// UploadedKeyPackage is a KeyPackage and the address at which its user will be reached.
type UploadedKeyPackage struct {
	Message []byte `cbor:"1,keyasint"` // an MLSMessage
	Token   Token  `cbor:"2,keyasint"` // random, for this KeyPackage alone
}

// AddressRequest registers an address under which the device will receive: for a conversation that the device
// creates, or enters by an external commit, where no claimed KeyPackage names an address. Repeating the request by
// the same device is safe; another device's token is refused with Exists.
type AddressRequest struct {
	Token Token `cbor:"1,keyasint"` // random, for one conversation alone
}

// Check refuses the zero token, which denotes the inbox.
func (r *AddressRequest) Check() error {
	if r.Token == (Token{}) {
		return Errorf(Malformed, "address", "token is zero: choose 16 random bytes")
	}
	return nil
}

// RefuseRequest gives up an address in one conversation: the node forgets its stream, and stores nothing of the
// conversation for the address any more, even if somebody adds the address again. A node of a build before December
// 2026 answers that the method is unknown.
type RefuseRequest struct {
	Conversation ConversationID `cbor:"1,keyasint"`
	Token        Token          `cbor:"2,keyasint"`
}

// Check refuses the zero token, which denotes the inbox, and an invalid id.
func (r *RefuseRequest) Check() error {
	if r.Token == (Token{}) {
		return Errorf(Malformed, "refuse", "token is zero: name the address under which the conversation came")
	}
	if err := r.Conversation.Check(); err != nil {
		return Errorf(Malformed, "refuse", "%v", err)
	}
	return nil
}

// CountAnswer is the number of KeyPackages that a device has left.
type CountAnswer struct {
	Counts []KeyPackageCount `cbor:"1,keyasint"`
}

// KeyPackageCount is the count for one cipher suite.
type KeyPackageCount struct {
	Suite      uint16 `cbor:"1,keyasint"`
	Left       uint32 `cbor:"2,keyasint"` // not counting the last resort
	LastResort bool   `cbor:"3,keyasint,omitempty"`
}

// KeyMaterialRequest claims one KeyPackage of each device of a user, at any organization. A repetition with the same
// ID gets the same answer.
type KeyMaterialRequest struct {
	ID    SubmissionID `cbor:"1,keyasint"`
	User  UserID       `cbor:"2,keyasint"`
	Suite uint16       `cbor:"3,keyasint"`
	// Devices selects devices of the own user, sorted, at most MaxElements; an empty list selects all. It needs
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

// KeyMaterialAnswer holds one KeyPackage of each device that has any.
type KeyMaterialAnswer struct {
	Devices []KeyMaterial `cbor:"1,keyasint"`
}

// KeyMaterial is one claimed KeyPackage.
type KeyMaterial struct {
	Device     DeviceID `cbor:"1,keyasint"`
	Address    Address  `cbor:"2,keyasint"` // the address at which the device will receive
	Message    []byte   `cbor:"3,keyasint"` // an MLSMessage
	LastResort bool     `cbor:"4,keyasint,omitempty"`
}

// EntriesRequest asks for the entries after Since. Zero Count and Bytes select 100 and 512 KiB. The node may return
// fewer entries, but at least one if there is one.
type EntriesRequest struct {
	Conversation ConversationID `cbor:"1,keyasint"`
	Since        SequenceNumber `cbor:"2,keyasint,omitempty"`
	Count        uint32         `cbor:"3,keyasint,omitempty"`
	Bytes        uint32         `cbor:"4,keyasint,omitempty"`
}

// EntriesAnswer holds entries in order. Gap means that the first entries after Since are no longer kept.
type EntriesAnswer struct {
	Entries []Committed `cbor:"1,keyasint"`
	Gap     bool        `cbor:"2,keyasint,omitempty"`
}

// GroupInfoRequest asks for the epochs of a conversation that can be joined.
type GroupInfoRequest struct {
	Conversation ConversationID `cbor:"1,keyasint"`
}

// DeliveryRequest asks for the delivery list of a conversation. A node that serves it announces FeatureDelivery.
type DeliveryRequest struct {
	Conversation ConversationID `cbor:"1,keyasint"`
}

// DeliveryAnswer has more than one head if an epoch is contested.
type DeliveryAnswer struct {
	Heads []DeliveryHead `cbor:"1,keyasint"`
}

// DeliveryHead describes the delivery list of one epoch. A member compares it with the addresses of the members: an
// address that no member has belongs to a silent reader.
type DeliveryHead struct {
	Parent    SequenceNumber `cbor:"1,keyasint"` // the entry that opened the epoch
	Addresses uint32         `cbor:"2,keyasint"` // the number of addresses
	Binding   Hash           `cbor:"3,keyasint"` // CommitBundle.Binding of a change that adds all addresses, sorted
}

// DeliveryHeadOf describes a sorted delivery list.
func DeliveryHeadOf(parent SequenceNumber, list []Address) (DeliveryHead, error) {
	binding, err := (&CommitBundle{Delivery: DeliveryChange{Add: list}}).Binding()
	return DeliveryHead{Parent: parent, Addresses: uint32(len(list)), Binding: binding}, err
}

// GroupInfoAnswer has more than one head if an epoch is contested.
type GroupInfoAnswer struct {
	Heads []GroupInfo `cbor:"1,keyasint"`
}

// GroupInfo holds the data of an epoch that was published in the bundle that opened it.
type GroupInfo struct {
	Epoch  Epoch          `cbor:"1,keyasint"`
	Parent SequenceNumber `cbor:"2,keyasint"` // the entry that opened the epoch
	Order  Hash           `cbor:"3,keyasint"` // the order hash up to now
	Info   *Payload       `cbor:"4,keyasint,omitempty"`
	Tree   *Payload       `cbor:"5,keyasint,omitempty"`
}

// DownloadRequest asks for a piece of a blob that belongs to a conversation: a blob that an entry names, or one that
// a member of Organization uploaded.
type DownloadRequest struct {
	Conversation ConversationID `cbor:"1,keyasint"`
	Organization Domain         `cbor:"2,keyasint,omitempty"` // "" for a blob that an entry names
	Blob         BlobRef        `cbor:"3,keyasint"`
	Offset       uint64         `cbor:"4,keyasint,omitempty"`
}

// DownloadAnswer holds the bytes at the offset: as many as fit a frame, and at least one unless the offset is the
// end.
type DownloadAnswer struct {
	Data []byte `cbor:"1,keyasint,omitempty"`
}

// PutBlobRequest uploads a piece of a blob at an offset. Pieces come in order. A piece that is already stored is
// ignored, so an upload resumes with the offset that the last answer named.
type PutBlobRequest struct {
	Conversation ConversationID `cbor:"1,keyasint"`
	Blob         BlobRef        `cbor:"2,keyasint"`
	Offset       uint64         `cbor:"3,keyasint,omitempty"`
	Data         []byte         `cbor:"4,keyasint,omitempty"` // empty to ask how much is stored
}

// PutBlobAnswer says how many bytes are stored. If that is the size of the blob, the blob is durable, and its hash
// was checked.
type PutBlobAnswer struct {
	Stored uint64 `cbor:"1,keyasint"`
}

// ConversationsAnswer lists the conversations that the device reads.
type ConversationsAnswer struct {
	Conversations []ConversationState `cbor:"1,keyasint"`
}

// ConversationState is the position up to which a device has read one stream.
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

// DeviceInfo is the data about a device that a user sees.
type DeviceInfo struct {
	ID              DeviceID `cbor:"1,keyasint"`
	Key             []byte   `cbor:"2,keyasint"` // its signature key in the encoding of MLS
	Enrolled        Time     `cbor:"3,keyasint"`
	CertificateEnds Time     `cbor:"4,keyasint"`
}

// InviteRequest asks for a code. Zero Seconds means ten minutes; the maximum is a day.
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

// ChainAnswer is a certificate chain, DER, the device's certificate first.
type ChainAnswer struct {
	Chain [][]byte `cbor:"1,keyasint"`
}

// OrganizationsAnswer lists organizations.
type OrganizationsAnswer struct {
	Organizations []Organization `cbor:"1,keyasint"`
}

// Organization is an organization that the node's operator has admitted, or the node's own.
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
	Key    []byte   `cbor:"2,keyasint"`           // the device's signature key in the encoding of MLS
	Proof  []byte   `cbor:"3,keyasint"`           // its signature over EnrolInput
	Code   string   `cbor:"4,keyasint,omitempty"` // the code of an invitation
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

// EnrolInput returns the bytes that a device signs to enrol, with the key that it enrols: a domain separator, its
// name, a zero byte and the key in the encoding of MLS.
func EnrolInput(d DeviceID, key []byte) []byte {
	b := append([]byte("mlsfed enrol 1\x00"), d...)
	return append(append(b, 0), key...)
}

// The calls between nodes of admitted organizations. Bodies are the structures of sessions where the content is the
// same.
const (
	// CallNotify passes on application messages: NotifyRequest → NotifyAnswer.
	CallNotify Method = "notify"
	// CallKeyMaterial claims KeyPackages: KeyMaterialRequest → KeyMaterialAnswer.
	CallKeyMaterial Method = "keyMaterial"
	// CallUpdate forwards a handshake to a node that holds a replica: Envelope → Receipt.
	CallUpdate Method = "update"
	// CallGroupInfo asks a node that holds a replica for its group info: GroupInfoRequest → GroupInfoAnswer.
	CallGroupInfo Method = "groupInfo"
	// CallRevocations asks for the organization's own revocation list: nothing → RevocationsAnswer.
	CallRevocations Method = "revocations"
	// CallRevocationsPage asks for a part of the list: RevocationsPageRequest → RevocationsPage.
	CallRevocationsPage Method = "revocationsPage"
	// CallDownload asks for a piece of a blob that a member of this organization uploaded.
	CallDownload Method = "download"
	// CallFeatures asks for the features of a node beyond the first release: nothing → FeaturesAnswer.
	CallFeatures Method = "features"
)

// NotifyRequest passes on messages of one lane, in order.
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

// NotifyAnswer is the result of each message; nil means accepted. A message whose error asks to wait (Busy,
// Unavailable) is sent again, with those after it.
type NotifyAnswer struct {
	Results []*Error `cbor:"1,keyasint"`
}
