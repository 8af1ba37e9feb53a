package client

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"maps"
	"math/big"
	mrand "math/rand/v2"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// world implements the servers of all organizations in one place, with the rules of docs/spec/consensus.md and the
// streams of package mailbox, in a small form: one state under one mutex, and faults on demand.
type world struct {
	t          testing.TB
	wg         sync.WaitGroup
	limits     Limits        // limits of the devices
	timing     func(*Timing) // changes the Timing of the devices; may be nil
	admit      map[wire.DeviceID]func(JoinRequest) Decision
	extensions map[wire.DeviceID][]mlscore.ExtensionType // per device, extensions of its leaves; default: all
	clocks     map[wire.DeviceID]Clock                   // for devices whose clock is wrong

	mu     sync.Mutex
	orgs   map[wire.Domain]*org
	convs  map[wire.ConversationID]*conv
	blobs  map[wire.Hash][]byte
	keep   int // number of newest entries of a log that the world returns; 0 for all
	dice   *mrand.Rand
	faults faults
	costs  map[wire.Method]cost

	lists     map[wire.Domain]revocationList                                        // lists that were returned in pages
	newer     bool                                                                  // each page belongs to a newer list
	strict    bool                                                                  // entries are for readers only
	anyBlob   bool                                                                  // entries may name missing blobs
	noRest    bool                                                                  // commits in blobs are refused
	features  wire.Features                                                         // features that the nodes announce
	delivered func(wire.Domain, wire.ConversationID, []wire.Address) []wire.Address // the list that nodes report; nil: the true one
}

// cost is the sum over the requests of one method.
type cost struct{ requests, sent, answered int }

// faults are the deliberate faults of the world.
type faults struct {
	dropAnswers float64                               // execute the request, then break the connection
	dropBefore  float64                               // break the connection before the request is executed
	disorder    bool                                  // memberships of one device are pushed in any order
	mute        map[wire.DeviceID]bool                // nothing is pushed to the device
	lag         map[wire.Domain]bool                  // withhold entries, not messages, from an organization's streams
	refuse      func(m wire.Method) *wire.Error       // after the request was executed
	deny        func(m wire.Method) *wire.Error       // before the request is executed
	before      func(by wire.DeviceID, m wire.Method) // called before a request is executed; may make requests
}

type org struct {
	domain  wire.Domain
	key     ed25519.PrivateKey
	root    *x509.Certificate
	devices map[wire.DeviceID]*account
	codes   map[string]wire.UserID
	tokens  map[wire.Token]wire.DeviceID
	revoked []x509.RevocationListEntry
	serial  int64
	life    time.Duration        // lifetime of a certificate
	given   map[wire.UserID]byte // how often a name was given again
	lagging []func()
	joining bool // an entry that lags adds a device
}

type account struct {
	id       wire.DeviceID
	key      []byte
	chain    [][]byte
	packages map[uint16][]wire.UploadedKeyPackage // by cipher suite
	last     map[uint16]*wire.UploadedKeyPackage
	known    map[string]bool
	claims   map[wire.SubmissionID]*wire.KeyMaterialAnswer
	inbox    stream
	since    time.Time
	session  *serverSession
}

func newWorld(t testing.TB, domains ...wire.Domain) *world {
	w := &world{
		t: t, orgs: make(map[wire.Domain]*org), convs: make(map[wire.ConversationID]*conv), blobs: make(map[wire.Hash][]byte),
		dice: mrand.New(mrand.NewPCG(1, 2)),
	}
	w.faults.lag, w.faults.mute = make(map[wire.Domain]bool), make(map[wire.DeviceID]bool)
	for _, d := range domains {
		w.addOrg(d)
	}
	t.Cleanup(w.wg.Wait)
	return w
}

func (w *world) addOrg(d wire.Domain) *org {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: string(d)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		w.t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		w.t.Fatal(err)
	}
	o := &org{given: make(map[wire.UserID]byte), domain: d, key: key, root: root, serial: 1, life: 900 * time.Hour, devices: make(map[wire.DeviceID]*account),
		codes: make(map[string]wire.UserID), tokens: make(map[wire.Token]wire.DeviceID)}
	w.orgs[d] = o
	return o
}

// account returns the present account of a name.
func (o *org) account(u wire.UserID) wire.AccountID {
	h := sha256.Sum256([]byte(u))
	a := wire.AccountID(h[:16])
	a[0] = o.given[u]
	if a[0] == noAccount {
		return wire.AccountID{}
	}
	return a
}

