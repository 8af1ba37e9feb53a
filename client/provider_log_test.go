package client

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// conv is the log of one conversation, checked by the rules of docs/spec/consensus.md.
type conv struct {
	id     wire.ConversationID
	policy wire.Policy
	closed bool
	// confirmed means that no ended epoch can be contested.
	confirmed bool
	order     wire.Hash
	log       []wire.Committed
	heads     []*logHead
	answers   map[wire.SubmissionID]wire.Receipt
	streams   map[wire.Domain]*stream
}

type logHead struct {
	seq      wire.SequenceNumber
	epoch    wire.Epoch
	key      wire.SubmissionKey
	delivery []wire.Address
	before   []wire.Address // the delivery list of the parent
	info     *wire.Payload
	tree     *wire.Payload
	parent   *logPoint
	trail    []logStep // the epochs before this one, oldest first
}

// logStep is an ended epoch with its delivery list.
type logStep struct {
	*logPoint
	delivery []wire.Address
}

type logPoint struct {
	seq    wire.SequenceNumber
	epoch  wire.Epoch
	key    wire.SubmissionKey
	winner wire.SequenceNumber
}

func (c *conv) headAt(seq wire.SequenceNumber) *logHead {
	for _, h := range c.heads {
		if h.seq == seq {
			return h
		}
	}
	return nil
}

// ended returns an epoch that can be contested, with those before it.
func (c *conv) ended(seq wire.SequenceNumber) []logStep {
	for _, h := range c.heads {
		for i, s := range h.trail {
			if s.seq == seq && !c.confirmed {
				return h.trail[: i+1 : i+1]
			}
		}
	}
	return nil
}

// orderEnvelope judges an envelope and orders it. The caller holds the mutex.
func (w *world) submit(env *wire.Envelope) (*wire.Receipt, error) {
	c := w.convs[env.Conversation]
	if env.Kind == wire.KindCreate {
		if c != nil {
			if r, ok := c.answers[env.Submission]; ok {
				return &r, nil
			}
			return nil, wire.Errorf(wire.Exists, "create", "it exists")
		}
		if !env.Verify(env.Create.Key) {
			return nil, wire.Errorf(wire.Forged, "create", "signature")
		}
		c = &conv{id: env.Conversation, policy: env.Create.Policy, answers: make(map[wire.SubmissionID]wire.Receipt), streams: make(map[wire.Domain]*stream)}
		w.convs[c.id] = c
		h := &logHead{key: env.Create.Key, delivery: env.Create.Delivery}
		if len(env.Create.Info) > 0 {
			h.info, h.tree = &wire.Payload{Inline: env.Create.Info}, &wire.Payload{Inline: env.Create.Tree}
		}
		c.heads = []*logHead{h}
		r := w.order(c, env, 0)
		h.seq = r.Sequence
		w.deliver(c, env.Create.Delivery, nil)
		return r, nil
	}
	if c == nil {
		return nil, wire.Errorf(wire.UnknownConversation, "submit", "unknown")
	}
	if r, ok := c.answers[env.Submission]; ok {
		return &r, nil
	}
	if c.closed {
		return nil, wire.Errorf(wire.Closed, "submit", "closed")
	}
	return w.submitTo(c, env)
}

