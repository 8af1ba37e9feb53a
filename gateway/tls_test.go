package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// write puts a new pair into two files, and says when it was made.
func writePair(t *testing.T, certFile, keyFile string, at time.Time) []byte {
	t.Helper()
	pair, _, pem := certificate(t)
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{certFile: pem, keyFile: pemOf("PRIVATE KEY", key)} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, at, at); err != nil {
			t.Fatal(err)
		}
	}
	return pair.Certificate[0]
}

func TestTLSFilesReload(t *testing.T) {
	folder := t.TempDir()
	certFile, keyFile := filepath.Join(folder, "cert.pem"), filepath.Join(folder, "key.pem")
	var reports []error
	if _, err := TLSFiles(certFile, keyFile, nil); err == nil {
		t.Error("files that are not there are no error")
	}
	at := time.Unix(1_000_000, 0)
	first := writePair(t, certFile, keyFile, at)
	config, err := TLSFiles(certFile, keyFile, func(err error) { reports = append(reports, err) })
	if err != nil {
		t.Fatal(err)
	}
	// served is what two clients get: the second one of the same state of the files.
	served := func() string {
		t.Helper()
		if _, err := config.GetCertificate(&tls.ClientHelloInfo{}); err != nil {
			t.Fatal(err)
		}
		c, err := config.GetCertificate(&tls.ClientHelloInfo{})
		if err != nil {
			t.Fatal(err)
		}
		return string(c.Certificate[0])
	}
	if served() != string(first) {
		t.Error("the first pair is not served")
	}
	second := writePair(t, certFile, keyFile, at.Add(time.Second))
	if served() != string(second) {
		t.Error("the second pair is not served")
	}
	if err := os.WriteFile(keyFile, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if served() != string(second) || len(reports) != 1 {
		t.Errorf("reported %v, wanted one error, and the second pair served", reports)
	}
	if err := os.Remove(certFile); err != nil {
		t.Fatal(err)
	}
	if served() != string(second) || len(reports) != 2 {
		t.Errorf("reported %v, wanted two errors, and the second pair served", reports)
	}
	if third := writePair(t, certFile, keyFile, at.Add(2*time.Second)); served() != string(third) {
		t.Error("the third pair is not served")
	}
}

func TestACMERefuses(t *testing.T) {
	if _, err := ACME("", "", "", "a.example"); err == nil {
		t.Error("no folder is no error")
	}
	if _, err := ACME(t.TempDir(), "", ""); err == nil {
		t.Error("no domain is no error")
	}
	config, err := ACME(t.TempDir(), "https://127.0.0.1:1/directory", "", "a.example")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := config.GetCertificate(&tls.ClientHelloInfo{ServerName: "b.example"}); err == nil {
		t.Error("a certificate for a domain that was not named")
	}
}

func TestNoHTTP2(t *testing.T) {
	given := &tls.Config{NextProtos: []string{"h2", "http/1.1", "acme-tls/1"}}
	if got := overHTTP1(given).NextProtos; len(got) != 2 || got[0] != "http/1.1" || len(given.NextProtos) != 3 {
		t.Errorf("offers %v", got)
	}
}
