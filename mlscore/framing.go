package mlscore

import (
	"encoding/binary"
	"fmt"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// WireFormat is a code point of the "MLS Wire Formats" registry (RFC 9420 §17.2).
type WireFormat uint16

// The wire formats of RFC 9420.
const (
	WireFormatPublicMessage  WireFormat = 1
	WireFormatPrivateMessage WireFormat = 2
	WireFormatWelcome        WireFormat = 3
	WireFormatGroupInfo      WireFormat = 4
	WireFormatKeyPackage     WireFormat = 5
)

// String returns the registry's name.
func (f WireFormat) String() string {
	names := [...]string{"", "PublicMessage", "PrivateMessage", "Welcome", "GroupInfo", "KeyPackage"}
	if f > 0 && int(f) < len(names) {
		return names[f]
	}
	return fmt.Sprintf("wire format %#04x", uint16(f))
}

// ContentType is the type of the content of a framed message (§6).
type ContentType uint8

// The content types of §6.
const (
	ContentApplication ContentType = 1
	ContentProposal    ContentType = 2
	ContentCommit      ContentType = 3
)

// String returns the RFC's name.
func (c ContentType) String() string {
	switch c {
	case ContentApplication:
		return "application"
	case ContentProposal:
		return "proposal"
	case ContentCommit:
		return "commit"
	}
	return fmt.Sprintf("content type %d", c)
}

// SenderType is the type of the sender of a message (§6).
type SenderType uint8

// The sender types of §6.
const (
	SenderMember            SenderType = 1
	SenderExternal          SenderType = 2
	SenderNewMemberProposal SenderType = 3
	SenderNewMemberCommit   SenderType = 4
)

// Sender identifies the sender of a message: a member by its leaf, an external sender by its index in the
// external_senders extension.
type Sender struct {
	Type  SenderType
	Index uint32
}

// Leaf returns the sender's leaf, if the sender is a member.
func (s Sender) Leaf() (LeafIndex, bool) { return LeafIndex(s.Index), s.Type == SenderMember }

// String names the sender for errors and logs.
func (s Sender) String() string {
	switch s.Type {
	case SenderMember:
		return leafName(LeafIndex(s.Index))
	case SenderExternal:
		return fmt.Sprintf("external sender %d", s.Index)
	case SenderNewMemberProposal:
		return "a new member's proposal"
	case SenderNewMemberCommit:
		return "a new member's commit"
	}
	return fmt.Sprintf("sender type %d", s.Type)
}

func member(i LeafIndex) Sender { return Sender{SenderMember, uint32(i)} }

func (s Sender) encode(w *codec.Writer) {
	w.Uint8(uint8(s.Type))
	if s.Type == SenderMember || s.Type == SenderExternal {
		w.Uint32(s.Index)
	}
}

func decodeSender(r *codec.Reader) Sender {
	s := Sender{Type: SenderType(r.Uint8())}
	switch s.Type {
	case SenderMember, SenderExternal:
		s.Index = r.Uint32()
	case SenderNewMemberProposal, SenderNewMemberCommit:
	default:
		r.Fail(fail(ErrMalformed, "§6", "sender", "type %d is not defined", s.Type))
	}
	return s
}

// framedContent is FramedContent of §6.
type framedContent struct {
	groupID           []byte
	epoch             uint64
	sender            Sender
	authenticatedData []byte
	kind              ContentType
	application       []byte
	proposal          *Proposal
	commit            *commitContent

	encoded []byte // the encoding, once known; no field changes after that
}

// marshal encodes the content at the first call and returns the same bytes afterwards.
func (c *framedContent) marshal() []byte {
	if c.encoded == nil {
		const fixed = 32 // more than epoch, sender, kind and the headers of the vectors
		w := codec.NewWriter(make([]byte, 0, max(fixed+len(c.groupID)+len(c.authenticatedData)+len(c.application), codec.FirstSize)))
		w.Bytes(c.groupID)
		w.Uint64(c.epoch)
		c.sender.encode(w)
		w.Bytes(c.authenticatedData)
		w.Uint8(uint8(c.kind))
		c.encodeBody(w)
		c.encoded = w.Buffer()
	}
	return c.encoded
}

func (c *framedContent) encodeBody(w *codec.Writer) {
	switch c.kind {
	case ContentApplication:
		w.Bytes(c.application)
	case ContentProposal:
		c.proposal.encode(w)
	case ContentCommit:
		c.commit.encode(w)
	}
}

func (c *framedContent) decodeBody(r *codec.Reader) {
	switch c.kind {
	case ContentApplication:
		c.application = r.Bytes()
	case ContentProposal:
		p := decodeProposal(r)
		c.proposal = &p
	case ContentCommit:
		c.commit = decodeCommit(r)
	default:
		r.Fail(fail(ErrMalformed, "§6", "content", "type %d is not defined", c.kind))
	}
}

func decodeFramedContent(r *codec.Reader) *framedContent {
	mark := r.Mark()
	c := &framedContent{
		groupID:           r.Bytes(),
		epoch:             r.Uint64(),
		sender:            decodeSender(r),
		authenticatedData: r.Bytes(),
		kind:              ContentType(r.Uint8()),
	}
	c.decodeBody(r)
	c.encoded = r.Since(mark)
	return c
}

// authenticatedContent is AuthenticatedContent of §6, with the fields of FramedContentAuthData (§6.1) in it.
type authenticatedContent struct {
	format          WireFormat
	content         *framedContent
	signature       []byte
	confirmationTag []byte // of a commit
}

// authSize returns the most bytes that encodeAuth writes.
func (a *authenticatedContent) authSize() int {
	return 4 + len(a.signature) + 4 + len(a.confirmationTag)
}

func (a *authenticatedContent) encodeAuth(w *codec.Writer) {
	w.Bytes(a.signature)
	if a.content.kind == ContentCommit {
		w.Bytes(a.confirmationTag)
	}
}

func (a *authenticatedContent) decodeAuth(r *codec.Reader) {
	a.signature = r.Bytes()
	if a.content.kind == ContentCommit {
		a.confirmationTag = r.Bytes()
	}
}

// marshal encodes AuthenticatedContent, which a ProposalRef hashes.
func (a *authenticatedContent) marshal() []byte {
	var w codec.Writer
	w.Uint16(uint16(a.format))
	w.Fixed(a.content.marshal())
	a.encodeAuth(&w)
	return w.Buffer()
}

func decodeAuthenticatedContent(r *codec.Reader) *authenticatedContent {
	a := &authenticatedContent{format: WireFormat(r.Uint16())}
	a.content = decodeFramedContent(r)
	a.decodeAuth(r)
	return a
}

// proposalRef returns the hash by which a commit refers to this proposal (§5.2).
func (a *authenticatedContent) proposalRef(s *suite) []byte {
	return s.refHash("MLS 1.0 Proposal Reference", a.marshal())
}

// tbs returns the parts of FramedContentTBS (§6.1). context is the encoded GroupContext, which is signed by members and
// by joiners.
func (a *authenticatedContent) tbs(context []byte) [][]byte {
	head := binary.BigEndian.AppendUint16(make([]byte, 0, 4), uint16(MLS10))
	parts := [][]byte{binary.BigEndian.AppendUint16(head, uint16(a.format)), a.content.marshal()}
	switch a.content.sender.Type {
	case SenderMember, SenderNewMemberCommit:
		parts = append(parts, context)
	}
	return parts
}

func (a *authenticatedContent) sign(s *suite, key Secret, context []byte) error {
	k, err := s.newSigner(key.Bytes())
	if err != nil {
		return err
	}
	return a.signWith(k, context)
}

func (a *authenticatedContent) signWith(k *signer, context []byte) (err error) {
	a.signature, err = k.signWithLabel("FramedContentTBS", a.tbs(context)...)
	return err
}

func (a *authenticatedContent) verify(s *suite, key, context []byte) error {
	if !s.verifyParts(key, "FramedContentTBS", a.signature, a.tbs(context)...) {
		return s.unverified(key, fail(ErrForged, "§6.1", fmt.Sprintf("%v from %v", a.content.kind, a.content.sender), "signature does not verify"))
	}
	return nil
}

// publicMessage is PublicMessage of §6.2.
type publicMessage struct {
	authenticatedContent
	membershipTag []byte // of a member
}

func (m *publicMessage) encode(w *codec.Writer) {
	w.Fixed(m.content.marshal())
	m.encodeAuth(w)
	if m.content.sender.Type == SenderMember {
		w.Bytes(m.membershipTag)
	}
}

func decodePublicMessage(r *codec.Reader) *publicMessage {
	m := &publicMessage{}
	m.format = WireFormatPublicMessage
	m.content = decodeFramedContent(r)
	m.decodeAuth(r)
	if m.content.sender.Type == SenderMember {
		m.membershipTag = r.Bytes()
	}
	return m
}

// privateMessage is PrivateMessage of §6.3.
type privateMessage struct {
	groupID             []byte
	epoch               uint64
	kind                ContentType
	authenticatedData   []byte
	encryptedSenderData []byte
	ciphertext          []byte
}

func (m *privateMessage) encodeHeader(w *codec.Writer) {
	w.Bytes(m.groupID)
	w.Uint64(m.epoch)
	w.Uint8(uint8(m.kind))
}

// size returns the most bytes that encode writes.
func (m *privateMessage) size() int {
	const fixed = 32 // more than epoch, kind and the headers of the vectors
	return fixed + len(m.groupID) + len(m.authenticatedData) + len(m.encryptedSenderData) + len(m.ciphertext)
}

func (m *privateMessage) encode(w *codec.Writer) {
	m.encodeHeader(w)
	w.Bytes(m.authenticatedData)
	w.Bytes(m.encryptedSenderData)
	w.Bytes(m.ciphertext)
}

func decodePrivateMessage(r *codec.Reader) *privateMessage {
	m := decodePrivateHead(r)
	m.ciphertext = r.Bytes()
	return m
}

// decodePrivateHead reads the fields before the ciphertext.
func decodePrivateHead(r *codec.Reader) *privateMessage {
	m := &privateMessage{groupID: r.Bytes(), epoch: r.Uint64(), kind: ContentType(r.Uint8())}
	if m.kind < ContentApplication || m.kind > ContentCommit {
		r.Fail(fail(ErrMalformed, "§6", "content", "type %d is not defined", m.kind))
	}
	m.authenticatedData = r.Bytes()
	m.encryptedSenderData = r.Bytes()
	return m
}

// message is an MLSMessage (§6): one of its pointers is set.
type message struct {
	format     WireFormat
	public     *publicMessage
	private    *privateMessage
	welcome    *welcome
	groupInfo  *groupInfo
	keyPackage *KeyPackage
}

// encodeMessage frames body as an MLSMessage.
func encodeMessage(format WireFormat, body func(*codec.Writer)) ([]byte, error) {
	return encodeSized(format, codec.FirstSize, body)
}

// encodeSized is encodeMessage for a body of about size bytes: a buffer of the right size is not copied.
func encodeSized(format WireFormat, size int, body func(*codec.Writer)) ([]byte, error) {
	w := codec.NewWriter(make([]byte, 0, 4+size))
	w.Uint16(uint16(MLS10))
	w.Uint16(uint16(format))
	body(w)
	b, err := w.Finish()
	return b, malformed("message", err)
}

// parseMessage reads an MLSMessage. The result shares memory with b.
func parseMessage(b []byte, limits codec.Limits) (*message, error) {
	r := codec.NewReader(b, limits)
	version := ProtocolVersion(r.Uint16())
	m := &message{format: WireFormat(r.Uint16())}
	if r.Err() == nil && version != MLS10 {
		return nil, fail(ErrUnsupported, "§6", "message", "protocol version %d", version)
	}
	switch m.format {
	case WireFormatPublicMessage:
		m.public = decodePublicMessage(r)
	case WireFormatPrivateMessage:
		m.private = decodePrivateMessage(r)
	case WireFormatWelcome:
		m.welcome = decodeWelcome(r)
	case WireFormatGroupInfo:
		m.groupInfo = decodeGroupInfo(r)
	case WireFormatKeyPackage:
		m.keyPackage = decodeKeyPackage(r)
		if r.Err() == nil && m.keyPackage.Version != version {
			r.Fail(fail(ErrMalformed, "§10", "KeyPackage", "of version %d in a message of version %d", m.keyPackage.Version, version))
		}
	default:
		if r.Err() == nil {
			return nil, fail(ErrUnsupported, "§6", "message", "%v", m.format)
		}
	}
	if err := r.Finish(); err != nil {
		return nil, malformed("message", err)
	}
	return m, nil
}