func (w *world) submitTo(c *conv, env *wire.Envelope) (*wire.Receipt, error) {
	head := c.headAt(env.Parent)
	point := (*logPoint)(nil)
	if head == nil {
		trail := c.ended(env.Parent)
		if trail == nil {
			return nil, c.stale(nil)
		}
		point = trail[len(trail)-1].logPoint
		if !env.Verify(point.key) {
			return nil, wire.Errorf(wire.Forged, "submit", "signature of an ended epoch")
		}
		if env.Kind != wire.KindCommit || !env.Commit.Contest {
			return nil, c.stale(point)
		}
		if len(c.heads) >= 8 {
			return nil, wire.Errorf(wire.TooManyHeads, "submit", "contested")
		}
		head = &logHead{seq: point.seq, epoch: point.epoch, key: point.key, delivery: trail[len(trail)-1].delivery, trail: trail[:len(trail)-1]}
	} else {
		if head.epoch != env.Epoch || env.Kind == wire.KindCommit && env.Commit.Contest {
			return nil, wire.Errorf(wire.Invalid, "submit", "epoch or contest")
		}
		if !env.Verify(head.key) && c.policy.Handshakes != wire.HandshakesPublic {
			return nil, wire.Errorf(wire.Forged, "submit", "signature")
		}
	}
	switch env.Kind {
	case wire.KindProposal:
		r := w.order(c, env, env.Epoch)
		w.deliver(c, nil, nil)
		return r, nil
	case wire.KindClose:
		c.closed = true
		r := w.order(c, env, env.Epoch)
		w.deliver(c, nil, nil)
		return r, nil
	}
	return w.commit(c, head, point, env)
}

func (w *world) commit(c *conv, head *logHead, point *logPoint, env *wire.Envelope) (*wire.Receipt, error) {
	h, err := peekCommit(env.Commit)
	want := mlscore.WireFormatPrivateMessage
	if c.policy.Handshakes == wire.HandshakesPublic {
		want = mlscore.WireFormatPublicMessage
	}
	if err != nil || h.WireFormat != want || wire.Epoch(h.Epoch) != env.Epoch || h.ContentType != mlscore.ContentCommit {
		return nil, wire.Errorf(wire.Invalid, "submit", "message: %v", err)
	}
	if w.noRest && env.Commit.Rest != nil {
		return nil, wire.Errorf(wire.Version, "submit", "rules of another level")
	}
	for _, ref := range env.Blobs() {
		if uint64(len(w.blobs[ref.Hash])) != ref.Size && !w.anyBlob {
			return nil, wire.Errorf(wire.BlobMissing, "submit", "%v", ref)
		}
	}
	list := slices.Clone(head.delivery)
	for _, a := range env.Commit.Delivery.Remove {
		if !slices.Contains(list, a) {
			return nil, wire.Errorf(wire.Invalid, "delivery", "removes %v", a)
		}
	}
	list = slices.DeleteFunc(list, func(a wire.Address) bool { return slices.Contains(env.Commit.Delivery.Remove, a) })
	for _, a := range env.Commit.Delivery.Add {
		if slices.Contains(list, a) {
			return nil, wire.Errorf(wire.Invalid, "delivery", "adds %v", a)
		}
	}
	list = append(list, env.Commit.Delivery.Add...)
	next := &logHead{epoch: env.Epoch + 1, key: env.Commit.Key, delivery: list, before: head.delivery, info: env.Commit.Info, tree: env.Commit.Tree}
	add := env.Commit.Delivery.Add
	for _, a := range list { // a contest gives back what the contested commit has taken
		if !slices.Contains(c.delivery(), a) && !slices.Contains(add, a) {
			add = append(slices.Clip(add), a)
		}
	}
	r := w.order(c, env, next.epoch)
	next.seq = r.Sequence
	if point != nil {
		next.parent, next.trail = point, append(slices.Clip(head.trail), logStep{point, head.delivery})
		c.heads = append(c.heads, next)
	} else {
		next.parent = &logPoint{seq: head.seq, epoch: head.epoch, key: head.key, winner: r.Sequence}
		next.trail = append(slices.Clip(head.trail), logStep{next.parent, head.delivery})
		c.heads[slices.Index(c.heads, head)] = next
	}
	w.deliver(c, add, env.Commit.Delivery.Remove)
	return r, nil
}

func (c *conv) stale(p *logPoint) error {
	err := wire.Errorf(wire.StaleEpoch, "submit", "the epoch has ended")
	err.Stale = &wire.Stale{Epoch: c.heads[0].epoch, Head: c.heads[0].seq}
	if p != nil {
		winner := c.log[p.winner-1]
		err.Stale.Winner = &winner
	}
	return err
}

