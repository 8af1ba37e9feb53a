package mlscore

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"strings"
	"testing"
	"time"
)

// The tests in rules_*_test.go break one rule of RFC 9420 at a time: a message is made as its sender would make it,
// with one fault, and signed, tagged and encrypted again after that, so that only the broken rule can refuse it.
// docs/rfc9420.md lists the tests of each rule.

// labSuite is the suite of these tests. No rule depends on the suite, and every implementation has this one.
const labSuite = MLS128X25519AES128Ed25519

// labAuth accepts basic credentials and self-signed certificates. The identity is the basic identity or the common
// name. It refuses names that begin with "refused".
type labAuth struct{}

func (labAuth) name(c Credential) ([]byte, error) {
	if c.Type == CredentialBasic {
		return c.Identity, nil
	}
	if c.Type != CredentialX509 {
		return c.Data, nil
	}
	cert, err := x509.ParseCertificate(c.Certificates[0])
	if err != nil {
		return nil, err
	}
	return []byte(cert.Subject.CommonName), nil
}

func (a labAuth) ValidateCredential(c Credential, _ []byte, _ CredentialUse) error {
	name, err := a.name(c)
	if err == nil && bytes.HasPrefix(name, []byte("refused")) {
		err = fmt.Errorf("%s is not welcome", name)
	}
	return err
}

func (a labAuth) Identity(c Credential, _ []byte) ([]byte, error) { return a.name(c) }

func (a labAuth) ValidSuccessor(old, next Credential) error {
	was, err := a.name(old)
	if err != nil {
		return err
	}
	is, err := a.name(next)
	if err == nil && !bytes.Equal(was, is) {
		err = fmt.Errorf("%s became %s", was, is)
	}
	return err
}

// certify makes a self-signed certificate of an Ed25519 key.
func certify(t testing.TB, name string, key Secret) Credential {
	t.Helper()
	priv := ed25519.NewKeyFromSeed(key.Bytes())
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    testTime.Add(-time.Hour),
		NotAfter:     testTime.Add(time.Hour),
	}
	der, err := x509.CreateCertificate(seeded(name), template, template, priv.Public(), priv)
	if err != nil {
		t.Fatal(err)
	}
	return X509Credential(der)
}

// labOptions are the options of a lab's group.
type labOptions struct {
	names      []string // alice, bob and carol if there are none
	extensions Extensions
	config     func(name string, c *Config)
	flat       bool // no member has committed a path: all parents are blank
}

// labLifetime is the maximum lifetime of a lab with such a bound.
const labLifetime = 100 * 24 * time.Hour

// bounded is a lab whose members and server agree on a maximum lifetime.
var bounded = labOptions{config: func(_ string, c *Config) { c.MaxLifetime, c.MaxLifetimeReceived = labLifetime, labLifetime }}

// strict is a lab whose members and server apply the rules for makers to objects of others.
var strict = labOptions{config: func(_ string, c *Config) { c.Intake.Strict = true }}

// lab is a group of real members, each with a separate store. If handshakes are public, a server follows the group.
type lab struct {
	testing.TB
	options labOptions
	people  []*person
	server  *PublicState
}

