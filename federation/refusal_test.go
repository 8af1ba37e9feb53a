package federation

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/federation/internal/federationtest"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/internal/admission"
	"github.com/mlsfed/mlsfed/wire"
)

// credential makes a key and a certificate for a node, by an authority of the test's choice.
func credential(t testing.TB, a *organization.Authority, n wire.NodeID, now time.Time, edit func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{string(n)}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(90 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if edit != nil {
		edit(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.Certificate(), public, a.Signer())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: crypto.PrivateKey(private), Leaf: leaf}
}

// dialAs opens a gossip connection to the node with a credential, nil for none, and returns it with what
// the node says to that. It does what an attacker would: it verifies nothing.
func dialAs(t testing.TB, n *node, c *tls.Certificate, edit func(*tls.Config)) (*tls.Conn, error) {
	t.Helper()
	cfg := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protoGossip}}
	if c != nil {
		cfg.Certificates = []tls.Certificate{*c}
	}
	if edit != nil {
		edit(cfg)
	}
	conn, err := tls.Dial("tcp", n.Address(), cfg)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(federationtest.Patience)); err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return conn, err
	}
	return conn, nil
}

// refusedFor holds that a refusal is logged and counted under its reason.
func refusedFor(t *testing.T, n *node, reason string, parts ...string) {
	t.Helper()
	federationtest.Eventually(t, "the refusal for "+reason+" is counted", func() bool {
		return n.metric(t, "mlsfed_federation_refused_total", "reason", reason) >= 1
	})
	federationtest.Eventually(t, "the refusal for "+reason+" is logged", func() bool {
		return n.log.Has(append([]string{"level=WARN", "connection refused", "reason=" + reason}, parts...)...)
	})
}

// TestRefusedConnections holds, for everyone who must not come in, that the connection is refused in the
// handshake, logged and counted.
func TestRefusedConnections(t *testing.T) {
	a, b := start(t, newOrganization(t, "a.example")), start(t, newOrganization(t, "b.example"))
	outside := start(t, newOrganization(t, "x.example"))
	a.admit(t, b)
	now := time.Now()
	root, other := b.id.Authority, outside.id.Authority
	for name, c := range map[string]struct {
		credential *tls.Certificate
		tls        func(*tls.Config)
		reason     string
		say        string
	}{
		"organization not admitted": {credential(t, other, "n1.x.example", now, nil), nil, organization.ReasonNotAdmitted, "n1.x.example"},
		"expired": {credential(t, root, "n1.b.example", now, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = now.Add(-2*time.Hour), now.Add(-time.Hour)
		}), nil, organization.ReasonExpired, "n1.b.example"},
		"not valid yet": {credential(t, root, "n1.b.example", now, func(c *x509.Certificate) {
			c.NotBefore = now.Add(time.Hour)
		}), nil, organization.ReasonExpired, "n1.b.example"},
		"another organization's certificate for this name":    {credential(t, other, "n1.b.example", now, nil), nil, organization.ReasonWrongOrganization, "n1.b.example"},
		"an admitted organization's certificate for our name": {credential(t, root, "n1.a.example", now, nil), nil, organization.ReasonWrongOrganization, "n1.a.example"},
		"a name below a node":                                 {credential(t, root, "n1.n1.b.example", now, nil), nil, organization.ReasonNotAdmitted, "n1.n1.b.example"},
		"no name of a node":                                   {credential(t, root, "example", now, nil), nil, organization.ReasonWrongName, "names no organization"},
		"two names": {credential(t, root, "n1.b.example", now, func(c *x509.Certificate) {
			c.DNSNames = append(c.DNSNames, "n2.b.example")
		}), nil, "not_a_node", "name one node"},
		"a device's certificate": {credential(t, root, "n1.b.example", now, func(c *x509.Certificate) {
			c.DNSNames, c.ExtKeyUsage = nil, nil
			c.URIs = []*url.URL{{Scheme: "mimi", Host: "b.example", Path: "/d/alice/phone"}}
		}), nil, "not_a_node", "name one node"},
		"a device's certificate that names a node too": {credential(t, root, "n1.b.example", now, func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "mimi", Host: "b.example", Path: "/d/alice/phone"}}
		}), nil, "not_a_node", "name one node"},
		"for servers only": {credential(t, root, "n1.b.example", now, func(c *x509.Certificate) {
			c.ExtKeyUsage = c.ExtKeyUsage[:1]
		}), nil, "not_a_node", "something else"},
		"an authority's": {credential(t, root, "n1.b.example", now, func(c *x509.Certificate) {
			c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign
		}), nil, "not_a_node", "authority"},
		"no certificate": {nil, nil, noCertificate, ""},
		"TLS 1.2": {credential(t, root, "n1.b.example", now, nil), func(c *tls.Config) {
			c.MaxVersion = tls.VersionTLS12
		}, oldTLS, "TLS 1.3"},
		"another protocol": {credential(t, root, "n1.b.example", now, nil), func(c *tls.Config) {
			c.NextProtos = []string{"http/1.1"}
		}, noProtocol, ""},
		"no protocol": {credential(t, root, "n1.b.example", now, nil), func(c *tls.Config) {
			c.NextProtos = nil
		}, noProtocol, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := dialAs(t, a, c.credential, c.tls); err == nil {
				t.Fatal("it was let in")
			}
			refusedFor(t, a, c.reason, c.say)
		})
	}
	if _, err := dialAs(t, a, credential(t, root, "n1.b.example", now, nil), nil); err != nil {
		t.Fatalf("an honest node was refused: %v", err)
	}
}

