package gateway

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/acme"
)

// authority is a small ACME server (RFC 8555) that knows one order. It checks control of the domain by
// tls-alpn-01 (RFC 8737) against a fixed address, and does not check signatures of requests.
type authority struct {
	t      *testing.T
	url    string
	target string // where the domain is
	root   *x509.Certificate
	key    *ecdsa.PrivateKey

	mu       sync.Mutex
	print    string // of the account's key
	domain   string
	proved   bool
	issued   []byte // PEM
	requests int
	orders   int
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, root: root, key: key}
	server := httptest.NewServer(http.HandlerFunc(a.serve))
	t.Cleanup(server.Close)
	a.url = server.URL
	return a
}

// body is what a signed request says, and the key that it names, if it does.
func (a *authority) body(r *http.Request) (payload []byte, jwk struct{ X, Y string }) {
	var jws struct{ Protected, Payload string }
	_ = json.NewDecoder(r.Body).Decode(&jws)
	protected, _ := base64.RawURLEncoding.DecodeString(jws.Protected)
	payload, _ = base64.RawURLEncoding.DecodeString(jws.Payload)
	var head struct{ JWK struct{ X, Y string } }
	_ = json.Unmarshal(protected, &head)
	return payload, head.JWK
}

// ordered is how many certificates were asked for.
func (a *authority) ordered() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.orders
}

func (a *authority) serve(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.requests++
	w.Header().Set("Replay-Nonce", fmt.Sprint("nonce-", a.requests))
	say := func(status int, location string, v any) {
		w.Header().Set("Content-Type", "application/json")
		if location != "" {
			w.Header().Set("Location", a.url+location)
		}
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	payload, jwk := a.body(r)
	switch r.URL.Path {
	case "/directory":
		say(200, "", map[string]string{"newNonce": a.url + "/nonce", "newAccount": a.url + "/account", "newOrder": a.url + "/order"})
	case "/nonce":
	case "/account":
		a.print = thumbprint(jwk.X, jwk.Y)
		say(201, "/account/1", map[string]string{"status": "valid"})
	case "/order":
		a.orders++
		var order struct{ Identifiers []struct{ Value string } }
		if json.Unmarshal(payload, &order) == nil && len(order.Identifiers) == 1 {
			a.domain = order.Identifiers[0].Value
		}
		say(201, "/order/1", a.order())
	case "/order/1":
		say(200, "/order/1", a.order())
	case "/authz":
		say(200, "", map[string]any{"status": a.status("pending"), "identifier": map[string]string{"type": "dns", "value": a.domain},
			"challenges": []any{a.challenge()}})
	case "/challenge":
		a.proved = a.check()
		say(200, "", a.challenge())
	case "/finalize":
		var q struct{ CSR string }
		_ = json.Unmarshal(payload, &q)
		a.issue(q.CSR)
		say(200, "/order/1", a.order())
	case "/certificate":
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		_, _ = w.Write(a.issued)
	default:
		w.WriteHeader(404)
	}
}

func (a *authority) status(before string) string {
	if a.proved {
		return "valid"
	}
	return before
}

func (a *authority) order() map[string]any {
	status := "pending"
	switch {
	case a.issued != nil:
		status = "valid"
	case a.proved:
		status = "ready"
	}
	return map[string]any{"status": status, "identifiers": []any{map[string]string{"type": "dns", "value": a.domain}},
		"authorizations": []string{a.url + "/authz"}, "finalize": a.url + "/finalize", "certificate": a.url + "/certificate"}
}

func (a *authority) challenge() map[string]string {
	return map[string]string{"type": "tls-alpn-01", "url": a.url + "/challenge", "token": "token-1", "status": a.status("pending")}
}

// thumbprint is that of RFC 7638, of a P-256 key.
func thumbprint(x, y string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, `{"crv":"P-256","kty":"EC","x":%q,"y":%q}`, x, y))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// check connects to the domain as RFC 8737 §3 says, and wants the hash of the key authorization.
func (a *authority) check() bool {
	c, err := tls.Dial("tcp", a.target, &tls.Config{ServerName: a.domain, NextProtos: []string{acme.ALPNProto}, InsecureSkipVerify: true})
	if err != nil {
		a.t.Errorf("the authority cannot connect: %v", err)
		return false
	}
	defer c.Close()
	sum := sha256.Sum256([]byte("token-1." + a.print))
	want, err := asn1.Marshal(sum[:])
	if err != nil || c.ConnectionState().NegotiatedProtocol != acme.ALPNProto {
		return false
	}
	for _, e := range c.ConnectionState().PeerCertificates[0].Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}) {
			return e.Critical && bytes.Equal(e.Value, want)
		}
	}
	return false
}

func (a *authority) issue(csr string) {
	der, _ := base64.RawURLEncoding.DecodeString(csr)
	q, err := x509.ParseCertificateRequest(der)
	if err != nil || q.CheckSignature() != nil || !a.proved {
		a.t.Errorf("a request that is not to be signed: %v", err)
		return
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: q.DNSNames, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(30 * 24 * time.Hour)}
	leaf, err := x509.CreateCertificate(rand.Reader, template, a.root, q.PublicKey, a.key)
	if err != nil {
		a.t.Error(err)
		return
	}
	a.issued = append(pemOf("CERTIFICATE", leaf), pemOf("CERTIFICATE", a.root.Raw)...)
}

// TestACME has a certificate issued when the first client connects, and takes it from the folder later.
func TestACME(t *testing.T) {
	a, folder := newAuthority(t), t.TempDir()
	roots := x509.NewCertPool()
	roots.AddCert(a.root)
	for _, time := range []string{"first", "second"} {
		before := a.ordered()
		config, err := ACME(folder, a.url+"/directory", "", "node.a.example")
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, nil)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		a.target = l.Addr().String()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- w.Serve(ctx, l, config) }()
		w.url = "wss://" + a.target + "/v1/ws"
		d := w.dialer()
		d.TLSClientConfig = &tls.Config{RootCAs: roots, ServerName: "node.a.example"}
		conn, _, err := d.Dial(w.url, nil)
		if err != nil {
			t.Fatalf("the %s time: %v", time, err)
		}
		_ = conn.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if files, err := os.ReadDir(folder); err != nil || len(files) == 0 {
			t.Errorf("nothing is kept: %v", err)
		}
		if asked := a.ordered() > before; asked != (time == "first") {
			t.Errorf("the %s time the authority was asked: %v", time, asked)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}