func newLab(t testing.TB, public bool, o labOptions) *lab {
	t.Helper()
	if o.names == nil {
		o.names = []string{"alice", "bob", "carol"}
	}
	l := &lab{TB: t, options: o}
	for _, name := range o.names {
		l.people = append(l.people, l.person(name))
	}
	founder := l.people[0]
	founder.create(t, CreateOptions{GroupOptions: GroupOptions{PublicHandshakes: public}, Extensions: o.extensions})
	if len(l.people) > 1 {
		founder.commit(t, CommitOptions{OmitPath: true}, nil, l.people[1:]...)
	}
	if !o.flat {
		for _, p := range l.people {
			p.commit(t, CommitOptions{}, l.people)
		}
	}
	if public {
		info, err := founder.group.GroupInfo(GroupInfoOptions{Tree: true})
		if err != nil {
			t.Fatal(err)
		}
		l.server, err = NewPublicState(info, nil, l.publicConfig())
		if err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// person returns a client of the lab's kind, in no group yet.
func (l *lab) person(name string) *person {
	l.Helper()
	return newPerson(l.TB, name, labSuite, func(c *Config) {
		c.Auth = labAuth{}
		if l.options.config != nil {
			l.options.config(name, c)
		}
	})
}

func (l *lab) publicConfig() PublicConfig {
	var c Config
	if l.options.config != nil {
		l.options.config("server", &c)
	}
	return PublicConfig{Auth: labAuth{}, Policy: c.Policy, MaxLifetime: c.MaxLifetimeReceived, Intake: c.Intake, Limits: c.Limits}
}

// who returns a present or former member by name.
func (l *lab) who(name string) *person {
	l.Helper()
	for _, p := range l.people {
		if string(p.id.Credential.Identity) == name {
			return p
		}
	}
	l.Fatalf("nobody is called %s", name)
	return nil
}

// others returns all members except p.
func (l *lab) others(p *person) []*person {
	var list []*person
	for _, o := range l.people {
		if o != p && o.group != nil && !o.group.state.removed {
			list = append(list, o)
		}
	}
	return list
}

// deliver makes all members except the sender, and the server, process a message and merge it if it is a commit.
func (l *lab) deliver(from *person, msg []byte) {
	l.Helper()
	for _, p := range l.others(from) {
		p.receive(l.TB, msg)
	}
	if l.server != nil {
		next, _, err := l.server.Process(msg)
		if err != nil {
			l.Fatalf("server: %v", err)
		}
		l.server = next
	}
}

// commit makes an honest commit that all process. Newcomers become members.
func (l *lab) commit(by *person, opts CommitOptions, newcomers ...*person) *Commit {
	l.Helper()
	for _, n := range newcomers {
		opts.Proposals = append(opts.Proposals, AddProposal(n.keyPackage(l.TB)))
	}
	opts.WelcomeInfo.Tree = true
	c, err := by.group.Commit(opts)
	if err != nil {
		l.Fatal(err)
	}
	l.deliver(by, c.Message)
	if err := by.group.Merge(c.Staged); err != nil {
		l.Fatal(err)
	}
	for _, n := range newcomers {
		if n.group, err = n.Join(c.Welcome, JoinOptions{GroupOptions: by.group.options}); err != nil {
			l.Fatal(err)
		}
		l.people = append(l.people, n)
	}
	l.agree()
	return c
}

// agree checks that all members and the server have the same state.
func (l *lab) agree() {
	l.Helper()
	members := l.others(nil)
	agree(l.TB, members...)
	for _, p := range members {
		if !bytes.Equal(p.group.public().interim, members[0].group.public().interim) {
			l.Fatalf("transcripts differ")
		}
	}
	if l.server != nil && (!bytes.Equal(l.server.encoded, members[0].group.public().encoded) || !bytes.Equal(l.server.interim, members[0].group.public().interim)) {
		l.Fatalf("the server is at epoch %d, the members at %d, or it has another context", l.server.Epoch(), members[0].group.Epoch())
	}
}

// goesOn checks that the group works: one member commits, all others process the commit, and a message arrives.
func (l *lab) goesOn() {
	l.Helper()
	members := l.others(nil)
	by := members[len(members)-1]
	l.commit(by, CommitOptions{})
	msg, err := by.group.Protect([]byte("on"), MessageOptions{})
	if err != nil {
		l.Fatal(err)
	}
	for _, p := range l.others(by) {
		if got := p.receive(l.TB, msg).Application; got == nil || string(got.Data) != "on" {
			l.Fatalf("got %+v", got)
		}
	}
}

// want is the refusal that a test expects.
type want struct {
	kind   error
	clause string
	say    string // text that the error must contain
	// keyed means that only a holder of keys can detect the fault, so a server cannot.
	keyed bool
}

var allKinds = []error{ErrStale, ErrFuture, ErrNotForUs, ErrMalformed, ErrForged, ErrInvalid, ErrPolicy, ErrUnsupported,
	ErrMissing, ErrLimit, ErrReplay, ErrGroupEnded, ErrStore, ErrMisuse, ErrOwnMessage, ErrOwnUnknown}

// match fails the test unless err is the wanted refusal and has only one kind.
func (w want) match(t testing.TB, err error) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v, want %v [%v, %s]", err, w.say, w.kind, w.clause)
	}
	kinds := 0
	for _, k := range allKinds {
		if errors.Is(err, k) {
			kinds++
		}
	}
	if !errors.Is(err, w.kind) || e.Clause != w.clause || !strings.Contains(err.Error(), w.say) || kinds != 1 {
		t.Fatalf("error %v\nof %d kinds, want %v [%v, %s]", err, kinds, w.say, w.kind, w.clause)
	}
}

