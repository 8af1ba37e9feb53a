package node

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/directory"
	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/internal/quota"
	"github.com/mlsfed/mlsfed/store/pebblestore"
	"github.com/mlsfed/mlsfed/store/postgres"
	"github.com/mlsfed/mlsfed/wire"
)

// Outcome is the result of one step of a check.
type Outcome string

// The outcomes.
const (
	Good    Outcome = "ok"
	Warning Outcome = "warning" // the node serves, and an operator should change something
	Fault   Outcome = "fault"   // the node does not start, or does not do part of its work
	Skipped Outcome = "skipped" // the step could not be tried, and says why
)

// Finding is one step of a check.
type Finding struct {
	Step    string  `json:"step"` // a key of the configuration, or what was tried
	Outcome Outcome `json:"outcome"`
	Detail  string  `json:"detail"`
}

// checker collects the findings of a check.
type checker struct {
	cfg  *config.Config
	now  func() time.Time
	list []Finding
}

func (c *checker) add(step string, o Outcome, format string, args ...any) {
	c.list = append(c.list, Finding{step, o, fmt.Sprintf(format, args...)})
}

// try adds a fault if err is not nil, and the formatted text as a good outcome otherwise.
func (c *checker) try(step string, err error, format string, args ...any) bool {
	if err != nil {
		c.add(step, Fault, "%v", err)
		return false
	}
	c.add(step, Good, format, args...)
	return true
}

// soon is how long before the end of a certificate a warning begins.
const soon = 14 * 24 * time.Hour

// minFree is the free space, in bytes, that a node needs beyond the reserve to begin with.
const minFree = 64 << 20

// Check tries what a start of the node would do, on this machine, and leaves nothing behind: it reads the identity
// and the certificates, writes into the data folder, opens the databases without changing them, and listens at the
// addresses for a moment. Where a node runs with this configuration, the steps that need what that node holds are
// skipped. Steps are independent: a fault does not end the check.
func Check(cfg *config.Config) []Finding {
	c := &checker{cfg: cfg, now: time.Now}
	for _, err := range CheckPrivate(cfg) {
		c.add("permissions", Warning, "the %v", err)
	}
	for _, w := range cfg.Warnings() {
		c.add("configuration", Warning, "%s", w)
	}
	c.advertised()
	id := c.identity()
	c.peers(id)
	for key, path := range map[string]string{"oidc.secret_file": cfg.OIDC.SecretFile, "scim.token_file": cfg.SCIM.TokenFile} {
		if path != "" {
			_, err := readSecret(key, path)
			c.try(key, err, "%s can be read", path)
		}
	}
	c.certificate()
	c.folders()
	if answers(cfg) {
		c.add("running", Skipped, "a node runs with this configuration: its addresses and databases are in use")
		return c.list
	}
	c.databases()
	c.listen("gateway.listen", cfg.Gateway.Listen)
	c.listen("federation.listen", cfg.Federation.Listen)
	if cfg.Admin.Listen != "" {
		c.listen("admin.listen", cfg.Admin.Listen)
	}
	return c.list
}