// TestRefusedByTheDialer holds that the side which dials verifies as well: another node of the same
// organization at the address, another organization, and what is no node.
func TestRefusedByTheDialer(t *testing.T) {
	b := start(t, newOrganization(t, "b.example"))
	x := start(t, newOrganization(t, "x.example"))
	for name, c := range map[string]struct {
		to     wire.NodeID
		at     *node
		reason string
	}{
		"another node of the organization": {"n2.b.example", b, organization.ReasonWrongName},
		"another organization":             {"n1.b.example", x, organization.ReasonNotAdmitted},
	} {
		t.Run(name, func(t *testing.T) {
			a := start(t, newOrganization(t, "a.example"))
			bundle := b.bundle(t, false)
			bundle.Seeds = []organization.Seed{{Node: c.to, Address: c.at.Address()}}
			if err := a.peers.Add(bundle); err != nil {
				t.Fatal(err)
			}
			if _, err := a.Dial(t.Context(), c.to); !errors.Is(err, wire.Unavailable) {
				t.Fatalf("dial: %v", err)
			}
			refusedFor(t, a, c.reason, string(c.to))
			federationtest.Eventually(t, "status shows", func() bool { return a.Status().Peers[1].LastError != "" })
		})
	}
}

// TestRemovedIsCut holds that all connections of an organization that is removed or suspended by another
// process are cut, logged and counted, that it cannot come back, and that it can once it is admitted again.
func TestRemovedIsCut(t *testing.T) {
	for reason, c := range map[string]struct {
		out, in func(*organization.Peers) error
	}{
		cutRemoved:                   {func(p *organization.Peers) error { return p.Remove("b.example") }, nil},
		organization.ReasonSuspended: {func(p *organization.Peers) error { return p.Suspend("b.example") }, func(p *organization.Peers) error { return p.Resume("b.example") }},
	} {
		t.Run(reason, func(t *testing.T) {
			a, b := federate(t, echoing)
			stream, err := b.Dial(t.Context(), a.id.Node)
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			if err := ask(t.Context(), b, a.id.Node, "hello"); err != nil {
				t.Fatal(err)
			}
			command, err := organization.OpenPeers(a.peersFolder()) // as a command on the same machine
			if err != nil {
				t.Fatal(err)
			}
			again := b.bundle(t, true)
			if err := c.out(command); err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Read(make([]byte, 1)); err == nil {
				t.Fatal("the stream lives on")
			}
			federationtest.Eventually(t, "the link is down", func() bool { return a.links.get(b.id.Node) == nil })
			federationtest.Eventually(t, "calls fail", func() bool { return errors.Is(ask(t.Context(), b, a.id.Node, "x"), wire.Unavailable) })
			federationtest.Eventually(t, "it is counted", func() bool {
				return a.metric(t, "mlsfed_federation_cut_total", "reason", reason) >= 3 // link, stream, calls
			})
			if !a.log.Has("level=WARN", "connections cut", string(b.id.Node), "reason="+reason) {
				t.Error("no log line")
			}
			if got := a.Nodes("b.example"); len(got) != 0 {
				t.Errorf("nodes %v", got)
			}
			if err := ask(t.Context(), a, b.id.Node, "x"); !errors.Is(err, wire.NotAdmitted) {
				t.Errorf("call to it: %v", err)
			}
			if c.in == nil {
				c.in = func(p *organization.Peers) error { return p.Add(again) }
			}
			if err := c.in(command); err != nil {
				t.Fatal(err)
			}
			connected(t, a, b)
		})
	}
}

