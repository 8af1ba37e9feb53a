package node

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/consensus"
	"github.com/mlsfed/mlsfed/consensus/blob"
	"github.com/mlsfed/mlsfed/directory"
	"github.com/mlsfed/mlsfed/federation/outbox"
	"github.com/mlsfed/mlsfed/gateway"
	"github.com/mlsfed/mlsfed/internal/audit"
	"github.com/mlsfed/mlsfed/internal/quota"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/wire"
)

// peers is what the router asks of other organizations.
type peers interface {
	CallOrganization(ctx context.Context, org wire.Domain, method wire.Method, request, response any) error
	// Organizations returns the admitted organizations with their roots, this one included.
	Organizations() []wire.Organization
	// Announced reports whether all nodes of an organization that may receive a call are known to understand a
	// feature.
	Announced(org wire.Domain, feature wire.Feature) bool
}

var _ gateway.Service = (*router)(nil)

// router serves the requests of devices. It decides which part, on this node or another one, answers.
type router struct {
	org       wire.Domain
	witness   wire.Domain // proposed for new conversations; "" for none
	orders    *consensus.Manager
	mailbox   mailbox.Box
	store     store.Store
	directory *directory.Directory
	readers   *readers
	past      *pastKeys
	removals  *removals
	refused   func(wire.Code) // counts messages of other organizations
	files     *files
	blobs     *blob.Store // of the orders
	outbox    *outbox.Outbox
	peers     peers
	account   *quota.Account
	limits    *limits
	founded   *founded
	online    *online
	now       func() time.Time
	shown     func(wire.Time) wire.Time // returns the time of day that belongs to a time of the counting clock
	log       *slog.Logger
	audit     *auditor
	methods   map[wire.Method]handler
	contests  *contests
}

// newRouter returns a router with its table of methods.
func newRouter(r router) *router {
	p := &r
	p.methods = p.table()
	return p
}

// A handler serves one method.
type handler struct {
	request any // an empty request, as wire.Method.Request makes it; nil if the method takes nothing
	serve   func(ctx context.Context, d wire.DeviceID, body any) (any, error)
}

// takes returns a handler that calls a function with a typed request, which the gateway has decoded and checked.
func takes[T any](fn func(context.Context, wire.DeviceID, *T) (any, error)) handler {
	return handler{request: new(T), serve: func(ctx context.Context, d wire.DeviceID, body any) (any, error) { return fn(ctx, d, body.(*T)) }}
}

// bare returns a handler that calls a function without a request.
func bare(fn func(context.Context, wire.DeviceID) (any, error)) handler {
	return handler{serve: func(ctx context.Context, d wire.DeviceID, _ any) (any, error) { return fn(ctx, d) }}
}

// table returns the table of methods. TestMethods compares it with wire's: the type of each request is the same in both.
func (r *router) table() map[wire.Method]handler {
	return map[wire.Method]handler{
		wire.MethodUpload:            takes(r.upload),
		wire.MethodCount:             bare(r.count),
		wire.MethodAddress:           takes(r.address),
		wire.MethodRefuse:            takes(r.refuse),
		wire.MethodDiscard:           bare(r.discard),
		wire.MethodKeyMaterial:       takes(r.keyMaterial),
		wire.MethodUpdate:            takes(r.update),
		wire.MethodSubmit:            takes(r.submit),
		wire.MethodEntries:           takes(r.entries),
		wire.MethodGroupInfo:         takes(r.groupInfo),
		wire.MethodDownload:          takes(r.download),
		wire.MethodDelivery:          takes(r.deliveryOf),
		wire.MethodPutBlob:           takes(r.putBlob),
		wire.MethodConversations:     bare(r.conversations),
		wire.MethodDevices:           bare(r.devices),
		wire.MethodInvite:            takes(r.invite),
		wire.MethodRevoke:            takes(r.revoke),
		wire.MethodRenew:             bare(r.renew),
		wire.MethodOrganizations:     bare(r.organizations),
		wire.MethodPolicy:            takes(r.policyOf),
		wire.MethodWaiting:           takes(r.waitingOf),
		wire.MethodRevocations:       takes(r.revocations),
		wire.MethodOrganizationsPage: takes(r.organizationsPage),
		wire.MethodRevocationsPage:   takes(r.revocationsPage),
	}
}