// answers reports whether a node answers at the control socket.
func answers(cfg *config.Config) bool {
	conn, err := net.DialTimeout("unix", cfg.Admin.Socket, time.Second)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

func (c *checker) identity() *organization.Identity {
	id, _, err := identify(c.cfg)
	if !c.try("identity", err, "%s, its keys and certificates in %s", c.cfg.Node, c.cfg.Identity) {
		return nil
	}
	ends := id.Certificate().NotAfter
	switch left := ends.Sub(c.now()); {
	case left <= 0:
		c.add("identity", Fault, "the node's certificate ended on %s: mlsfed cert renew", ends.Format(time.DateOnly))
	case left < soon && id.Authority == nil:
		c.add("identity", Warning, "the node's certificate ends on %s, and the root key is not here to renew it: mlsfed cert renew where it is", ends.Format(time.DateOnly))
	}
	if left := id.Root.NotAfter.Sub(c.now()); left < 90*24*time.Hour {
		c.add("identity", Warning, "the organization's root certificate ends on %s: make a new organization, or a new root, before", id.Root.NotAfter.Format(time.DateOnly))
	}
	return id
}

// admitted returns the organizations of the allow-list that are not suspended.
func admitted(cfg *config.Config) (*organization.Peers, []organization.Peer, error) {
	peers, err := organization.OpenPeers(filepath.Join(cfg.Identity, "peers"))
	if err != nil {
		return nil, nil, err
	}
	list := slices.DeleteFunc(slices.Clone(peers.List()), func(p organization.Peer) bool { return p.State != organization.Admitted })
	return peers, list, nil
}

func (c *checker) peers(id *organization.Identity) {
	if id == nil {
		return // the folder of peers is in that of the identity
	}
	_, list, err := admitted(c.cfg)
	if !c.try("allow-list", err, "organizations admitted: %d", len(list)) {
		return
	}
	for _, p := range list {
		if left := p.Root.NotAfter.Sub(c.now()); left <= 0 {
			c.add("allow-list", Fault, "the root of %s ended on %s: ask its operator for a new bundle", p.Domain, p.Root.NotAfter.Format(time.DateOnly))
		} else if left < soon {
			c.add("allow-list", Warning, "the root of %s ends on %s: ask its operator for a new bundle", p.Domain, p.Root.NotAfter.Format(time.DateOnly))
		}
	}
}

// certificate checks the gateway's own certificate, if it is read from files.
func (c *checker) certificate() {
	t := c.cfg.Gateway.TLS
	if t.Certificate == "" {
		return
	}
	pair, err := tls.LoadX509KeyPair(t.Certificate, t.Key)
	if !c.try("gateway.tls", err, "%s with its key", t.Certificate) {
		return
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		c.add("gateway.tls", Fault, "%s: %v", t.Certificate, err)
		return
	}
	if left := leaf.NotAfter.Sub(c.now()); left <= 0 {
		c.add("gateway.tls", Fault, "the certificate ended on %s: devices refuse it", leaf.NotAfter.Format(time.DateOnly))
	} else if left < soon {
		c.add("gateway.tls", Warning, "the certificate ends on %s", leaf.NotAfter.Format(time.DateOnly))
	}
	if host, _, err := net.SplitHostPort(c.cfg.Gateway.Public); err == nil {
		if err := leaf.VerifyHostname(host); err != nil {
			c.add("gateway.tls", Fault, "the certificate is not for %s, where devices connect (gateway.public): %v", host, err)
		}
	}
}

// folders writes into the data folder and into the folder of the audit log, or into their nearest existing parents,
// and checks the free space.
func (c *checker) folders() {
	if dir := AuditFolder(c.cfg); dir != filepath.Join(c.cfg.Data, auditFolder) {
		near, err := nearest(dir)
		if err == nil {
			err = writable(near)
		}
		c.try("audit.dir", err, "%s can be written", near)
	}
	dir, err := nearest(c.cfg.Data)
	if err == nil {
		err = writable(dir)
	}
	if !c.try("data", err, "%s can be written", dir) {
		return
	}
	disk := &quota.Folder{Path: dir, Reserve: uint64(c.cfg.Quota.Reserve), Percent: c.cfg.Quota.ReservePercent}
	free, reserve, err := disk.Free()
	switch {
	case err != nil:
		c.add("quota.reserve", Fault, "%v", err)
	case free < reserve:
		c.add("quota.reserve", Fault, "%s are free, %s are to be kept in reserve: nothing is taken until there is room", config.Size(free).About(), config.Size(reserve).About())
	case free < reserve+minFree:
		c.add("quota.reserve", Warning, "%s are free, %s are to be kept in reserve: the disk is nearly full", config.Size(free).About(), config.Size(reserve).About())
	default:
		c.add("quota.reserve", Good, "%s are free, %s are kept in reserve", config.Size(free).About(), config.Size(reserve).About())
	}
}

// nearest returns a folder, or its nearest existing parent.
func nearest(dir string) (string, error) {
	for {
		info, err := os.Stat(dir)
		switch {
		case err == nil && !info.IsDir():
			return dir, fmt.Errorf("%s is not a folder", dir)
		case !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir):
			return dir, err
		}
		dir = filepath.Dir(dir)
	}
}