// snapshot is the state that a refused message must not change.
type snapshot struct {
	epoch         uint64
	authenticator string
	proposals     int
	active        bool
	store         map[string]string
}

func dump(t testing.TB, s Store) map[string]string {
	t.Helper()
	records := map[string]string{}
	err := s.Scan(nil, func(k, v []byte) error {
		records[string(k)] = string(v)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return records
}

func (p *person) snapshot(t testing.TB) snapshot {
	t.Helper()
	s := snapshot{store: dump(t, p.store)}
	if g := p.group; g != nil {
		s.epoch, s.authenticator, s.proposals, s.active = g.Epoch(), string(g.EpochAuthenticator()), len(g.public().proposals), g.Active()
	}
	return s
}

func (s snapshot) requireSame(t testing.TB, p *person) {
	t.Helper()
	now := p.snapshot(t)
	if now.epoch != s.epoch || now.authenticator != s.authenticator || now.proposals != s.proposals || now.active != s.active {
		t.Fatalf("%s: the state changed", p.id.Credential.Identity)
	}
	if !maps.Equal(now.store, s.store) {
		t.Fatalf("%s: the store changed", p.id.Credential.Identity)
	}
}

// refuse checks that every member except the sender refuses a message and does not change, and that a server does the
// same, unless the check needs keys.
func (l *lab) refuse(from *person, msg []byte, w want) {
	l.Helper()
	l.refuseAs(l.others(from), msg, w)
}

func (l *lab) refuseAs(members []*person, msg []byte, w want) {
	l.Helper()
	for _, p := range members {
		before := p.snapshot(l.TB)
		r, err := p.group.Process(msg)
		if err == nil {
			l.Fatalf("%s accepts it: %+v", p.id.Credential.Identity, r)
		}
		w.match(l.TB, err)
		before.requireSame(l.TB, p)
	}
	if l.server != nil && !w.keyed {
		context, proposals := string(l.server.encoded), len(l.server.proposals)
		_, _, err := l.server.Process(msg)
		if err == nil {
			l.Fatal("the server accepts it")
		}
		w.match(l.TB, err)
		if string(l.server.encoded) != context || len(l.server.proposals) != proposals {
			l.Fatal("the server's state changed")
		}
	}
}

// bothWays runs a test with private and with public handshakes.
func bothWays(t *testing.T, name string, run func(t *testing.T, public bool)) {
	t.Run(name, func(t *testing.T) {
		t.Run("private", func(t *testing.T) { run(t, false) })
		t.Run("public", func(t *testing.T) { run(t, true) })
	})
}

// must returns a value or fails the test.
func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// flip returns a copy of b with its last bit changed.
func flip(b []byte) []byte {
	c := bytes.Clone(b)
	c[len(c)-1] ^= 1
	return c
}
