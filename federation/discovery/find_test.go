package discovery

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/mlsfed/mlsfed/federation/lineage"
	"github.com/mlsfed/mlsfed/wire"
)

// TestFind finds an organization, with the configured name server and by the operator's table of hosts.
func TestFind(t *testing.T) {
	w := newWorld(t)
	port := w.serve(t, w.ca.issue(t, nil, "mlsfed.b.example"))
	found, err := w.find(t, w.finder(t, port, nil))
	if err != nil {
		t.Fatal(err)
	}
	if found.ID == nil || *found.ID != w.doc.Lineage || found.Document.Link != w.doc.Link || len(found.Document.Records) != 1 {
		t.Errorf("found %+v", found)
	}
	if p, err := lineage.First(found.Document, found.ID, time.Now()); err != nil || p.Link() != w.doc.Link {
		t.Errorf("the document cannot be pinned: %v", err)
	}
	queries := w.zone.asked("")
	found, err = w.find(t, w.finder(t, port, func(s *Settings) {
		s.Hosts = map[wire.Domain]netip.AddrPort{orgDomain: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)}
		s.Networks = nil
	}))
	if err != nil || found.ID != nil || found.Document.Link != w.doc.Link {
		t.Errorf("by the table of hosts: %+v, %v", found, err)
	}
	if n := w.zone.asked(""); n != queries {
		t.Errorf("a domain in the table of hosts is asked for: %d queries, %d before", n, queries)
	}
}

// row is one way in which the web or the name servers are hostile or wrong.
type row struct {
	name     string
	zone     func(*zone)
	web      http.HandlerFunc
	cert     func(testing.TB, *world) tls.Certificate
	settings func(*Settings)
	want     Reason
	sentence string // with %PORT for the port
	dials    int    // connections that may be attempted
	fetched  int
}

// hang keeps a handler until the client leaves.
func hang(r *http.Request) { <-r.Context().Done() }

// json begins a JSON answer.
func json(rw http.ResponseWriter) {
	rw.Header().Set("Content-Type", "application/json")
	rw.WriteHeader(http.StatusOK)
	rw.(http.Flusher).Flush()
}

// short are deadlines for web servers that do not answer.
func short(s *Settings) {
	s.Timeouts = Timeouts{DNS: 300 * time.Millisecond, Header: 300 * time.Millisecond, TLS: 300 * time.Millisecond, Total: 600 * time.Millisecond}
}