// order appends an entry to the log.
func (w *world) order(c *conv, env *wire.Envelope, epoch wire.Epoch) *wire.Receipt {
	raw, err := wire.Encode(&wire.Entry{Version: wire.EntryVersion, Time: wire.TimeOf(time.Now()), Proposer: "n1.a.example", Envelope: env})
	if err != nil {
		panic(err)
	}
	c.order = wire.NextOrder(c.order, raw)
	n := wire.SequenceNumber(len(c.log) + 1)
	c.log = append(c.log, wire.Committed{Sequence: n, Order: c.order, Entry: raw})
	r := wire.Receipt{Sequence: n, Epoch: epoch, Order: c.order}
	c.answers[env.Submission] = r
	return &r
}

// deliver puts the newest entry into the streams of all organizations.
func (w *world) deliver(c *conv, add, remove []wire.Address) {
	n := len(c.log)
	payload, err := wire.Encode(&c.log[n-1])
	if err != nil {
		panic(err)
	}
	orgs := make(map[wire.Domain]bool)
	for _, a := range slices.Concat(c.delivery(), add, remove) {
		orgs[a.Organization] = true
	}
	for d := range orgs {
		o := w.orgs[d]
		put := func() { w.putEntry(c, o, payload, add, remove) }
		if w.faults.lag[d] || len(o.lagging) > 0 {
			o.lagging = append(o.lagging, put)
			o.joining = o.joining || slices.ContainsFunc(add, func(a wire.Address) bool { return a.Organization == d })
			continue
		}
		put()
	}
}

func (c *conv) delivery() []wire.Address {
	var all []wire.Address
	for _, h := range c.heads {
		all = append(all, h.delivery...)
	}
	return all
}

func (w *world) stream(c *conv, d wire.Domain) *stream {
	if c.streams[d] == nil {
		s := newStream()
		s.readers = make(map[wire.Token]*reader)
		c.streams[d] = &s
	}
	return c.streams[d]
}

func (w *world) putEntry(c *conv, o *org, payload []byte, add, remove []wire.Address) {
	s := w.stream(c, o.domain)
	s.append(item{kind: wire.ItemEntry, payload: payload})
	n := uint64(len(s.items))
	for _, a := range remove {
		if r := s.readers[a.Token]; a.Organization == o.domain && r != nil {
			r.until = n
		}
	}
	for _, a := range add {
		if a.Organization == o.domain {
			r := &reader{acked: n - 1}
			if back := s.readers[a.Token]; back != nil { // as nodes do: the reader has not read all items yet
				r.acked = back.acked
			}
			s.readers[a.Token] = r
		}
	}
	w.pumpAll(s, o)
}

func (w *world) pumpAll(s *stream, o *org) {
	for token := range s.readers {
		if a := o.devices[o.tokens[token]]; a != nil {
			w.pump(a)
		}
	}
}

// catchUp ends the lag of an organization.
func (w *world) catchUp(d wire.Domain) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.faults.lag, d)
	for _, put := range w.orgs[d].lagging {
		put()
	}
	w.orgs[d].lagging, w.orgs[d].joining = nil, false
}