// noAccount makes an organization certify a user without an account, as earlier releases do.
const noAccount = 255

// certify makes a device's certificate chain.
func (o *org) certify(id wire.DeviceID, key []byte) ([][]byte, error) {
	uri, err := url.Parse(string(id))
	if err != nil {
		return nil, err
	}
	o.serial++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(o.serial), URIs: []*url.URL{uri}, Subject: pkix.Name{SerialNumber: o.account(id.User()).String()}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(o.life),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, o.root, ed25519.PublicKey(key), o.key)
	return [][]byte{der, o.root.Raw}, err
}

// endpoint is a device's Transport into the world.
type endpoint struct {
	w      *world
	domain wire.Domain
}

func (e *endpoint) Enrol(_ context.Context, r *wire.EnrolRequest) (*wire.ChainAnswer, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	o := e.w.orgs[e.domain]
	if !ed25519.Verify(r.Key, wire.EnrolInput(r.Device, r.Key), r.Proof) {
		return nil, wire.Errorf(wire.Denied, "enrol", "proof does not verify")
	}
	if a := o.devices[r.Device]; a != nil && slices.Equal(a.key, r.Key) {
		return &wire.ChainAnswer{Chain: a.chain}, nil
	}
	if o.codes[r.Code] != r.Device.User() {
		return nil, wire.Errorf(wire.Denied, "enrol", "the code is not accepted: ask for another one")
	}
	delete(o.codes, r.Code)
	chain, err := o.certify(r.Device, r.Key)
	if err != nil {
		return nil, err
	}
	for id, a := range o.devices {
		if id.User() == r.Device.User() {
			e.w.notify(a, &wire.Notice{Type: wire.NoticeEnrolled, Device: r.Device})
		}
	}
	o.devices[r.Device] = &account{id: r.Device, key: r.Key, chain: chain, known: make(map[string]bool),
		packages: make(map[uint16][]wire.UploadedKeyPackage), last: make(map[uint16]*wire.UploadedKeyPackage),
		claims: make(map[wire.SubmissionID]*wire.KeyMaterialAnswer), inbox: newStream(), since: time.Now()}
	return &wire.ChainAnswer{Chain: chain}, nil
}

func (w *world) notify(a *account, n *wire.Notice) {
	payload, err := wire.Encode(n)
	if err != nil {
		panic(err)
	}
	a.inbox.append(item{kind: wire.ItemNotice, payload: payload})
	w.pump(a)
}

// pipe is one end of a connection in memory.
type pipe struct {
	in     <-chan []byte
	out    chan<- []byte
	closed chan struct{} // shared by both ends
	once   *sync.Once
	why    *error
}

func newPipes() (client, server *pipe) {
	a, b := make(chan []byte, 256), make(chan []byte, 256)
	closed, once, why := make(chan struct{}), new(sync.Once), new(error)
	return &pipe{a, b, closed, once, why}, &pipe{b, a, closed, once, why}
}

func (p *pipe) end(why error) { p.once.Do(func() { *p.why = why; close(p.closed) }) }