func webRows() []row {
	url := "https://mlsfed.b.example/.well-known/mlsfed.json"
	redirect := func(to string) http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, to, http.StatusFound) }
	}
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(make([]byte, 8<<20))
	_ = z.Close()
	return []row{
		{name: "redirect", web: redirect("https://www.b.example/mlsfed.json"), want: ReasonRedirect, sentence: url + " redirects to https://www.b.example/mlsfed.json, which is not followed"},
		{name: "redirect to an inner address", web: redirect("http://169.254.169.254/latest"), want: ReasonRedirect, sentence: url + " redirects to http://169.254.169.254/latest, which is not followed"},
		{
			name: "certificate of another name", cert: func(t testing.TB, w *world) tls.Certificate { return w.ca.issue(t, nil, "www.b.example") },
			want: ReasonCertificate, sentence: "https://mlsfed.b.example has a certificate for www.b.example: its operator has to mend that",
		},
		{
			name: "expired certificate", cert: func(t testing.TB, w *world) tls.Certificate {
				return w.ca.issue(t, func(c *x509.Certificate) {
					c.NotBefore, c.NotAfter = time.Date(2020, 1, 2, 0, 0, 0, 0, time.UTC), time.Date(2020, 3, 4, 0, 0, 0, 0, time.UTC)
				}, "mlsfed.b.example")
			},
			want: ReasonCertificate, sentence: "https://mlsfed.b.example has a certificate that is valid from 2020-01-02 to 2020-03-04: its operator has to mend that",
		},
		{
			name: "self-signed certificate", cert: func(t testing.TB, _ *world) tls.Certificate {
				return (*authority)(nil).issue(t, nil, "mlsfed.b.example")
			},
			want: ReasonCertificate, sentence: "https://mlsfed.b.example has a certificate that no authority has signed which this node trusts",
		},
		{
			name: "4 MiB", web: func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("Content-Type", "application/json")
				rw.Header().Set("Content-Length", fmt.Sprint(4<<20))
				_, _ = rw.Write(make([]byte, 4<<20))
			},
			want: ReasonSize, sentence: url + " answers with more than 96 KiB, which is no document of mlsfed",
		},
		{
			name: "endless body", web: func(rw http.ResponseWriter, r *http.Request) {
				for json(rw); r.Context().Err() == nil; {
					if _, err := rw.Write(make([]byte, 4096)); err != nil {
						return
					}
				}
			},
			want: ReasonSize, sentence: url + " answers with more than 96 KiB, which is no document of mlsfed",
		},
		{
			name: "slow body", settings: short, web: func(rw http.ResponseWriter, r *http.Request) {
				tick := time.NewTicker(20 * time.Millisecond)
				defer tick.Stop()
				for json(rw); ; rw.(http.Flusher).Flush() {
					select {
					case <-r.Context().Done():
						return
					case <-tick.C:
						_, _ = rw.Write([]byte(" "))
					}
				}
			},
			want: ReasonTimeout, sentence: "https://mlsfed.b.example does not answer in time: try again",
		},
		{
			name: "4,000 headers", web: func(rw http.ResponseWriter, _ *http.Request) {
				for i := range 4000 {
					rw.Header().Set(fmt.Sprint("X-", i), "yyyyyyyyyyyyyyyy")
				}
			},
			want: ReasonSize, sentence: "https://mlsfed.b.example answers with more than 8 KiB of headers",
		},
		{
			name: "gzip bomb", web: func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("Content-Type", "application/json")
				rw.Header().Set("Content-Encoding", "gzip")
				_, _ = rw.Write(bomb.Bytes())
			},
			want: ReasonContent, sentence: url + " answers with a packed body, which was not asked for",
		},
		{
			name: "HTML", web: func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write([]byte("<!doctype html><html></html>")) },
			want: ReasonContent, sentence: url + " answers with a web page, not with mlsfed.json",
		},
		{
			name: "plain text", web: func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write([]byte("hello")) },
			want: ReasonContent, sentence: url + ` answers with the type "text/plain", not with application/json`,
		},
		{name: "not found", web: http.NotFound, want: ReasonStatus, sentence: url + " answers with status 404: its operator has to publish mlsfed.json there"},
		{
			name: "no document", web: func(rw http.ResponseWriter, _ *http.Request) { json(rw); _, _ = rw.Write([]byte("{}")) },
			want: ReasonDocument, sentence: "b.example publishes a document that is damaged: 0 keys",
		},
		{name: "no headers", settings: short, web: func(_ http.ResponseWriter, r *http.Request) { hang(r) }, want: ReasonTimeout, sentence: "https://mlsfed.b.example does not answer in time"},
		{name: "no body", settings: short, web: func(rw http.ResponseWriter, r *http.Request) { json(rw); hang(r) }, want: ReasonTimeout, sentence: "https://mlsfed.b.example does not answer in time"},
	}
}

// TestFetchHostile checks each hostile web server: its sentence, and that nothing is left of the look-up.
func TestFetchHostile(t *testing.T) {
	for _, r := range webRows() {
		r.dials, r.fetched = 1, 1
		if r.cert != nil {
			r.fetched = 0
		}
		t.Run(r.name, func(t *testing.T) { checkRow(t, r) })
	}
}

