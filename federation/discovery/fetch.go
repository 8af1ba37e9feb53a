package discovery

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/mlsfed/mlsfed/federation/internal/netkind"
	"github.com/mlsfed/mlsfed/federation/lineage"
	"github.com/mlsfed/mlsfed/wire"
)

// Path is the path of the document on the web server of a domain.
const Path = "/.well-known/mlsfed.json"

// Settings let look-ups work without the internet: in tests, in containers, between networks of one company.
type Settings struct {
	DNS      string                         // "10.0.0.53:53", which is asked directly; "": the system's
	Roots    *x509.CertPool                 // of web servers; nil: the system's
	Hosts    map[wire.Domain]netip.AddrPort // web servers of domains, instead of TXT record and addresses: the operator vouches for them
	Networks []netip.Prefix                 // inner networks that names may lead to
	Timeouts Timeouts                       // a zero deadline: the one of DefaultTimeouts
	Now      func() time.Time               // nil: time.Now
	Machine  func(netip.Addr) bool          // reports the addresses of this machine; nil: its interfaces
	Dialed   func(netip.AddrPort)           // notified of each connection that is attempted; nil: nobody
	Port     uint16                         // of web servers; 0: 443. For tests
}

// Finder looks organizations up. It is safe for concurrent use.
type Finder struct {
	settings Settings
	timeouts Timeouts
}

// NewFinder returns a Finder.
func NewFinder(s Settings) (*Finder, error) {
	if s.DNS != "" {
		if _, err := netip.ParseAddrPort(s.DNS); err != nil {
			return nil, fmt.Errorf("discovery.dns %q: wanted the IP address and port of a name server, as 10.0.0.53:53", s.DNS)
		}
	}
	for d, at := range s.Hosts {
		if err := d.Check(); err != nil {
			return nil, fmt.Errorf("discovery.hosts: %w", err)
		}
		if !at.IsValid() || at.Port() == 0 {
			return nil, fmt.Errorf("discovery.hosts: %s: wanted the IP address and port of a web server, as 10.0.0.7:443", d)
		}
	}
	for _, p := range s.Networks {
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
			return nil, fmt.Errorf("discovery.networks: %s: wanted a network as 10.0.0.0/8, with no bits after its length", p)
		}
	}
	if s.Now == nil {
		s.Now = time.Now
	}
	if s.Machine == nil {
		s.Machine = netkind.OfMachine
	}
	s.Port = cmp.Or(s.Port, 443)
	t, usual := s.Timeouts, DefaultTimeouts()
	return &Finder{settings: s, timeouts: Timeouts{
		DNS: cmp.Or(t.DNS, usual.DNS), Connect: cmp.Or(t.Connect, usual.Connect), TLS: cmp.Or(t.TLS, usual.TLS),
		Header: cmp.Or(t.Header, usual.Header), Total: cmp.Or(t.Total, usual.Total),
	}}, nil
}

// Found is the result of a look-up.
type Found struct {
	Document *lineage.Document
	// ID is the lineage in the TXT record, which Document has; nil if Settings.Hosts replaces the TXT record.
	ID *wire.Hash
}

// Find looks an organization up. The document is verified, is of the lineage in the TXT record, and is not from the
// future; lineage.First and Pin.Compare decide what it changes. The error is an *Error.
func (f *Finder) Find(ctx context.Context, d wire.Domain) (*Found, error) {
	if err := d.Check(); err != nil {
		return nil, refuse(ReasonName, "", "%v", err)
	}
	if err := CheckName(d); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeouts.Total)
	defer cancel()
	host := "mlsfed." + string(d)
	found := new(Found)
	var addresses []netip.AddrPort
	if at, ok := f.settings.Hosts[d]; ok {
		addresses = []netip.AddrPort{at}
	} else {
		if special(d) && f.settings.DNS == "" {
			return nil, refuse(ReasonName, d, "%s cannot be found: only a name server of your own network answers for it, and discovery.dns names none", d)
		}
		id, err := f.lookupTXT(ctx, d)
		if err != nil {
			return nil, err
		}
		list, err := f.lookupAddresses(ctx, d, host)
		if err != nil {
			return nil, err
		}
		for _, a := range list {
			addresses = append(addresses, netip.AddrPortFrom(a, f.settings.Port))
		}
		found.ID = &id
	}
	body, err := f.fetch(ctx, d, host, addresses)
	if err != nil {
		return nil, err
	}
	if found.Document, err = lineage.ParseDocument(body, d); err == nil {
		err = found.Document.CheckAhead(f.settings.Now())
	}
	if err == nil && found.ID != nil {
		err = found.Document.CheckID(*found.ID)
	}
	if err != nil {
		return nil, refuse(ReasonDocument, d, "%v", err).because(err)
	}
	return found, nil
}