// message accepts an application message and passes it to the streams of all organizations.
func (w *world) message(m *wire.Message) error {
	c := w.convs[m.Conversation]
	if c == nil {
		return wire.Errorf(wire.UnknownConversation, "submitMessage", "unknown")
	}
	var keys []wire.SubmissionKey
	oldest := c.heads[0].epoch
	for _, h := range c.heads {
		keys = append(keys, h.key)
		if h.parent != nil {
			keys = append(keys, h.parent.key)
			oldest = min(oldest, h.parent.epoch)
		}
	}
	if m.Epoch < oldest {
		return wire.Errorf(wire.StaleEpoch, "submitMessage", "epoch %d", m.Epoch)
	}
	if !m.Verify(keys...) {
		return wire.Errorf(wire.Forged, "submitMessage", "signature")
	}
	payload, err := wire.Encode(m)
	if err != nil {
		return err
	}
	orgs := make(map[wire.Domain]bool)
	for _, a := range c.delivery() {
		orgs[a.Organization] = true
	}
	for d := range orgs {
		s, o := w.stream(c, d), w.orgs[d]
		if s.ids[m.ID] {
			continue
		}
		s.ids[m.ID] = true
		put := func() {
			s.append(item{kind: wire.ItemMessage, id: m.ID, payload: payload})
			w.pumpAll(s, o)
		}
		if o.joining { // a reader that joins with an entry must not miss a message that overtook the entry
			o.lagging = append(o.lagging, put)
			continue
		}
		put()
	}
	return nil
}

func decodeInto[T any](body []byte) (*T, error) {
	v := new(T)
	return v, wire.Decode(body, wire.MaxSessionFrame, v)
}

// handle executes a request.
func (w *world) handle(a *account, m wire.Method, body []byte) (any, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := w.orgs[a.id.Organization()]
	switch m {
	case wire.MethodUpdate:
		env, err := decodeInto[wire.Envelope](body)
		if err != nil {
			return nil, err
		}
		return w.submit(env)
	case wire.MethodSubmit:
		msg, err := decodeInto[wire.Message](body)
		if err != nil {
			return nil, err
		}
		return &wire.Accepted{Time: 1}, w.message(msg)
	case wire.MethodEntries:
		r, err := decodeInto[wire.EntriesRequest](body)
		if err != nil {
			return nil, err
		}
		c := w.convs[r.Conversation]
		if c == nil {
			return nil, wire.Errorf(wire.UnknownConversation, "entries", "unknown")
		}
		if w.strict && !w.reads(o, a, c) {
			return nil, wire.Errorf(wire.UnknownConversation, "entries", "%s is no reader", a.id)
		}
		from := min(int(r.Since), len(c.log))
		if w.keep > 0 && from < len(c.log)-w.keep {
			return &wire.EntriesAnswer{Entries: c.log[len(c.log)-w.keep:], Gap: true}, nil
		}
		return &wire.EntriesAnswer{Entries: c.log[from:min(len(c.log), from+20)]}, nil
	case wire.MethodConversations:
		answer := &wire.ConversationsAnswer{}
		for id, c := range w.convs {
			st := c.streams[a.id.Organization()]
			if st == nil {
				continue
			}
			for token, r := range st.readers {
				end := uint64(len(st.items))
				if r.until > 0 {
					end = r.until
				}
				if o.tokens[token] == a.id {
					answer.Conversations = append(answer.Conversations, wire.ConversationState{Conversation: id, Token: token, Acknowledged: r.acked, End: end})
				}
			}
		}
		return answer, nil
	case wire.MethodGroupInfo:
		r, err := decodeInto[wire.GroupInfoRequest](body)
		if err != nil {
			return nil, err
		}
		answer := &wire.GroupInfoAnswer{}
		for _, h := range w.convs[r.Conversation].heads {
			answer.Heads = append(answer.Heads, wire.GroupInfo{Epoch: h.epoch, Parent: h.seq, Order: w.convs[r.Conversation].order, Info: h.info, Tree: h.tree})
		}
		return answer, nil
	}
	return w.handleDirectory(o, a, m, body)
}

// reads reports whether a device is a reader of a conversation. A device whose membership has ended is one until it has
// acknowledged the last item.
func (w *world) reads(o *org, a *account, c *conv) bool {
	st := c.streams[o.domain]
	if st == nil {
		return false
	}
	for token, r := range st.readers {
		if o.tokens[token] == a.id && (r.until == 0 || r.acked < r.until) {
			return true
		}
	}
	return false
}