// TestExpiredIsCut holds that a connection is cut when the certificate that it began with ends.
func TestExpiredIsCut(t *testing.T) {
	clock := federationtest.NewClock()
	now := clock.Now()
	short := func(o *organization.InitOptions) { o.Now, o.NodeLife = now, 24*time.Hour }
	long := func(o *organization.InitOptions) { o.Now = now }
	timed := func(c *Config) { c.Clock = clock }
	a, b := start(t, newOrganization(t, "a.example", long), timed), start(t, newOrganization(t, "b.example", short), timed, func(c *Config) {
		c.Identity.Authority = nil // its root key is elsewhere
	})
	b.admit(t, a) // first: a pause after a refusal would not end by this clock
	a.admitSeed(t, b)
	connected(t, a, b)
	clock.Advance(17 * time.Hour)
	federationtest.Eventually(t, "it is said that the certificate ends soon", func() bool {
		return b.log.Has("level=WARN", "certificate ends soon") && b.metric(t, "mlsfed_federation_renewals_total", "result", "due") >= 1
	})
	clock.Advance(8 * time.Hour)
	federationtest.Eventually(t, "the link is cut", func() bool {
		return a.links.get(b.id.Node) == nil && a.metric(t, "mlsfed_federation_cut_total", "reason", organization.ReasonExpired) >= 1
	})
	if !a.log.Has("connections cut", "reason=expired") {
		t.Error("no log line")
	}
}