func (p *pipe) Read(ctx context.Context) ([]byte, error) {
	select {
	case b := <-p.in:
		return b, nil
	default:
	}
	select {
	case b := <-p.in:
		return b, nil
	case <-p.closed:
		return nil, *p.why
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipe) Write(ctx context.Context, b []byte) error {
	select {
	case p.out <- b:
		return nil
	case <-p.closed:
		return *p.why
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *pipe) Close() error { p.end(io.EOF); return nil }

func (e *endpoint) Dial(context.Context) (Conn, error) {
	client, server := newPipes()
	e.w.wg.Go(func() { e.w.serve(e.domain, server) })
	return client, nil
}

// serverSession is the node's side of a session.
type serverSession struct {
	pipe    *pipe
	account *account
	wake    chan struct{} // set if there may be items to push
	sent    map[string]uint64
}

const window = 64

func (w *world) serve(domain wire.Domain, p *pipe) {
	s, err := w.login(domain, p)
	if err != nil {
		p.end(err)
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { w.push(s) })
	for {
		b, err := p.Read(context.Background())
		if err != nil {
			p.end(err)
			return
		}
		f := new(wire.Frame)
		if err := wire.Decode(b, wire.MaxSessionFrame, f); err != nil {
			p.end(&CloseError{Code: wire.CloseMalformed, Text: err.Error()})
			return
		}
		if f.Type == wire.FrameAck {
			w.acknowledge(s, f.Body)
			continue
		}
		wg.Go(func() { w.answer(s, f) })
	}
}

func (w *world) login(domain wire.Domain, p *pipe) (*serverSession, error) {
	c := &wire.Challenge{Version: wire.SessionVersion, Domain: domain, Time: wire.TimeOf(time.Now())}
	if _, err := rand.Read(c.Nonce[:]); err != nil {
		return nil, err
	}
	if err := writeFrame(p, wire.FrameChallenge, 0, c); err != nil {
		return nil, err
	}
	f, err := readFrame(context.Background(), p)
	if err != nil {
		return nil, err
	}
	l := new(wire.Login)
	if err := wire.Decode(f.Body, wire.MaxFrame, l); err != nil {
		return nil, err
	}
	input, err := c.LoginInput(l.Device)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.orgs[domain].devices[l.Device]
	if a == nil || !ed25519.Verify(a.key, input, l.Signature) {
		return nil, &CloseError{Code: wire.CloseLogin, Text: "login refused"}
	}
	s := &serverSession{pipe: p, account: a, wake: make(chan struct{}, 1), sent: make(map[string]uint64)}
	if a.session != nil {
		a.session.pipe.end(&CloseError{Code: wire.CloseReplaced, Text: "a newer session receives"})
	}
	a.session = s
	s.wake <- struct{}{}
	return s, writeFrame(p, wire.FrameSession, 0, &wire.Session{Node: wire.NodeID("n1." + domain), MaxFrame: wire.MaxSessionFrame, Window: window, Requests: 16})
}

func writeFrame(p *pipe, t wire.FrameType, id uint64, body any) error {
	var raw []byte
	if body != nil {
		var err error
		if raw, err = wire.Encode(body); err != nil {
			return err
		}
	}
	b, err := wire.Encode(&wire.Frame{Type: t, ID: id, Body: raw})
	if err != nil {
		return err
	}
	return p.Write(context.Background(), b)
}

func (w *world) chance(p float64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return p > 0 && w.dice.Float64() < p
}

var errFault = errors.New("the connection broke, as the test wanted")

func (w *world) answer(s *serverSession, f *wire.Frame) {
	w.mu.Lock()
	faults := w.faults
	w.mu.Unlock()
	if w.chance(faults.dropBefore) {
		s.pipe.end(errFault)
		return
	}
	if faults.deny != nil {
		if refused := faults.deny(f.Method); refused != nil {
			_ = writeFrame(s.pipe, wire.FrameError, f.ID, refused)
			return
		}
	}
	if faults.before != nil {
		faults.before(s.account.id, f.Method)
	}
	body, err := w.handle(s.account, f.Method, f.Body)
	w.count(f, body)
	if faults.refuse != nil && err == nil {
		if refused := faults.refuse(f.Method); refused != nil {
			err = refused
		}
	}
	if w.chance(faults.dropAnswers) {
		s.pipe.end(errFault)
		return
	}
	if err != nil {
		_ = writeFrame(s.pipe, wire.FrameError, f.ID, wire.AsError(string(f.Method), err))
		return
	}
	_ = writeFrame(s.pipe, wire.FrameAnswer, f.ID, body)
}

func (w *world) count(f *wire.Frame, answer any) {
	sent, err := wire.Encode(f)
	if err != nil {
		return
	}
	got, err := wire.Encode(answer)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.costs != nil {
		c := w.costs[f.Method]
		w.costs[f.Method] = cost{c.requests + 1, c.sent + len(sent), c.answered + len(got)}
	}
}

// pushed represents pushes among the methods whose costs are counted: pushes, bytes of acknowledgements, and bytes of
// pushes.
const pushed wire.Method = "push"

func (w *world) countPush(p *wire.Push) {
	body, err := wire.Encode(p)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.costs != nil {
		c := w.costs[pushed]
		w.costs[pushed] = cost{c.requests + 1, c.sent, c.answered + len(body)}
	}
}

// disconnect breaks a device's connection.
func (w *world) disconnect(id wire.DeviceID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a := w.orgs[id.Organization()].devices[id]; a != nil && a.session != nil {
		a.session.pipe.end(errFault)
	}
}

// pump wakes a device's session. The caller holds the mutex.
func (w *world) pump(a *account) {
	if a.session != nil {
		select {
		case a.session.wake <- struct{}{}:
		default:
		}
	}
}

// push sends the items that a device has not received in this session, within its window.
func (w *world) push(s *serverSession) {
	for {
		select {
		case <-s.wake:
		case <-s.pipe.closed:
			return
		}
		for {
			p := w.nextPush(s)
			if p == nil {
				break
			}
			w.countPush(p)
			if writeFrame(s.pipe, wire.FramePush, 0, p) != nil {
				return
			}
		}
	}
}

func (w *world) nextPush(s *serverSession) *wire.Push {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := s.account
	if a.session != s || w.faults.mute[a.id] {
		return nil
	}
	if p := s.nextOf(&a.inbox, wire.Token{}, nil); p != nil {
		return p
	}
	for id, c := range w.convs {
		st := c.streams[a.id.Organization()]
		if st == nil {
			continue
		}
		tokens := slices.Collect(maps.Keys(st.readers))
		if !w.faults.disorder { // as nodes do: one membership after the other
			slices.SortFunc(tokens, func(a, b wire.Token) int {
				return cmp.Compare(st.readers[a].until-1, st.readers[b].until-1)
			})
		}
		for _, token := range tokens {
			if w.orgs[a.id.Organization()].tokens[token] != a.id {
				continue
			}
			if p := s.nextOf(st, token, &id); p != nil {
				return p
			}
		}
	}
	return nil
}

func (s *serverSession) nextOf(st *stream, token wire.Token, id *wire.ConversationID) *wire.Push {
	r := st.readers[token]
	key := string(token[:])
	if id != nil {
		key += string(*id)
	}
	at := max(r.acked, s.sent[key])
	if to := min(st.expired, cmp.Or(r.until, uint64(len(st.items)))); at < to {
		s.sent[key] = to
		return &wire.Push{Conversation: id, Token: token, Sequence: to, GapFrom: at + 1}
	}
	if at >= uint64(len(st.items)) || r.until > 0 && at >= r.until || at-r.acked >= window/8 {
		return nil
	}
	s.sent[key] = at + 1
	it := st.items[at]
	return &wire.Push{Conversation: id, Token: token, Sequence: at + 1, Kind: it.kind, ID: it.id, Time: it.time, Payload: it.payload}
}

func (w *world) acknowledge(s *serverSession, body []byte) {
	a := new(wire.Ack)
	if err := wire.Decode(body, wire.MaxFrame, a); err != nil {
		s.pipe.end(&CloseError{Code: wire.CloseMalformed, Text: err.Error()})
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.costs != nil {
		c := w.costs[pushed]
		w.costs[pushed] = cost{c.requests, c.sent + len(body), c.answered}
	}
	st := &s.account.inbox
	if a.Conversation != nil {
		st = w.convs[*a.Conversation].streams[s.account.id.Organization()]
	}
	if r := st.readers[a.Token]; r != nil {
		r.acked = max(r.acked, a.Sequence)
	}
	w.pump(s.account)
}

// stream holds the items of a conversation, or for a device, at an organization.
type stream struct {
	items   []item
	ids     map[wire.SubmissionID]bool
	readers map[wire.Token]*reader
	expired uint64 // items up to this one are no longer kept
}

type item struct {
	kind    wire.ItemKind
	id      wire.SubmissionID
	time    wire.Time
	payload []byte
}

type reader struct {
	acked uint64
	until uint64 // the last item for this reader; 0 for no end
}

func newStream() stream {
	return stream{ids: make(map[wire.SubmissionID]bool), readers: map[wire.Token]*reader{{}: {}}}
}

func (s *stream) append(it item) {
	if it.time == 0 {
		it.time = wire.TimeOf(time.Now())
	}
	s.items = append(s.items, it)
}

// keyPackageOf checks an uploaded KeyPackage as a directory does, roughly.
func keyPackageOf(a *account, k *wire.UploadedKeyPackage) (*mlscore.KeyPackage, error) {
	kp, err := mlscore.ParseKeyPackage(k.Message)
	if err != nil {
		return nil, wire.Errorf(wire.Malformed, "upload", "%v", err)
	}
	if !slices.Equal(kp.LeafNode.SignatureKey, a.key) {
		return nil, wire.Errorf(wire.Denied, "upload", "another key")
	}
	return kp, nil
}