func (w *world) handleDirectory(o *org, a *account, m wire.Method, body []byte) (any, error) {
	switch m {
	case wire.MethodAddress:
		r, err := decodeInto[wire.AddressRequest](body)
		if err != nil {
			return nil, err
		}
		o.tokens[r.Token] = a.id
		return nil, nil
	case wire.MethodUpload:
		r, err := decodeInto[wire.UploadRequest](body)
		if err != nil {
			return nil, err
		}
		for i := range r.KeyPackages {
			k := &r.KeyPackages[i]
			kp, err := keyPackageOf(a, k)
			if err != nil {
				return nil, err
			}
			o.tokens[k.Token] = a.id
			suite := uint16(kp.CipherSuite)
			if kp.LastResort() {
				a.last[suite] = k
			} else if !a.known[string(k.Message)] {
				a.known[string(k.Message)] = true
				a.packages[suite] = append(a.packages[suite], *k)
			}
		}
		return nil, nil
	case wire.MethodRefuse:
		r, err := decodeInto[wire.RefuseRequest](body)
		if err != nil || o.tokens[r.Token] != a.id {
			return nil, errors.Join(err, wire.Errorf(wire.NotFound, "refuse", "not an address of %s", a.id))
		}
		delete(o.tokens, r.Token)
		return nil, nil
	case wire.MethodCount:
		answer := &wire.CountAnswer{}
		for suite := range a.last {
			answer.Counts = append(answer.Counts, wire.KeyPackageCount{Suite: suite, Left: uint32(len(a.packages[suite])), LastResort: true})
		}
		return answer, nil
	case wire.MethodDiscard:
		clear(a.packages)
		clear(a.last)
		return nil, nil
	case wire.MethodKeyMaterial:
		r, err := decodeInto[wire.KeyMaterialRequest](body)
		if err != nil {
			return nil, err
		}
		return w.claim(a, r)
	case wire.MethodOrganizations:
		answer := &wire.OrganizationsAnswer{}
		for d, other := range w.orgs {
			answer.Organizations = append(answer.Organizations, wire.Organization{Domain: d, Root: other.root.Raw})
		}
		return answer, nil
	case wire.MethodRenew:
		return &wire.ChainAnswer{Chain: a.chain}, nil
	case wire.MethodDevices:
		answer := &wire.DevicesAnswer{}
		for id, other := range o.devices {
			if id.User() == a.id.User() {
				answer.Devices = append(answer.Devices, wire.DeviceInfo{ID: id, Key: other.key, Enrolled: wire.TimeOf(other.since)})
			}
		}
		return answer, nil
	case wire.MethodInvite:
		code := fmt.Sprintf("code-%d", w.dice.Uint64())
		o.codes[code] = a.id.User()
		return &wire.InviteAnswer{Code: code, Ends: wire.TimeOf(time.Now().Add(time.Minute))}, nil
	}
	return w.handleRest(o, a, m, body)
}

