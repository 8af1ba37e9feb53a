package gateway

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// TLSFiles serves the certificate and key of two PEM files. They are read now, and again when a client
// connects after they have changed; what cannot be read then is reported, and the former pair goes on to be
// served. report may be nil.
func TLSFiles(certificate, key string, report func(error)) (*tls.Config, error) {
	f := &tlsFiles{certificate: certificate, key: key, report: report}
	if report == nil {
		f.report = func(error) {}
	}
	state, err := f.look()
	if err != nil {
		return nil, fmt.Errorf("TLS: %w", err)
	}
	if f.pair, err = f.load(); err != nil {
		return nil, err
	}
	f.seen = state
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.current(), nil },
	}, nil
}

// tlsFiles is a pair of files, and what was last read from them.
type tlsFiles struct {
	certificate, key string
	report           func(error)

	loading sync.Mutex // held while the files are looked at, by one

	mu   sync.Mutex
	pair *tls.Certificate
	seen [2]fileState
}

// fileState is what changes with a file's content.
type fileState struct {
	size int64
	at   time.Time
}

// current is the pair to serve: one caller looks whether the files have changed, others go on with what
// there is.
func (f *tlsFiles) current() *tls.Certificate {
	if f.loading.TryLock() {
		defer f.loading.Unlock()
		f.refresh()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pair
}

// refresh reads the files if they have changed. A state that could not be read is reported once.
func (f *tlsFiles) refresh() {
	state, err := f.look()
	if err != nil {
		state = [2]fileState{} // as of no file
	}
	f.mu.Lock()
	same := state == f.seen
	f.seen = state
	f.mu.Unlock()
	if same {
		return
	}
	var pair *tls.Certificate
	if err == nil {
		pair, err = f.load()
	}
	if err != nil {
		f.report(fmt.Errorf("TLS: the certificate served so far stays: %w", err))
		return
	}
	f.mu.Lock()
	f.pair = pair
	f.mu.Unlock()
}

func (f *tlsFiles) look() (state [2]fileState, err error) {
	for i, name := range []string{f.certificate, f.key} {
		info, err := os.Stat(name)
		if err != nil {
			return state, err
		}
		state[i] = fileState{info.Size(), info.ModTime()}
	}
	return state, nil
}

func (f *tlsFiles) load() (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(f.certificate, f.key)
	if err != nil {
		return nil, fmt.Errorf("TLS: read %s and %s: %w", f.certificate, f.key, err)
	}
	return &pair, nil
}

// ACME gets certificates for domains from an ACME authority (RFC 8555) by the challenge tls-alpn-01, which
// needs port 443, and keeps them in a folder. directory is the authority's address, "" for Let's Encrypt. By
// calling it the operator agrees to the authority's terms. Nothing is asked of the authority before a
// client connects.
func ACME(folder, directory, email string, domains ...string) (*tls.Config, error) {
	if folder == "" || len(domains) == 0 {
		return nil, errors.New("ACME: a folder to keep certificates in and a domain must be given")
	}
	m := &autocert.Manager{
		Prompt: autocert.AcceptTOS, Cache: autocert.DirCache(folder),
		HostPolicy: autocert.HostWhitelist(domains...), Email: email,
	}
	if directory != "" {
		m.Client = &acme.Client{DirectoryURL: directory}
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     []string{"http/1.1", acme.ALPNProto},
		GetCertificate: m.GetCertificate,
	}, nil
}

// overHTTP1 takes HTTP/2 out of a configuration: WebSocket's handshake is of HTTP/1.1.
func overHTTP1(t *tls.Config) *tls.Config {
	t = t.Clone()
	t.NextProtos = slices.DeleteFunc(slices.Clone(t.NextProtos), func(p string) bool { return p == "h2" })
	if len(t.NextProtos) == 0 {
		t.NextProtos = []string{"http/1.1"}
	}
	return t
}
