package delivery

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// largeSuite is the cipher suite of the group.
const largeSuite = mlscore.MLS128X25519AES128Ed25519

// leafExtensions are those of package client: the extensions that its devices list in their leaves, and the extension
// with the address.
var leafExtensions = []mlscore.ExtensionType{0xf0a0, addressExtension, 0xf0a3, 0xf0a4, 0xf0a5}

const addressExtension mlscore.ExtensionType = 0xf0a2

// devicesOfUser is how many devices a simulated user has: as many as fit one answer to a claim.
const devicesOfUser = 250

// simulatedMembers creates KeyPackages of users without real devices.
type simulatedMembers struct {
	domain    wire.Domain
	authority *organization.Authority
	client    *mlscore.Client
	roots     *x509.CertPool

	mu   sync.Mutex // guards what follows
	next int
	size map[wire.UserID]int // devices of a user
	made []*mlscore.KeyPackage
}

// newSimulatedMembers reads the key of an organization. The simulated members are users of this organization.
func newSimulatedMembers(identity string, d wire.Domain) (*simulatedMembers, error) {
	id, err := organization.LoadIdentity(identity)
	if err != nil {
		return nil, err
	}
	s := &simulatedMembers{domain: d, authority: id.Authority, roots: x509.NewCertPool(), size: make(map[wire.UserID]int)}
	s.roots.AddCert(id.Root)
	s.client, err = s.newClient()
	return s, err
}

func (s *simulatedMembers) newClient() (*mlscore.Client, error) {
	return mlscore.NewClient(mlscore.Config{
		Auth:  &mlscore.X509Authenticator{Roots: func(string) *x509.CertPool { return s.roots }},
		Store: mlscore.NewMemoryStore(), Now: time.Now, Extensions: leafExtensions,
		Credentials: []mlscore.CredentialType{mlscore.CredentialX509}, GREASE: mlscore.GREASENowhere,
	})
}

// users returns the names of users who have n devices together.
func (s *simulatedMembers) users(n int) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for ; n > 0; n -= devicesOfUser {
		s.next++
		name := fmt.Sprintf("simulated%05d", s.next)
		s.size[wire.UserID("mimi://"+string(s.domain)+"/u/"+name)] = min(n, devicesOfUser)
		list = append(list, name)
	}
	return list
}

// identity creates a device with its certificate.
func (s *simulatedMembers) identity(device wire.DeviceID) (mlscore.Identity, error) {
	key, public, err := mlscore.GenerateSignatureKey(nil, largeSuite)
	if err != nil {
		return mlscore.Identity{}, err
	}
	uri, err := url.Parse(string(device))
	if err != nil {
		return mlscore.Identity{}, err
	}
	account := sha256.Sum256([]byte(device.User()))
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return mlscore.Identity{}, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{SerialNumber: wire.AccountID(account[:16]).String()}, URIs: []*url.URL{uri},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(90 * 24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	ca := s.authority.Certificate()
	der, err := x509.CreateCertificate(rand.Reader, template, ca, ed25519.PublicKey(public), s.authority.Signer())
	return mlscore.Identity{CipherSuite: largeSuite, Credential: mlscore.X509Credential(der, ca.Raw), SignatureKey: key}, err
}

// claim creates a KeyPackage for each device of a user. ok is false for a user who is not simulated.
func (s *simulatedMembers) claim(u wire.UserID) (a *wire.KeyMaterialAnswer, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.size[u] == 0 {
		return nil, false, nil
	}
	a = new(wire.KeyMaterialAnswer)
	for i := range s.size[u] {
		device := wire.DeviceID(strings.Replace(string(u), "/u/", "/d/", 1) + fmt.Sprintf("/device%d", i+1))
		kp, token, err := s.keyPackage(s.client, device)
		if err != nil {
			return nil, true, err
		}
		message, err := kp.Message()
		if err != nil {
			return nil, true, err
		}
		s.made = append(s.made, kp)
		a.Devices = append(a.Devices, wire.KeyMaterial{Device: device, Address: wire.Address{Organization: s.domain, Token: token}, Message: message})
	}
	return a, true, nil
}

func (s *simulatedMembers) keyPackage(c *mlscore.Client, device wire.DeviceID) (*mlscore.KeyPackage, wire.Token, error) {
	var token wire.Token
	if _, err := rand.Read(token[:]); err != nil {
		return nil, token, err
	}
	id, err := s.identity(device)
	if err != nil {
		return nil, token, err
	}
	kp, err := c.NewKeyPackage(id, mlscore.KeyPackageOptions{LeafExtensions: mlscore.Extensions{{Type: addressExtension, Data: token[:]}}})
	return kp, token, err
}

// claimTransport answers claims for simulated users, and passes everything else on.
type claimTransport struct {
	client.Transport
	simulated *simulatedMembers
}

// Dial implements client.Transport.
func (t *claimTransport) Dial(ctx context.Context) (client.Conn, error) {
	conn, err := t.Transport.Dial(ctx)
	if err != nil {
		return nil, err
	}
	c := &claimConn{Conn: conn, simulated: t.simulated, frames: make(chan frameOrError), ended: make(chan struct{})}
	c.reading.Go(c.read)
	return c, nil
}

type frameOrError struct {
	frame []byte
	err   error
}

// claimConn is a connection of claimTransport.
type claimConn struct {
	client.Conn
	simulated *simulatedMembers
	frames    chan frameOrError
	reading   sync.WaitGroup
	once      sync.Once
	ended     chan struct{}
}

func (c *claimConn) read() {
	for {
		b, err := c.Conn.Read(context.Background())
		if !c.give(b, err) || err != nil {
			return
		}
	}
}

func (c *claimConn) give(b []byte, err error) bool {
	select {
	case c.frames <- frameOrError{b, err}:
		return true
	case <-c.ended:
		return false
	}
}

// Read implements client.Conn.
func (c *claimConn) Read(ctx context.Context) ([]byte, error) {
	select {
	case f := <-c.frames:
		return f.frame, f.err
	case <-c.ended:
		return nil, client.ErrOffline
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Write implements client.Conn.
func (c *claimConn) Write(ctx context.Context, b []byte) error {
	f := new(wire.Frame)
	if err := wire.Decode(b, wire.MaxSessionFrame, f); err == nil && f.Method == wire.MethodKeyMaterial {
		q := new(wire.KeyMaterialRequest)
		if err := wire.Decode(f.Body, wire.MaxSessionFrame, q); err != nil {
			return err
		}
		a, ok, err := c.simulated.claim(q.User)
		if err != nil {
			return err
		}
		if ok {
			return c.answer(f.ID, a)
		}
	}
	return c.Conn.Write(ctx, b)
}

func (c *claimConn) answer(id uint64, a *wire.KeyMaterialAnswer) error {
	body, err := wire.Encode(a)
	if err != nil {
		return err
	}
	b, err := wire.Encode(&wire.Frame{Type: wire.FrameAnswer, ID: id, Body: body})
	if err != nil {
		return err
	}
	c.reading.Go(func() { c.give(b, nil) }) // the caller is the writer, and must not wait for the reader
	return nil
}

// Close implements client.Conn.
func (c *claimConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { close(c.ended) })
	c.reading.Wait()
	return err
}