// permitted returns the kind of an inner address, or Public if this node may connect to the address.
func (f *Finder) kind(a netip.Addr) netkind.Kind {
	for _, n := range f.settings.Networks {
		if n.Contains(a.Unmap()) && a.Zone() == "" {
			return netkind.Public
		}
	}
	k := netkind.OfUnknown(a)
	if k == netkind.Public && f.settings.Machine(a) {
		return netkind.Machine
	}
	return k
}

// checkAddress refuses an address that is not of the public internet and not permitted.
func (f *Finder) checkAddress(d wire.Domain, host string, a netip.Addr) error {
	switch k := f.kind(a); k {
	case netkind.Public:
		return nil
	case netkind.Private, netkind.Loopback, netkind.Shared:
		return refuse(ReasonInner, d, "%s is %s, an inner address: allow it in discovery.networks if that is right", host, a)
	default:
		return refuse(ReasonInner, d, "%s is %s, an inner address (%s): allow it in discovery.networks if that is right", host, a, k)
	}
}

// dial connects to the first of the addresses that answers. The addresses were checked; Control checks the address
// that the socket is about to connect to again, so that no later change of this function can dial an unchecked one.
func (f *Finder) dial(ctx context.Context, d wire.Domain, host string, addresses []netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeouts.Connect)
	defer cancel()
	deadline, _ := ctx.Deadline()
	_, vouched := f.settings.Hosts[d]
	dialer := &net.Dialer{KeepAlive: -1, Control: func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if !vouched {
			if err := f.checkAddress(d, host, at.Addr()); err != nil {
				return err
			}
		}
		if f.settings.Dialed != nil {
			f.settings.Dialed(at)
		}
		return nil
	}}
	var failed error
	for i, at := range addresses {
		// Each address gets an equal share of the time that is left.
		share := time.Until(deadline) / time.Duration(len(addresses)-i)
		attempt, done := context.WithTimeout(ctx, share)
		conn, err := dialer.DialContext(attempt, "tcp", at.String())
		done()
		if err == nil {
			return &boundedConn{Conn: conn, left: maxReceived}, nil
		}
		failed = errors.Join(failed, err)
	}
	return nil, refuse(ReasonConnect, d, "no connection to %s: its web server does not answer at %s", host, addresses[0]).because(failed)
}

// errReceived is the error of a connection that has read maxReceived bytes.
var errReceived = errors.New("the connection has received too many bytes")

// boundedConn bounds the bytes that are read, whatever the protocols above it are made to do.
type boundedConn struct {
	net.Conn
	left int
}

func (c *boundedConn) Read(b []byte) (int, error) {
	if c.left <= 0 {
		return 0, errReceived
	}
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}