func dnsRows() []row {
	host, name := "mlsfed.b.example", "_mlsfed.b.example"
	txt := func(records ...[]string) func(*zone) { return func(z *zone) { z.txt[name] = records } }
	id := strings.Repeat("ab", 32)
	rows := []row{
		{name: "no TXT", zone: txt(), want: ReasonNoTXT, sentence: "b.example has no mlsfed: there is no TXT record _mlsfed.b.example. Is the name right?"},
		{name: "another TXT", zone: txt([]string{"v=spf1 -all"}), want: ReasonNoTXT, sentence: "b.example has no mlsfed"},
		{name: "SERVFAIL", zone: func(z *zone) { z.code[name] = dnsmessage.RCodeServerFailure }, want: ReasonDNS, sentence: "the name servers of b.example do not answer: try again"},
		{name: "NXDOMAIN", zone: func(z *zone) { delete(z.txt, name); z.code[name] = dnsmessage.RCodeNameError }, want: ReasonNoTXT, sentence: "b.example has no mlsfed"},
		{name: "no answer for TXT", settings: short, zone: func(z *zone) { z.dead[name] = true }, want: ReasonDNS, sentence: "the name servers of b.example do not answer: try again"},
		{name: "no answer for addresses", settings: short, zone: func(z *zone) { z.dead[host] = true }, want: ReasonDNS, sentence: "the name servers of b.example do not answer: try again"},
		{name: "no address", zone: func(z *zone) { delete(z.addresses, host) }, want: ReasonNoAddress, sentence: "mlsfed.b.example has no address, though b.example has a TXT record for mlsfed"},
		{name: "TXT twice", zone: txt([]string{"v=mlsfed1; id=" + id}, []string{"v=mlsfed1; id=" + id}), want: ReasonTXT, sentence: "b.example has 2 TXT records _mlsfed.b.example, and one is right"},
		{name: "TXT too long", zone: txt([]string{"v=mlsfed1; id=" + id, strings.Repeat("x", 255), strings.Repeat("x", 255)}), want: ReasonTXT, sentence: "the TXT record _mlsfed.b.example has 588 bytes, at most 512"},
		{name: "TXT of another version", zone: txt([]string{"v=mlsfed2; id=" + id}), want: ReasonTXT, sentence: `the TXT record _mlsfed.b.example begins with "v=mlsfed2", and this node knows v=mlsfed1`},
		{name: "TXT with a wrong id", zone: txt([]string{"v=mlsfed1; id=abc"}), want: ReasonTXT, sentence: "the TXT record _mlsfed.b.example is not as v=mlsfed1; id=<64 hexadecimal digits>"},
		{name: "TXT with another id", zone: txt([]string{"v=mlsfed1; id=" + id}), want: ReasonDocument, sentence: "b.example's statement has another id than its TXT record", dials: 1, fetched: 1},
		{
			name: "A and AAAA mixed", zone: func(z *zone) { z.addresses[host] = []string{"127.0.0.1", "fd00::7"} }, want: ReasonInner,
			sentence: "mlsfed.b.example is fd00::7, an inner address: allow it in discovery.networks if that is right",
		},
		{
			name: "CNAME to inside", zone: func(z *zone) {
				z.cname[host], z.addresses["db.internal.b.example"] = "db.internal.b.example", []string{"10.0.0.7"}
			}, want: ReasonInner, sentence: "mlsfed.b.example is 10.0.0.7, an inner address",
		},
		{name: "17 addresses", zone: func(z *zone) {
			for i := range 17 {
				z.addresses[host] = append(z.addresses[host], fmt.Sprint("8.8.8.", i))
			}
		}, want: ReasonNoAddress, sentence: "mlsfed.b.example has 18 addresses, at most 16"},
	}
	for kind, address := range map[string]string{
		"loopback": "127.0.0.2", "loopback 6": "::1", "private": "10.0.0.7", "unique local": "fd00::1", "carrier": "100.64.0.1", "link-local": "169.254.1.1",
		"link-local 6": "fe80::1", "metadata": "169.254.169.254", "multicast": "224.0.0.1", "unspecified": "0.0.0.0", "unspecified 6": "::", "broadcast": "255.255.255.255",
		"documentation": "192.0.2.1", "documentation 6": "2001:db8::1", "benchmarks": "198.18.0.1", "mapped": "::ffff:10.0.0.1", "6to4": "2002:a00:1::1",
		"6to4 of a public address": "2002:808:808::1", "Teredo": "2001:0:808:808::1", "NAT64": "64:ff9b::a00:1", "local NAT64": "64:ff9b:1::808:808", "relay": "192.88.99.1",
	} {
		shown := netip.MustParseAddr(address).Unmap().String()
		if address == "::" {
			shown = "0.0.0.0" // package net returns it so
		}
		rows = append(rows, row{
			name: "inner address, " + kind, zone: func(z *zone) { z.addresses[host] = []string{address} }, want: ReasonInner,
			sentence: "mlsfed.b.example is " + shown + ", an inner address",
		})
	}
	return rows
}

// TestNamesHostile checks each hostile or wrong answer of name servers. No inner address is dialed; without a TXT
// record nothing is fetched and no address is asked for.
func TestNamesHostile(t *testing.T) {
	for _, r := range dnsRows() {
		t.Run(r.name, func(t *testing.T) { checkRow(t, r) })
	}
}

func checkRow(t *testing.T, r row) {
	w := newWorld(t)
	certificate := tls.Certificate{}
	if r.cert != nil {
		certificate = r.cert(t, w)
	} else {
		certificate = w.ca.issue(t, nil, "mlsfed.b.example")
	}
	if r.web != nil {
		w.web = r.web
	}
	if r.zone != nil {
		w.zone.edit(r.zone)
	}
	f := w.finder(t, w.serve(t, certificate), r.settings)
	before := goleak.IgnoreCurrent()
	_, err := w.find(t, f)
	checkError(t, err, r.want, r.sentence)
	goleak.VerifyNone(t, before)
	if n := w.requests(); len(w.dialed) != r.dials || n != r.fetched {
		t.Errorf("dialed %v and fetched %d times, wanted %d and %d", w.dialed, n, r.dials, r.fetched)
	}
	if n := w.zone.asked("A mlsfed.b.example"); r.want == ReasonNoTXT && n > 0 {
		t.Errorf("%d queries for the address of a domain without mlsfed", n)
	}
}