// Serve answers one request of a device that is logged in.
func (r *router) Serve(ctx context.Context, q gateway.Request) (any, error) {
	handler, known := r.methods[q.Method]
	if !known {
		return nil, wire.Errorf(wire.Malformed, "request", "method %.40q is unknown: the node is older than the device, or the name is wrong", q.Method)
	}
	if q.Method.Writes() {
		if err := r.account.Room(quota.Device(q.Device), 0); err != nil {
			return nil, err
		}
	}
	return handler.serve(ctx, q.Device, q.Body)
}

func (r *router) upload(ctx context.Context, d wire.DeviceID, q *wire.UploadRequest) (any, error) {
	uploads := make([]directory.Upload, len(q.KeyPackages))
	for i, k := range q.KeyPackages {
		uploads[i] = directory.Upload{Message: k.Message, Address: k.Token}
	}
	return nil, r.directory.UploadKeyPackages(ctx, d, uploads...)
}

func (r *router) address(ctx context.Context, d wire.DeviceID, q *wire.AddressRequest) (any, error) {
	return nil, r.directory.Attach(ctx, d, q.Token)
}

func (r *router) count(ctx context.Context, d wire.DeviceID) (any, error) {
	counts, err := r.directory.CountKeyPackages(ctx, d)
	if err != nil {
		return nil, err
	}
	answer := new(wire.CountAnswer)
	for _, c := range counts {
		answer.Counts = append(answer.Counts, wire.KeyPackageCount{Suite: uint16(c.Suite), Left: uint32(c.Left), LastResort: c.LastResort})
	}
	return answer, nil
}

// keyMaterial claims KeyPackages from the user's organization.
func (r *router) keyMaterial(ctx context.Context, d wire.DeviceID, q *wire.KeyMaterialRequest) (any, error) {
	org := q.User.Organization()
	if len(q.Devices) > 0 && q.User != d.User() {
		return nil, wire.Errorf(wire.Denied, "keyMaterial", "%s names devices of %s: only a user's own devices can be named", d, q.User)
	}
	if org == r.org {
		return claim(ctx, r.directory, r.org, string(d.User()), q)
	}
	if err := r.directory.MayClaim(d.User()); err != nil {
		return nil, err
	}
	answer := new(wire.KeyMaterialAnswer)
	if err := r.peers.CallOrganization(ctx, org, wire.CallKeyMaterial, q, answer); err != nil {
		return nil, err
	}
	for _, m := range answer.Devices {
		if m.Address.Organization != org || m.Device.User() != q.User {
			return nil, wire.Errorf(wire.Invalid, "keyMaterial", "%s answered with a device that is not %s's", org, q.User)
		}
	}
	return answer, nil
}

// claim claims a KeyPackage of each device of a user of this organization.
func claim(ctx context.Context, d *directory.Directory, org wire.Domain, claimant string, q *wire.KeyMaterialRequest) (*wire.KeyMaterialAnswer, error) {
	claimed, err := d.ClaimKeyPackages(ctx, directory.Claim{ID: q.ID, Claimant: claimant, User: q.User, Suite: mlscore.CipherSuite(q.Suite), Devices: q.Devices})
	if err != nil {
		return nil, err
	}
	answer := new(wire.KeyMaterialAnswer)
	for _, k := range claimed {
		answer.Devices = append(answer.Devices, wire.KeyMaterial{
			Device: k.Device, Address: wire.Address{Organization: org, Token: k.Address}, Message: k.Message, LastResort: k.LastResort,
		})
	}
	return answer, nil
}

// The most entries and bytes in the answer to one request.
const (
	maxEntries      = 1000
	maxEntriesBytes = wire.MaxEntry
)