// fetch gets the document with one request.
func (f *Finder) fetch(ctx context.Context, d wire.Domain, host string, addresses []netip.AddrPort) ([]byte, error) {
	url := "https://" + host + Path
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, refuse(ReasonName, d, "%s is no host name", host).because(err)
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("Accept-Encoding", "identity")
	request.Header.Set("User-Agent", "mlsfed")
	request.Close = true
	transport := &http.Transport{
		// Proxy stays nil: a proxy resolves names itself. The transport itself follows no redirect and keeps no cookie.
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: MaxHeader,
		TLSHandshakeTimeout: f.timeouts.TLS, ResponseHeaderTimeout: f.timeouts.Header,
		TLSClientConfig: &tls.Config{
			ServerName: host, RootCAs: f.settings.Roots, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, Time: f.settings.Now,
		},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return f.dial(ctx, d, host, addresses) },
	}
	defer transport.CloseIdleConnections()
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return nil, f.failure(d, host, err)
	}
	defer answer.Body.Close()
	if err := checkAnswer(d, url, answer); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, MaxBody+1))
	if ctx.Err() != nil { // the server may end a body when the client begins to close: such a body is not whole
		err = ctx.Err()
	}
	switch {
	case len(body) > MaxBody:
		return nil, refuse(ReasonSize, d, "%s answers with more than %d KiB, which is no document of mlsfed", url, MaxBody>>10)
	case err != nil:
		return nil, f.failure(d, host, err)
	}
	return body, nil
}

// checkAnswer checks status and headers.
func checkAnswer(d wire.Domain, url string, answer *http.Response) error {
	kind, _, _ := mime.ParseMediaType(answer.Header.Get("Content-Type"))
	switch {
	case answer.StatusCode >= 300 && answer.StatusCode < 400:
		return refuse(ReasonRedirect, d, "%s redirects to %.200s, which is not followed", url, answer.Header.Get("Location"))
	case answer.StatusCode != http.StatusOK:
		return refuse(ReasonStatus, d, "%s answers with status %d: its operator has to publish mlsfed.json there", url, answer.StatusCode)
	case answer.Header.Get("Content-Encoding") != "":
		return refuse(ReasonContent, d, "%s answers with a packed body, which was not asked for: its operator has to mend that", url)
	case kind == "text/html" || kind == "application/xhtml+xml":
		return refuse(ReasonContent, d, "%s answers with a web page, not with mlsfed.json", url)
	case kind != "application/json":
		return refuse(ReasonContent, d, "%s answers with the type %.80q, not with application/json: its operator has to mend that", url, kind)
	case answer.ContentLength > MaxBody:
		return refuse(ReasonSize, d, "%s answers with more than %d KiB, which is no document of mlsfed", url, MaxBody>>10)
	}
	return nil
}

// failure makes the error of a request that got no answer, or only a part of one.
func (f *Finder) failure(d wire.Domain, host string, err error) *Error {
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	var verification *tls.CertificateVerificationError
	var timeout net.Error
	url := "https://" + host
	switch {
	case errors.As(err, &name):
		return refuse(ReasonCertificate, d, "%s has a certificate for %.200s: its operator has to mend that", url,
			cmp.Or(strings.Join(name.Certificate.DNSNames, ", "), "no name")).because(err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return refuse(ReasonCertificate, d, "%s has a certificate that is valid from %s to %s: its operator has to mend that", url,
			invalid.Cert.NotBefore.UTC().Format(time.DateOnly), invalid.Cert.NotAfter.UTC().Format(time.DateOnly)).because(err)
	case errors.As(err, &unknown):
		return refuse(ReasonCertificate, d, "%s has a certificate that no authority has signed which this node trusts: its operator has to mend that", url).because(err)
	case errors.As(err, &verification):
		return refuse(ReasonCertificate, d, "%s has a certificate that is not valid: its operator has to mend that", url).because(err)
	case errors.Is(err, errReceived):
		return refuse(ReasonSize, d, "%s answers with more than %d KiB, which is no document of mlsfed", url, maxReceived>>10).because(err)
	case strings.Contains(err.Error(), "server response headers exceeded"):
		return refuse(ReasonSize, d, "%s answers with more than %d KiB of headers: its operator has to mend that", url, MaxHeader>>10).because(err)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return refuse(ReasonTimeout, d, "%s does not answer in time: try again", url).because(err)
	}
	return refuse(ReasonConnect, d, "%s gives no proper answer: try again, or ask its operator", url).because(err)
}