func checkError(t *testing.T, err error, want Reason, sentence string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Reason != want || !strings.Contains(e.Text, sentence) {
		t.Errorf("%v (%T), wanted reason %s and %q", err, err, want, sentence)
	}
}

// TestAnotherAddressAtEachQuery checks that the address that was checked is the one that is dialed, when each query
// gets another answer: one query of a look-up counts.
func TestAnotherAddressAtEachQuery(t *testing.T) {
	w := newWorld(t)
	w.zone.edit(func(z *zone) {
		delete(z.addresses, "mlsfed.b.example")
		z.rotate["mlsfed.b.example"] = []string{"127.0.0.1", "10.0.0.7", "127.0.0.1", "169.254.169.254"}
	})
	f := w.finder(t, w.serve(t, w.ca.issue(t, nil, "mlsfed.b.example")), nil)
	for i, want := range []string{"", "10.0.0.7", "", "169.254.169.254"} {
		_, err := w.find(t, f)
		if want == "" && err != nil {
			t.Errorf("look-up %d: %v", i, err)
		} else if want != "" {
			checkError(t, err, ReasonInner, "mlsfed.b.example is "+want+", an inner address")
		}
	}
	for _, at := range w.dialed {
		if at.Addr().String() != "127.0.0.1" {
			t.Errorf("%s was dialed", at)
		}
	}
	if n := w.zone.asked("A mlsfed.b.example"); len(w.dialed) != 2 || n != 4 {
		t.Errorf("%d connections, %d queries for the address", len(w.dialed), n)
	}
}

// TestDialerChecksAgain checks that the dialer refuses an inner address that no earlier check has seen.
func TestDialerChecksAgain(t *testing.T) {
	w := newWorld(t)
	f := w.finder(t, 443, func(s *Settings) { s.Networks = nil })
	_, err := f.dial(t.Context(), orgDomain, "mlsfed.b.example", []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:9"), netip.MustParseAddrPort("[::1]:9")})
	checkError(t, err, ReasonConnect, "no connection to mlsfed.b.example")
	if len(w.dialed) != 0 {
		t.Errorf("dialed %v", w.dialed)
	}
}

// TestAddressOfThisMachine checks that a public address of this machine is an inner one.
func TestAddressOfThisMachine(t *testing.T) {
	w := newWorld(t)
	w.zone.edit(func(z *zone) { z.addresses["mlsfed.b.example"] = []string{"8.8.8.8"} })
	_, err := w.find(t, w.finder(t, 443, func(s *Settings) { s.Machine = func(a netip.Addr) bool { return a.String() == "8.8.8.8" } }))
	checkError(t, err, ReasonInner, "mlsfed.b.example is 8.8.8.8, an inner address (an address of this machine)")
	if len(w.dialed) != 0 {
		t.Errorf("dialed %v", w.dialed)
	}
}

// TestUnresponsiveServers checks web servers that accept connections and say nothing, or end them.
func TestUnresponsiveServers(t *testing.T) {
	for name, c := range map[string]struct {
		close    bool
		want     Reason
		sentence string
	}{
		"no TLS":         {false, ReasonTimeout, "https://mlsfed.b.example does not answer in time: try again"},
		"closed at once": {true, ReasonConnect, "https://mlsfed.b.example gives no proper answer"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			before := goleak.IgnoreCurrent()
			done := make(chan struct{})
			go func() {
				defer close(done)
				conn, err := l.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				for b := make([]byte, 4096); !c.close; {
					if _, err := conn.Read(b); err != nil {
						return // the client has left
					}
				}
			}()
			_, err = w.find(t, w.finder(t, netip.MustParseAddrPort(l.Addr().String()).Port(), short))
			checkError(t, err, c.want, c.sentence)
			l.Close()
			<-done
			goleak.VerifyNone(t, before)
		})
	}
}

// TestReceivedBytesAreBounded checks the last bound on what a web server can send, below TLS.
func TestReceivedBytesAreBounded(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := make([]byte, 4096); ; {
			if _, err := there.Write(b); err != nil {
				return
			}
		}
	}()
	c := &boundedConn{Conn: here, left: maxReceived}
	n, b := 0, make([]byte, 10000)
	for {
		m, err := c.Read(b)
		n += m
		if err != nil {
			if !errors.Is(err, errReceived) {
				t.Error(err)
			}
			break
		}
	}
	if n != maxReceived || maxReceived > 1<<20 {
		t.Errorf("%d bytes were read, wanted %d", n, maxReceived)
	}
	here.Close()
	<-done
}