// outsider is a node of an admitted organization that does as it likes: b.example's n9.
func outsider(t *testing.T, a, b *node) (*tls.Certificate, *tls.Conn) {
	t.Helper()
	c := credential(t, b.id.Authority, "n9.b.example", time.Now(), nil)
	conn, err := dialAs(t, a, c, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c, conn
}

// forge makes a record, signed by the credential. before changes the record before it is signed, after later.
func forge(t *testing.T, c *tls.Certificate, address string, number time.Time, before, after func(*organization.Record)) []byte {
	t.Helper()
	r := &organization.Record{
		Version: 1, Node: wire.NodeID(c.Leaf.DNSNames[0]), Address: address, Number: wire.TimeOf(number), Certificate: c.Leaf.Raw,
	}
	if before != nil {
		before(r)
	}
	unsigned, err := wire.Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	r.Signature = ed25519.Sign(c.PrivateKey.(ed25519.PrivateKey), append([]byte("mlsfed node record 1\x00"), unsigned...))
	if after != nil {
		after(r)
	}
	b, err := wire.Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sayHello opens a link on the connection.
func sayHello(t *testing.T, conn *tls.Conn, record []byte) {
	t.Helper()
	b, err := wire.Encode(&hello{Version: helloVersion, Instance: 1, Record: record})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(appendFrame([]byte{purposeLink}, frameHello, b)); err != nil {
		t.Fatal(err)
	}
}

// TestRecordsDropped holds that a record which is forged, replayed, oversized or of a stranger is dropped,
// logged and counted, and that the known one stays.
func TestRecordsDropped(t *testing.T) {
	a, b := federate(t)
	x := start(t, newOrganization(t, "x.example"))
	c, conn := outsider(t, a, b)
	now := time.Now()
	good := forge(t, c, "127.0.0.1:9", now, nil, nil)
	sayHello(t, conn, good)
	federationtest.Eventually(t, "the honest record is known", func() bool { return a.records.get("n9.b.example") != nil })
	for name, k := range map[string]struct {
		record []byte
		reason string
	}{
		"another's address":    {forge(t, c, "127.0.0.1:10", now.Add(time.Second), nil, func(r *organization.Record) { r.Address = "127.0.0.1:11" }), "forged"},
		"another node's name":  {forge(t, c, "127.0.0.1:10", now.Add(time.Second), func(r *organization.Record) { r.Node = b.id.Node }, nil), "forged"},
		"a stranger's signing": {forge(t, credential(t, x.id.Authority, "n9.b.example", now, nil), "127.0.0.1:10", now.Add(time.Second), nil, nil), organization.ReasonWrongOrganization},
		"a stranger":           {forge(t, credential(t, x.id.Authority, "n1.x.example", now, nil), "127.0.0.1:10", now, nil, nil), organization.ReasonNotAdmitted},
		"replayed":             {forge(t, c, "127.0.0.1:10", now.Add(-time.Second), nil, nil), recordReplayed},
		"same number":          {forge(t, c, "127.0.0.1:10", now, nil, nil), recordReplayed},
		"far ahead":            {forge(t, c, "127.0.0.1:10", now.Add(48*time.Hour), nil, nil), "future"},
		"oversized":            {append(bytes.Clone(good), make([]byte, 2<<10)...), "oversized"},
		"cut off":              {good[:len(good)-1], organization.ReasonMalformed},
		"expired": {forge(t, credential(t, b.id.Authority, "n8.b.example", now, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = now.Add(-2*time.Hour), now.Add(-time.Hour)
		}), "127.0.0.1:10", now, nil, nil), organization.ReasonExpired},
		"a device's": {forge(t, credential(t, b.id.Authority, "n8.b.example", now, func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "mimi", Host: "b.example", Path: "/d/alice/phone"}}
		}), "127.0.0.1:10", now, nil, nil), "forged"},
	} {
		t.Run(name, func(t *testing.T) {
			before := a.metric(t, "mlsfed_federation_records_dropped_total", "reason", k.reason)
			if _, err := conn.Write(appendFrame(nil, frameRecord, k.record)); err != nil {
				t.Fatal(err)
			}
			federationtest.Eventually(t, "it is counted", func() bool {
				return a.metric(t, "mlsfed_federation_records_dropped_total", "reason", k.reason) > before
			})
			if !a.log.Has("node record dropped", "reason="+k.reason) {
				t.Error("no log line")
			}
		})
	}
	if k := a.records.get("n9.b.example"); k.Address != "127.0.0.1:9" {
		t.Errorf("the known record now says %s", k.Address)
	}
	if k := a.records.get(b.id.Node); k.Address != b.Address() {
		t.Errorf("the known record now says %s", k.Address)
	}
}