// writable writes a file into a folder, syncs it to the disk, and removes it.
func writable(dir string) (err error) {
	f, err := os.CreateTemp(dir, ".check-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	if _, err := f.Write(make([]byte, 4096)); err != nil {
		return err
	}
	return f.Sync()
}

func (c *checker) databases() {
	if err := checkFormat(c.cfg.Data); err != nil {
		c.add("data", Fault, "%v", err)
		return
	}
	if c.cfg.Storage == config.StoragePostgres {
		c.postgres()
		return
	}
	path := filepath.Join(c.cfg.Data, storeFolder)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		c.add("databases", Good, "there are none yet: the first start makes them")
		return
	}
	if c.try("database", openable(path), "%s can be opened", path) {
		log := filepath.Join(c.cfg.Data, orderFolder, logFolder)
		c.try("consensus.log", raftlog.Verify(raftlog.Config{Dir: log, Backend: c.cfg.Consensus.Log}), "%s can be opened", log)
	}
}

// checkTime bounds the check of a PostgreSQL database.
const checkTime = 10 * time.Second

// postgres opens the database as the node does.
func (c *checker) postgres() {
	ctx, cancel := context.WithTimeout(context.Background(), checkTime)
	defer cancel()
	version, err := postgres.Check(ctx, PostgresOptions(c.cfg, nil))
	c.try("postgres", err, "the database can be opened, and its schema is version %d", version)
}

// openable opens a store without changing it.
func openable(path string) error {
	err := pebblestore.Verify(path)
	if errors.Is(err, pebblestore.ErrInUse) {
		return fmt.Errorf("%s: another process holds it, and none answers at the control socket: end that process", path)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: restore a backup if the disk has lost something", path, err)
	}
	return nil
}

// advertised checks the addresses that devices and other organizations are given where the configuration names none.
func (c *checker) advertised() {
	if c.cfg.Gateway.Public == "" && reachable(c.cfg.Gateway.Listen) != c.cfg.Gateway.Listen {
		c.add("gateway.public", Warning, "is empty, and gateway.listen %q is all addresses of this machine: invitations name %s, which only devices on this machine can connect to; set gateway.public to host:port, as chat.a.example:8443",
			c.cfg.Gateway.Listen, reachable(c.cfg.Gateway.Listen))
	}
	if c.cfg.Federation.Advertise == "" && reachable(c.cfg.Federation.Listen) != c.cfg.Federation.Listen {
		c.add("federation.advertise", Fault, "is empty, and federation.listen %q is all addresses of this machine: other organizations cannot connect to that; set federation.advertise to host:port, as n1.a.example:7443", c.cfg.Federation.Listen)
	}
}