func (r *router) entries(ctx context.Context, d wire.DeviceID, q *wire.EntriesRequest) (any, error) {
	last, err := r.lastEntry(ctx, "entries", d, q.Conversation)
	if err != nil {
		return nil, err
	}
	count, size := int(q.Count), int(q.Bytes)
	if count == 0 {
		count = 100
	}
	if size == 0 {
		size = 512 << 10
	}
	entries, gap, err := r.orders.Entries(q.Conversation, q.Since, min(count, maxEntries), min(size, maxEntriesBytes))
	if err != nil {
		return nil, err
	}
	if last > 0 {
		entries = slices.DeleteFunc(entries, func(c wire.Committed) bool { return c.Sequence > last })
	}
	return &wire.EntriesAnswer{Entries: entries, Gap: gap && (last == 0 || q.Since < last)}, nil
}

// lastEntry returns the last entry of a conversation that a device may have: the entry that removes it, 0 for no end.
// It refuses a device that does not take part in the conversation.
func (r *router) lastEntry(ctx context.Context, op string, d wire.DeviceID, id wire.ConversationID) (wire.SequenceNumber, error) {
	list, at, err := r.readersIn(ctx, d, id)
	if err != nil {
		return 0, err
	}
	if slices.ContainsFunc(at, func(s mailbox.ReaderState) bool { return s.Known && s.Until == 0 }) {
		return 0, nil
	}
	var last wire.SequenceNumber
	for i, reader := range list {
		if !at[i].Known {
			continue // the device has left, or is about to join
		}
		page, err := r.mailbox.Read(ctx, mailbox.Conversation(id), reader.Token, at[i].Until-1, mailbox.Limit{Items: 1})
		if err != nil {
			return 0, err
		}
		removal := new(wire.Committed)
		if len(page.Items) == 1 && page.Items[0].Kind == mailbox.KindEntry && wire.Decode(page.Items[0].Payload, wire.MaxSessionFrame, removal) == nil {
			last = max(last, removal.Sequence)
		}
	}
	if last == 0 {
		return 0, wire.Errorf(wire.UnknownConversation, op, "%s reads no conversation %v", d, id)
	}
	return last, nil
}

// readersIn returns the addresses at which a device reads a conversation, and their places in the stream.
func (r *router) readersIn(ctx context.Context, d wire.DeviceID, id wire.ConversationID) ([]store.Reader, []mailbox.ReaderState, error) {
	list, err := r.readers.kept.In(ctx, d, id)
	if err != nil {
		return nil, nil, err
	}
	readers := make([]mailbox.Reader, len(list))
	for i, v := range list {
		readers[i] = inStream(v)
	}
	at, err := r.mailbox.ReaderStates(ctx, readers...)
	return list, at, err
}

// mustRead refuses a request about a conversation of which the device is not, or no longer, a member.
func (r *router) mustRead(ctx context.Context, op string, d wire.DeviceID, id wire.ConversationID) error {
	last, err := r.lastEntry(ctx, op, d, id)
	if err == nil && last > 0 {
		err = wire.Errorf(wire.UnknownConversation, op, "%s was removed from conversation %v with entry %d", d, id, last)
	}
	return err
}

func (r *router) groupInfo(ctx context.Context, d wire.DeviceID, q *wire.GroupInfoRequest) (any, error) {
	if err := r.mustRead(ctx, "groupInfo", d, q.Conversation); err != nil {
		return nil, err
	}
	return groupInfo(r.orders, q.Conversation)
}

// deliveryOf returns to a member the devices to which the conversation is delivered.
func (r *router) deliveryOf(ctx context.Context, d wire.DeviceID, q *wire.DeliveryRequest) (any, error) {
	if err := r.mustRead(ctx, "delivery", d, q.Conversation); err != nil {
		return nil, err
	}
	heads, err := r.orders.Heads(q.Conversation)
	if err != nil {
		return nil, err
	}
	answer := new(wire.DeliveryAnswer)
	for _, h := range heads {
		head, err := wire.DeliveryHeadOf(h.Sequence, h.Delivery)
		if err != nil {
			return nil, err
		}
		answer.Heads = append(answer.Heads, head)
	}
	return answer, nil
}