// TestGossipMalformed holds that packets and streams which memberlist could be hurt by do not reach it.
func TestGossipMalformed(t *testing.T) {
	a, b := federate(t)
	for name, payload := range map[string][]byte{
		"compressed":        {9, 0x81},
		"encrypted":         {10, 0, 0, 0, 1},
		"labelled":          {244, 1, 'x'},
		"empty":             {},
		"nested compressed": {mlCompound, 1, 0, 2, 9, 0x81},
		"compound cut off":  {mlCompound, 3, 0, 2},
	} {
		t.Run(name, func(t *testing.T) {
			c, conn := outsider(t, a, b)
			sayHello(t, conn, forge(t, c, "127.0.0.1:9", time.Now(), nil, nil))
			before := a.metric(t, "mlsfed_federation_gossip_dropped_total", "reason", dropMalformed)
			if _, err := conn.Write(appendFrame(nil, framePacket, payload)); err != nil {
				t.Fatal(err)
			}
			federationtest.Eventually(t, "it is counted", func() bool {
				return a.metric(t, "mlsfed_federation_gossip_dropped_total", "reason", dropMalformed) > before
			})
			if !a.log.Has("gossip dropped", "n9.b.example", "reason=malformed") {
				t.Error("no log line")
			}
		})
	}
	t.Run("state of a billion nodes", func(t *testing.T) {
		_, conn := outsider(t, a, b)
		before := a.metric(t, "mlsfed_federation_gossip_dropped_total", "reason", dropMalformed)
		head := append([]byte{purposeStream, mlPushPull, 0x83, 0xa5}, "Nodes"...)
		if _, err := conn.Write(append(head, 0xce, 0x40, 0, 0, 0)); err != nil {
			t.Fatal(err)
		}
		federationtest.Eventually(t, "it is counted", func() bool {
			return a.metric(t, "mlsfed_federation_gossip_dropped_total", "reason", dropMalformed) > before
		})
	})
	connected(t, a, b)
}

// TestFloodOfGossip holds that packets over an organization's budget are dropped, logged and counted,
// while another organization's pass.
func TestFloodOfGossip(t *testing.T) {
	a, b := federate(t, func(c *Config) { c.Limits.GossipPackets, c.Limits.GossipBurst = 1e-6, 500 })
	other := start(t, newOrganization(t, "c.example"))
	a.admitSeed(t, other)
	other.admit(t, a)
	c, conn := outsider(t, a, b)
	sayHello(t, conn, forge(t, c, "127.0.0.1:9", time.Now(), nil, nil))
	frame := appendFrame(nil, framePacket, []byte{mlUser, 0})
	for range 1000 {
		if _, err := conn.Write(frame); err != nil {
			t.Fatal(err)
		}
	}
	federationtest.Eventually(t, "it is counted", func() bool {
		return a.metric(t, "mlsfed_federation_gossip_dropped_total", "reason", dropRate) >= 400
	})
	if !a.log.Has("gossip dropped", "n9.b.example", "reason=rate") {
		t.Error("no log line")
	}
	connected(t, a, other)
}

// TestFloodOfCalls holds the limits of calls at their edges: a call over the rate, the bytes or the number
// under way is refused with wire.Busy, logged and counted, and another organization's calls pass.
func TestFloodOfCalls(t *testing.T) {
	release := make(chan struct{})
	waiting := func(c *Config) {
		echoing(c)
		c.Handlers["wait"] = func(ctx context.Context, _ wire.NodeID, _ []byte) (any, error) {
			<-release
			return nil, nil
		}
	}
	for name, k := range map[string]struct {
		limit  func(*Limits)
		allow  int
		size   int
		method wire.Method
		say    string
	}{
		"rate":      {func(l *Limits) { l.Calls, l.CallBurst = 1e-6, 5 }, 5, 10, "echo", "reason=rate"},
		"bytes":     {func(l *Limits) { l.Bytes, l.ByteBurst = 1e-6, 5*1005 }, 5, 1000, "echo", "reason=rate"},
		"under way": {func(l *Limits) { l.UnderWay = 5 }, 5, 0, "wait", "reason=too_many"},
	} {
		t.Run(name, func(t *testing.T) {
			release = make(chan struct{})
			a, b := federate(t, waiting, func(c *Config) {
				k.limit(&c.Limits)
			})
			ended := make(chan error, k.allow+1)
			call := func() { ended <- b.Call(t.Context(), a.id.Node, k.method, &echo{make([]byte, k.size)}, nil) }
			if k.method == "wait" {
				for range k.allow {
					go call()
				}
				federationtest.Eventually(t, "all are under way", func() bool { return len(a.budgets.of("b.example").working) == k.allow })
				// The transport holds back what is over the streams of one connection: come another way.
				if err := rawCall(t, a, credential(t, b.id.Authority, "n9.b.example", time.Now(), nil), "wait", nil); !errors.Is(err, wire.Busy) {
					t.Errorf("the one too many: %v", err)
				}
			} else {
				for i := range k.allow {
					if call(); i < k.allow {
						if err := <-ended; err != nil {
							t.Fatalf("call %d: %v", i, err)
						}
					}
				}
				call()
				if err := <-ended; !errors.Is(err, wire.Busy) {
					t.Errorf("the one too many: %v", err)
				}
			}
			if !a.log.Has("call refused", "b.example", k.say) {
				t.Error("no log line")
			}
			if n := a.metric(t, "mlsfed_federation_calls_served_total", "code", "busy"); n != 1 {
				t.Errorf("metric %v", n)
			}
			close(release)
			if k.method == "wait" {
				for range k.allow {
					if err := <-ended; err != nil {
						t.Error(err)
					}
				}
			}
			other := start(t, newOrganization(t, "c.example"), echoing)
			a.admit(t, other)
			other.admitSeed(t, a)
			connected(t, a, other)
			if err := ask(t.Context(), other, a.id.Node, "x"); err != nil {
				t.Errorf("another organization: %v", err)
			}
		})
	}
}

