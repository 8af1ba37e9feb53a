package discovery

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/mlsfed/mlsfed/federation/lineage"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// zone is a name server on loopback. Its answers can be changed between look-ups.
type zone struct {
	addr string

	mu        sync.Mutex
	txt       map[string][][]string // records of a name, each of strings
	addresses map[string][]string
	cname     map[string]string
	code      map[string]dnsmessage.RCode
	dead      map[string]bool     // names that get no answer
	rotate    map[string][]string // one address for each query of type A, in turn
	queries   map[string]int      // by type and name
}

func newZone(t testing.TB) *zone {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	z := &zone{
		addr: conn.LocalAddr().String(), txt: make(map[string][][]string), addresses: make(map[string][]string), cname: make(map[string]string),
		code: make(map[string]dnsmessage.RCode), dead: make(map[string]bool), rotate: make(map[string][]string), queries: make(map[string]int),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			if answer := z.answer(b[:n]); answer != nil {
				if _, err := conn.WriteTo(answer, from); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return z
}

// edit changes the answers.
func (z *zone) edit(change func(*zone)) {
	z.mu.Lock()
	defer z.mu.Unlock()
	change(z)
}

// asked returns the number of queries of a type for a name: "A mlsfed.b.example"; "" means all.
func (z *zone) asked(query string) (n int) {
	z.mu.Lock()
	defer z.mu.Unlock()
	for q, times := range z.queries {
		if query == "" || q == query {
			n += times
		}
	}
	return n
}

// answer answers one query, or nil.
func (z *zone) answer(query []byte) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	name := strings.TrimSuffix(strings.ToLower(q.Name.String()), ".")
	z.mu.Lock()
	defer z.mu.Unlock()
	z.queries[strings.TrimPrefix(q.Type.String(), "Type")+" "+name]++
	if z.dead[name] {
		return nil
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: h.ID, Response: true, RecursionAvailable: true, RCode: z.code[name]}, Questions: []dnsmessage.Question{q}}
	at := q.Name
	add := func(t dnsmessage.Type, body dnsmessage.ResourceBody) {
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: at, Type: t, Class: dnsmessage.ClassINET, TTL: 60}, Body: body})
	}
	if to := z.cname[name]; to != "" {
		target := dnsmessage.MustNewName(to + ".")
		add(dnsmessage.TypeCNAME, &dnsmessage.CNAMEResource{CNAME: target})
		name, at = to, target
	}
	list := z.addresses[name]
	if r := z.rotate[name]; len(r) > 0 && q.Type == dnsmessage.TypeA {
		list, z.rotate[name] = r[:1], r[1:]
	}
	switch q.Type {
	case dnsmessage.TypeTXT:
		for _, r := range z.txt[name] {
			add(q.Type, &dnsmessage.TXTResource{TXT: r})
		}
	case dnsmessage.TypeA, dnsmessage.TypeAAAA:
		for _, s := range list {
			a := netip.MustParseAddr(s)
			switch {
			case a.Is4() && q.Type == dnsmessage.TypeA:
				add(q.Type, &dnsmessage.AResource{A: a.As4()})
			case a.Is6() && q.Type == dnsmessage.TypeAAAA:
				add(q.Type, &dnsmessage.AAAAResource{AAAA: a.As16()})
			}
		}
	}
	if len(m.Answers) == 0 && m.RCode == dnsmessage.RCodeSuccess && len(z.txt[name])+len(z.addresses[name])+len(z.rotate[name]) == 0 {
		m.RCode = dnsmessage.RCodeNameError
	}
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}

// authority is a certificate authority for web servers.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{certificate: c, key: key}
}

// issue makes a certificate for names. A nil authority makes one that is signed by itself.
func (a *authority) issue(t testing.TB, edit func(*x509.Certificate), names ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: names, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	if edit != nil {
		edit(template)
	}
	parent, signer := template, key
	if a != nil {
		parent, signer = a.certificate, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// world has a name server, a web server and an organization.
type world struct {
	zone    *zone
	ca      *authority
	doc     *lineage.Document
	body    []byte
	web     http.HandlerFunc
	fetched int // requests that the web server got
	mu      sync.Mutex

	dialed []netip.AddrPort
}

const orgDomain wire.Domain = "b.example"

// publish makes the document of an organization with the identity that 'mlsfed init' makes.
func publish(t testing.TB, d wire.Domain) *lineage.Document {
	t.Helper()
	dir := filepath.Join(t.TempDir(), string(d))
	if err := organization.Init(dir, organization.InitOptions{Domain: d}); err != nil {
		t.Fatal(err)
	}
	id, err := organization.LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	recovery, err := lineage.RecoveryHash(public)
	if err != nil {
		t.Fatal(err)
	}
	l := &lineage.Link{Domain: d, Roots: [][]byte{id.Root.Raw}, Recovery: recovery}
	link, err := lineage.SignLink(l, nil, id.Authority.Signer())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := wire.Encode(l)
	if err != nil {
		t.Fatal(err)
	}
	now := wire.TimeOf(time.Now())
	statement, err := lineage.SignStatement(&lineage.Statement{
		Domain: d, Link: lineage.LinkHash(raw), Serial: uint64(now), Issued: now, Expires: now + 1000, Contacts: []string{"mailto:abuse@" + string(d)},
	}, nil, id.Authority.Signer())
	if err != nil {
		t.Fatal(err)
	}
	record, err := id.SignRecord("n1."+string(d)+":7443", now, false)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := lineage.NewDocument(d, [][]byte{link}, statement, [][]byte{record})
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{zone: newZone(t), ca: newAuthority(t), doc: publish(t, orgDomain)}
	var err error
	if w.body, err = w.doc.Encode(); err != nil {
		t.Fatal(err)
	}
	w.zone.edit(func(z *zone) {
		z.txt["_mlsfed.b.example"] = [][]string{{lineage.TXT(w.doc.Lineage)}}
		z.addresses["mlsfed.b.example"] = []string{"127.0.0.1"}
	})
	w.web = w.good
	return w
}

// good answers as an honest web server does.
func (w *world) good(rw http.ResponseWriter, r *http.Request) {
	rw.Header().Set("Content-Type", "application/json")
	if r.URL.Path != Path || r.Host != "mlsfed.b.example" || r.Header.Get("Cookie") != "" || r.Header.Get("Accept-Encoding") != "identity" {
		rw.WriteHeader(http.StatusBadRequest)
		return
	}
	_, _ = rw.Write(w.body)
}

// serve starts the web server with a certificate; it returns its port.
func (w *world) serve(t testing.TB, certificate tls.Certificate) uint16 {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.fetched++
		w.mu.Unlock()
		w.web(rw, r)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String()).Port()
}

// finder looks up in the world: loopback is the outside, unless edit changes it.
func (w *world) finder(t testing.TB, port uint16, edit func(*Settings)) *Finder {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(w.ca.certificate)
	s := Settings{
		DNS: w.zone.addr, Roots: roots, Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, Port: port,
		Dialed: func(at netip.AddrPort) { w.mu.Lock(); w.dialed = append(w.dialed, at); w.mu.Unlock() },
	}
	if edit != nil {
		edit(&s)
	}
	f, err := NewFinder(s)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// requests returns the number of requests that the web server got.
func (w *world) requests() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fetched
}

func (w *world) find(t testing.TB, f *Finder) (*Found, error) {
	t.Helper()
	return f.Find(context.Background(), orgDomain)
}