func groupInfo(orders *consensus.Manager, id wire.ConversationID) (*wire.GroupInfoAnswer, error) {
	heads, err := orders.GroupInfos(id)
	if err != nil {
		return nil, err
	}
	status, err := orders.Status(id)
	if err != nil {
		return nil, err
	}
	answer := new(wire.GroupInfoAnswer)
	for _, h := range heads {
		answer.Heads = append(answer.Heads, wire.GroupInfo{Epoch: h.Epoch, Parent: h.Sequence, Order: status.Order, Info: h.Info, Tree: h.Tree})
	}
	return answer, nil
}

func (r *router) conversations(ctx context.Context, d wire.DeviceID) (any, error) {
	list, err := r.readers.kept.Of(ctx, d)
	if err != nil {
		return nil, err
	}
	readers := make([]mailbox.Reader, len(list))
	for i, s := range list {
		readers[i] = inStream(s)
	}
	at, err := r.mailbox.ReaderStates(ctx, readers...)
	if err != nil {
		return nil, err
	}
	answer := new(wire.ConversationsAnswer)
	for i, s := range list {
		if !at[i].Known {
			continue // it has left
		}
		answer.Conversations = append(answer.Conversations, wire.ConversationState{
			Conversation: s.Conversation, Token: s.Token, Acknowledged: at[i].Acknowledged, End: at[i].End,
		})
	}
	return answer, nil
}

func (r *router) devices(ctx context.Context, d wire.DeviceID) (any, error) {
	ids, err := r.directory.Devices(ctx, d.User())
	if err != nil {
		return nil, err
	}
	answer := new(wire.DevicesAnswer)
	for _, id := range ids {
		v, err := r.directory.Device(ctx, id)
		if wire.CodeOf(err) == wire.NotFound {
			continue // revoked meanwhile
		}
		if err != nil {
			return nil, err
		}
		answer.Devices = append(answer.Devices, wire.DeviceInfo{ID: v.ID, Key: v.Key, Enrolled: v.Enrolled, CertificateEnds: v.NotAfter})
	}
	return answer, nil
}

const (
	deviceInvitation    = 10 * time.Minute
	maxDeviceInvitation = 24 * time.Hour
)

func (r *router) discard(ctx context.Context, d wire.DeviceID) (any, error) {
	return nil, r.directory.DiscardKeyPackages(ctx, d)
}

func (r *router) invite(ctx context.Context, d wire.DeviceID, q *wire.InviteRequest) (any, error) {
	if err := r.limits.code(d.User()); err != nil {
		return nil, err
	}
	life := time.Duration(q.Seconds) * time.Second
	if life == 0 {
		life = deviceInvitation
	}
	if life > maxDeviceInvitation {
		return nil, wire.Errorf(wire.Invalid, "invite", "a code for %v, at most %v", life, maxDeviceInvitation)
	}
	ends := r.now().Add(life)
	code, err := r.directory.Invite(ctx, d.User(), life)
	if err != nil {
		return nil, err
	}
	r.audit.note(audit.UserInvited, byDevice(d), string(d.User()), map[string]string{"ends": ends.UTC().Format(time.RFC3339)})
	return &wire.InviteAnswer{Code: code, Ends: wire.TimeOf(ends)}, nil
}

func (r *router) revoke(ctx context.Context, d wire.DeviceID, q *wire.RevokeRequest) (any, error) {
	if q.Device.User() != d.User() {
		return nil, wire.Errorf(wire.Denied, "revoke", "%s is not a device of %s", q.Device, d.User())
	}
	if err := r.directory.Revoke(ctx, q.Device); err != nil {
		return nil, err
	}
	r.audit.note(audit.DeviceRevoked, byDevice(d), string(q.Device), nil)
	r.online.revoked(ctx, q.Device)
	return nil, nil
}

func (r *router) renew(ctx context.Context, d wire.DeviceID) (any, error) {
	chain, err := r.directory.Renew(ctx, d)
	if err != nil {
		return nil, err
	}
	return &wire.ChainAnswer{Chain: chain}, nil
}