// rawCall makes a call with a credential and a body of the test's choice, and returns the error that
// comes back.
func rawCall(t testing.TB, n *node, c *tls.Certificate, method string, body []byte, edit ...func(*http.Request)) error {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	transport := &http.Transport{Protocols: protocols, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*c}}}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+n.Address()+callPath+method, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	for _, e := range edit {
		e(r)
	}
	response, err := transport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.Header.Get("Content-Type") != errorType {
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d", response.StatusCode)
		}
		return nil
	}
	e := new(wire.Error)
	if err := wire.Decode(b, wire.MaxError, e); err != nil {
		return err
	}
	return e
}

// TestCallsRefused holds what is answered to calls that are too large, malformed, or for nothing.
func TestCallsRefused(t *testing.T) {
	a, b := federate(t, echoing, func(c *Config) { c.Limits.Request = 1000 })
	c := credential(t, b.id.Authority, "n9.b.example", time.Now(), nil)
	fits, err := wire.Encode(&echo{make([]byte, 1000-5)})
	if err != nil || len(fits) != 1000 {
		t.Fatalf("a body of %d bytes: %v", len(fits), err)
	}
	for name, k := range map[string]struct {
		method, label string
		body          []byte
		edit          func(*http.Request)
		want          wire.Code
		say           string
	}{
		"largest":        {"echo", "echo", fits, nil, "", ""},
		"too large":      {"echo", "echo", append(bytes.Clone(fits), 0), nil, wire.TooLarge, "reason=too_large"},
		"without length": {"echo", "echo", fits, func(r *http.Request) { r.ContentLength = -1 }, wire.TooLarge, "reason=too_large"},
		"not CBOR":       {"echo", "echo", []byte{0xff}, nil, wire.Malformed, "reason=malformed"},
		"cut off":        {"echo", "echo", fits[:10], nil, wire.Malformed, "reason=malformed"},
		"unknown method": {"nothing", unknownMethod, nil, nil, wire.Malformed, ""},
		"not a POST":     {"echo", "echo", nil, func(r *http.Request) { r.Method = http.MethodGet }, wire.Malformed, ""},
		"another type":   {"echo", "echo", fits, func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, wire.Malformed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			edit := func(r *http.Request) {
				if k.edit != nil {
					k.edit(r)
				}
			}
			before := a.metric(t, "mlsfed_federation_calls_served_total", "method", k.label, "code", string(k.want))
			err := rawCall(t, a, c, k.method, k.body, edit)
			if k.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, k.want) {
				t.Fatalf("got %v, wanted %v", err, k.want)
			}
			if n := a.metric(t, "mlsfed_federation_calls_served_total", "method", k.label, "code", string(k.want)); n != before+1 {
				t.Errorf("metric %v", n)
			}
			if k.say != "" && !a.log.Has("call refused", "n9.b.example", k.say) {
				t.Error("no log line")
			}
		})
	}
	if err := b.Call(t.Context(), a.id.Node, "echo", &echo{make([]byte, 1000)}, nil); !errors.Is(err, wire.TooLarge) {
		t.Errorf("own call over the limit: %v", err)
	}
}