func (w *world) handleRest(o *org, a *account, m wire.Method, body []byte) (any, error) {
	switch m {
	case wire.MethodFeatures:
		return &wire.FeaturesAnswer{Features: w.features}, nil
	case wire.MethodDelivery:
		r, err := decodeInto[wire.DeliveryRequest](body)
		if err != nil {
			return nil, err
		}
		answer := &wire.DeliveryAnswer{}
		for _, h := range w.convs[r.Conversation].heads {
			list := h.delivery
			if w.delivered != nil {
				list = w.delivered(a.id.Organization(), r.Conversation, list)
			}
			head, err := wire.DeliveryHeadOf(h.seq, list)
			if err != nil {
				return nil, err
			}
			answer.Heads = append(answer.Heads, head)
		}
		return answer, nil
	case wire.MethodRevoke:
		r, err := decodeInto[wire.RevokeRequest](body)
		if err != nil {
			return nil, err
		}
		return nil, w.revoke(o, r.Device)
	case wire.MethodRevocations:
		r, err := decodeInto[wire.RevocationsRequest](body)
		if err != nil {
			return nil, err
		}
		list, err := w.orgs[r.Domain].revocations()
		return &wire.RevocationsAnswer{List: list}, err
	case wire.MethodOrganizationsPage, wire.MethodRevocationsPage:
		return w.page(m, body)
	case wire.MethodPutBlob:
		r, err := decodeInto[wire.PutBlobRequest](body)
		if err != nil {
			return nil, err
		}
		have := w.blobs[r.Blob.Hash]
		if r.Offset <= uint64(len(have)) && r.Offset+uint64(len(r.Data)) > uint64(len(have)) {
			have = append(have, r.Data[uint64(len(have))-r.Offset:]...)
		}
		if uint64(len(have)) >= r.Blob.Size && wire.Hash(sha256.Sum256(have)) != r.Blob.Hash {
			return nil, wire.Errorf(wire.Forged, "putBlob", "another hash")
		}
		w.blobs[r.Blob.Hash] = have
		return &wire.PutBlobAnswer{Stored: uint64(len(have))}, nil
	case wire.MethodDownload:
		r, err := decodeInto[wire.DownloadRequest](body)
		if err != nil {
			return nil, err
		}
		have, ok := w.blobs[r.Blob.Hash]
		if !ok || r.Offset > uint64(len(have)) {
			return nil, wire.Errorf(wire.BlobMissing, "download", "not here")
		}
		return &wire.DownloadAnswer{Data: have[r.Offset:min(uint64(len(have)), r.Offset+100_000)]}, nil
	}
	return nil, wire.Errorf(wire.Malformed, string(m), "unknown method")
}

func (w *world) revoke(o *org, id wire.DeviceID) error {
	a := o.devices[id]
	if a == nil {
		return wire.Errorf(wire.NotFound, "revoke", "no such device")
	}
	cert, err := x509.ParseCertificate(a.chain[0])
	if err != nil {
		return err
	}
	o.revoked = append(o.revoked, x509.RevocationListEntry{SerialNumber: cert.SerialNumber, RevocationTime: time.Now()})
	delete(o.devices, id)
	if a.session != nil {
		a.session.pipe.end(&CloseError{Code: wire.CloseRevoked, Text: "revoked"})
	}
	for other, b := range o.devices {
		if other.User() == id.User() {
			w.notify(b, &wire.Notice{Type: wire.NoticeRevoked, Device: id})
		}
	}
	return nil
}

func (w *world) claim(by *account, r *wire.KeyMaterialRequest) (*wire.KeyMaterialAnswer, error) {
	if got := by.claims[r.ID]; got != nil {
		return got, nil
	}
	o := w.orgs[r.User.Organization()]
	if o == nil {
		return nil, wire.Errorf(wire.NotFound, "keyMaterial", "no such organization")
	}
	answer := &wire.KeyMaterialAnswer{}
	found := false
	for id, a := range o.devices {
		if id.User() != r.User || len(r.Devices) > 0 && !slices.Contains(r.Devices, id) {
			continue
		}
		found = true
		k, last := a.last[r.Suite], true
		if pool := a.packages[r.Suite]; len(pool) > 0 {
			k, last = &pool[0], false
			a.packages[r.Suite] = pool[1:]
		}
		if k != nil {
			answer.Devices = append(answer.Devices, wire.KeyMaterial{Device: id, Address: wire.Address{Organization: o.domain, Token: k.Token}, Message: k.Message, LastResort: last})
		}
	}
	if !found {
		return nil, wire.Errorf(wire.NotFound, "keyMaterial", "no user %s", r.User)
	}
	if len(answer.Devices) == 0 {
		return nil, wire.Errorf(wire.NoneLeft, "keyMaterial", "none left")
	}
	by.claims[r.ID] = answer
	return answer, nil
}