func (c *checker) listen(key, address string) {
	l, err := net.Listen("tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		err = fmt.Errorf("%w: end what listens there, or change the address", err)
	case errors.Is(err, syscall.EACCES):
		err = fmt.Errorf("%w: ports below 1024 need the right CAP_NET_BIND_SERVICE", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		err = fmt.Errorf("%w: this machine does not have that address", err)
	}
	if err == nil {
		err = l.Close()
	}
	c.try(key, err, "%s is free", address)
}

// CheckLive asks other parties: the own gateway at the address that devices use, one node of each admitted
// organization at the addresses of its bundle, and the OpenID Connect issuer. Each question is bounded by ctx.
func CheckLive(ctx context.Context, cfg *config.Config) []Finding {
	c := &checker{cfg: cfg, now: time.Now}
	id, err := organization.LoadIdentity(cfg.Identity)
	if err != nil {
		c.add("identity", Fault, "%v", err)
		return c.list
	}
	if answers(cfg) {
		c.gateway(ctx, id)
	} else {
		c.add("gateway", Skipped, "no node runs with this configuration: start it with 'mlsfed serve'")
	}
	c.reach(ctx, id)
	if o := &cfg.OIDC; o.URL != "" {
		issuer, err := issuerOf(o)
		if err == nil {
			_, err = directory.NewTokens(ctx, issuer, c.now)
		}
		c.try("oidc.url", err, "%s answers", o.URL)
	}
	return c.list
}

// gateway asks the node's own gateway for its organization, as a device does.
func (c *checker) gateway(ctx context.Context, id *organization.Identity) {
	address := c.cfg.Gateway.Public
	if address == "" {
		address = reachable(c.cfg.Gateway.Listen)
	}
	t := &tls.Config{MinVersion: tls.VersionTLS13}
	if c.cfg.Gateway.TLS.Certificate == "" && len(c.cfg.Gateway.TLS.ACME) == 0 {
		pool := x509.NewCertPool()
		pool.AddCert(id.Root)
		t.RootCAs, t.ServerName = pool, string(c.cfg.Node)
	}
	transport := &http.Transport{TLSClientConfig: t, DisableKeepAlives: true}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/v1/organization", nil)
	if err != nil {
		c.add("gateway.public", Fault, "%v", err)
		return
	}
	r, err := (&http.Client{Transport: transport}).Do(q)
	if err != nil {
		c.add("gateway.public", Fault, "devices cannot connect at %s: %v", address, err)
		return
	}
	defer r.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("the gateway answers %s", r.Status)
	}
	var o wire.Organization
	if err == nil {
		err = wire.Decode(raw, 64<<10, &o)
	}
	if err == nil && (o.Domain != c.cfg.Domain || sha256.Sum256(o.Root) != sha256.Sum256(id.Root.Raw)) {
		sum := sha256.Sum256(o.Root)
		err = fmt.Errorf("the gateway is of %.100q with root %s: the address is another node's", o.Domain, hex.EncodeToString(sum[:8]))
	}
	if err != nil {
		c.add("gateway.public", Fault, "%s: %v", address, err)
		return
	}
	c.add("gateway.public", Good, "devices can connect at %s", address)
}

// probesAtOnce is how many organizations are asked at once.
const probesAtOnce = 32

// reach asks the nodes that bundles name. An organization is reached if one of its nodes admits this node.
func (c *checker) reach(ctx context.Context, id *organization.Identity) {
	peers, list, err := admitted(c.cfg)
	if err != nil {
		c.add("allow-list", Fault, "%v", err)
		return
	}
	if len(list) == 0 {
		c.add("peers", Skipped, "no organization is admitted yet")
	}
	found := make([]Finding, len(list))
	var all sync.WaitGroup
	slots := make(chan struct{}, probesAtOnce)
	for i, p := range list {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			found[i] = reachOne(ctx, id, peers, p, c.now)
		})
	}
	all.Wait()
	c.list = append(c.list, found...)
}

func reachOne(ctx context.Context, id *organization.Identity, peers *organization.Peers, p organization.Peer, now func() time.Time) Finding {
	step := "peer " + string(p.Domain)
	if len(p.Seeds) == 0 {
		return Finding{step, Skipped, "its bundle names no address: its nodes connect to this one"}
	}
	var faults []error
	for _, s := range p.Seeds {
		err := federation.Probe(ctx, id, peers, s.Node, s.Address, now)
		if err == nil {
			return Finding{step, Good, fmt.Sprintf("%s answers at %s", s.Node, s.Address)}
		}
		faults = append(faults, err)
	}
	return Finding{step, Fault, errors.Join(faults...).Error()}
}