// TestStalls holds that a peer which stops in the middle is dropped, logged and counted, whatever it was
// in the middle of.
func TestStalls(t *testing.T) {
	// Each deadline is short only where the test waits for it: a slow machine must not miss the others.
	quick := func(c *Config) { c.Timers.Stall = 200 * time.Millisecond }
	t.Run("handshake", func(t *testing.T) {
		a := start(t, newOrganization(t, "a.example"), func(c *Config) { c.Timers.Handshake = 100 * time.Millisecond })
		conn, err := net.Dial("tcp", a.Address())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte{22, 3, 1, 1}); err != nil {
			t.Fatal(err)
		}
		refusedFor(t, a, slowHandshake)
	})
	for name, part := range map[string][]byte{
		"length":  {0},
		"type":    {0, 0, 0, 9},
		"payload": append(binary.BigEndian.AppendUint32(nil, 9), framePacket, 1, 2),
	} {
		t.Run("frame's "+name, func(t *testing.T) {
			a, b := federate(t, quick)
			c, conn := outsider(t, a, b)
			sayHello(t, conn, forge(t, c, "127.0.0.1:9", time.Now(), nil, nil))
			federationtest.Eventually(t, "the link is up", func() bool { return a.links.get("n9.b.example") != nil })
			if _, err := conn.Write(part); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, conn); err != nil && strings.Contains(err.Error(), "timeout") {
				t.Fatal(err)
			}
			federationtest.Eventually(t, "it is counted", func() bool { return a.metric(t, "mlsfed_federation_cut_total", "reason", cutStalled) >= 1 })
			if !a.log.Has("link down", "n9.b.example", "reason=stalled") {
				t.Error("no log line")
			}
		})
	}
	t.Run("call's body", func(t *testing.T) {
		a, b := federate(t, echoing, quick)
		body, end := io.Pipe()
		defer end.Close()
		go func() { _, _ = end.Write([]byte{0xa1}) }()
		c := credential(t, b.id.Authority, "n9.b.example", time.Now(), nil)
		err := rawCall(t, a, c, "echo", nil, func(r *http.Request) { r.Body, r.ContentLength, r.GetBody = body, 100, nil })
		if err == nil {
			t.Fatal("it was answered")
		}
		federationtest.Eventually(t, "it is counted", func() bool { return a.metric(t, "mlsfed_federation_cut_total", "reason", cutStalled) >= 1 })
		if !a.log.Has("call cut", "n9.b.example", "reason=stalled") {
			t.Error("no log line")
		}
	})
}

// TestTooManyConnections holds the bounds on connections, of those unproved and of one organization.
func TestTooManyConnections(t *testing.T) {
	a, b := start(t, newOrganization(t, "a.example"), func(c *Config) {
		c.Limits.Connections, c.Limits.Admission.Unproved = 3, 2
	}), start(t, newOrganization(t, "b.example"))
	a.admit(t, b)
	c := credential(t, b.id.Authority, "n9.b.example", time.Now(), nil)
	for i := range 3 {
		if _, err := dialAs(t, a, c, nil); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	if _, err := dialAs(t, a, c, nil); err == nil {
		t.Fatal("the fourth was let in")
	}
	refusedFor(t, a, tooMany, "at most 3")
	for range 3 { // who is refused may learn it while it still dials
		if conn, err := net.Dial("tcp", a.Address()); err == nil {
			defer conn.Close()
		} else if !errors.Is(err, syscall.ECONNRESET) {
			t.Fatal(err)
		}
	}
	federationtest.Eventually(t, "the third that has not proved itself is refused", func() bool {
		return a.metric(t, "mlsfed_federation_refused_total", "reason", string(admission.Overloaded)) >= 1
	})
}
