package config

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mlsfed/mlsfed/wire"
)

// Example is the annotated file with every key and its default.
//
//go:embed example.yaml
var Example []byte

// maxFile bounds a configuration file, in bytes.
const maxFile = 1 << 20

// Config is one node. The annotated example says what each key means.
type Config struct {
	Domain wire.Domain `yaml:"domain"`
	Node   wire.NodeID `yaml:"node"`
	// OrdersOnly makes it a node without devices.
	OrdersOnly bool `yaml:"orders_only"`
	// Data is a folder. Load makes it absolute: relative ones count from the file's folder.
	Data string `yaml:"data"`
	// Identity is the folder of keys, certificates and peers; Data's "identity" if empty.
	Identity   string     `yaml:"identity"`
	Gateway    Gateway    `yaml:"gateway"`
	Federation Federation `yaml:"federation"`
	Admin      Admin      `yaml:"admin"`
	Consensus  Consensus  `yaml:"consensus"`
	Mailbox    Mailbox    `yaml:"mailbox"`
	Directory  Directory  `yaml:"directory"`
	Files      Files      `yaml:"files"`
	Clock      Clock      `yaml:"clock"`
	Quota      Quota      `yaml:"quota"`
	Rates      Rates      `yaml:"rates"`
	OIDC       OIDC       `yaml:"oidc"`
	SCIM       SCIM       `yaml:"scim"`
	Log        Log        `yaml:"log"`
	Audit      Audit      `yaml:"audit"`
}

// Gateway is where devices connect.
type Gateway struct {
	Listen          string    `yaml:"listen"`
	Public          string    `yaml:"public"`
	Origins         []string  `yaml:"origins"`
	TLS             TLS       `yaml:"tls"`
	MaxFrame        Size      `yaml:"max_frame"`
	Window          int       `yaml:"window"`
	Requests        int       `yaml:"requests"`
	Sessions        int       `yaml:"sessions"`
	SessionsAddress int       `yaml:"sessions_per_address"`
	ConnectPerSec   float64   `yaml:"connections_per_second"`
	EnrolPerMinute  float64   `yaml:"enrolments_per_minute"`
	FramesPerSecond float64   `yaml:"frames_per_second"`
	BytesPerSecond  Size      `yaml:"bytes_per_second"`
	Fragments       int       `yaml:"fragments"`
	LoginFrames     int       `yaml:"login_frames"`
	RequestsPerSec  float64   `yaml:"http_requests_per_second"`
	LoginTimeout    Duration  `yaml:"login_timeout"`
	Ping            Duration  `yaml:"ping"`
	Strangers       Strangers `yaml:"strangers"`
}

// Strangers are those who have not proved who they are.
type Strangers struct {
	Unproved          int      `yaml:"unproved"`
	Failures          int      `yaml:"failures"`
	FailuresPerMinute float64  `yaml:"failures_per_minute"`
	ShutFirst         Duration `yaml:"shut_first"`
	ShutLast          Duration `yaml:"shut_last"`
	SlowedPerSecond   float64  `yaml:"slowed_per_second"`
}

// TLS is where the gateway's certificate comes from: files, ACME, or, if neither is set, the
// organization's own root.
type TLS struct {
	Certificate string   `yaml:"certificate"`
	Key         string   `yaml:"key"`
	ACME        []string `yaml:"acme_domains"`
	Email       string   `yaml:"acme_email"`
}

// Federation is where other organizations' nodes connect.
type Federation struct {
	Listen         string    `yaml:"listen"`
	Advertise      string    `yaml:"advertise"`
	CallTimeout    Duration  `yaml:"call_timeout"`
	CallsPerSecond float64   `yaml:"calls_per_second"`
	BytesPerSecond Size      `yaml:"bytes_per_second"`
	OutboxExpire   Duration  `yaml:"outbox_expire"`
	OutboxItems    uint64    `yaml:"outbox_items"`
	OutboxBytes    Size      `yaml:"outbox_bytes"`
	AllowNetworks  []string  `yaml:"allow_networks"`
	Strangers      Strangers `yaml:"strangers"`
}

// Admin is for the operator's own machines.
type Admin struct {
	Listen string `yaml:"listen"`
	Socket string `yaml:"socket"`
}

// Consensus is the ordering of conversations.
type Consensus struct {
	Log             string   `yaml:"log"`
	Sleep           Duration `yaml:"sleep"`
	Heartbeat       Duration `yaml:"heartbeat"`
	Election        Duration `yaml:"election"`
	Silence         Duration `yaml:"silence"`
	Stall           Duration `yaml:"stall"`
	Conversations   int      `yaml:"conversations"`
	PerOrganization int      `yaml:"conversations_per_organization"`
	Inflight        int      `yaml:"submissions"`
	Farewell        Duration `yaml:"farewell"`
	Ahead           Duration `yaml:"ahead"`
	Unowned         Duration `yaml:"unowned"`
	Claim           Duration `yaml:"claim"`
	Wakes           int      `yaml:"wakes"`
	Wake            Duration `yaml:"wake"`
	Invites         int      `yaml:"invites"`
	Invite          Duration `yaml:"invite"`
	TermJump        uint64   `yaml:"term_jump"`
	Compare         Duration `yaml:"compare"`
	Lost            Duration `yaml:"lost"`
	Idle            Duration `yaml:"idle"`
	RecentBytes     Size     `yaml:"recent_bytes"`
	RecentEntries   int      `yaml:"recent_entries"`
	Organizations   int      `yaml:"organizations"`
	Memory          Size     `yaml:"memory"`
	// Witness is an organization that may vote without members, proposed for new conversations; "" for none.
	Witness wire.Domain `yaml:"witness"`
}

// Mailbox is what waits for devices.
type Mailbox struct {
	Items uint64 `yaml:"items"`
	Bytes Size   `yaml:"bytes"`
	// Organization bounds what one other organization has in all streams together.
	Organization Size     `yaml:"organization"`
	Age          Duration `yaml:"age"`
	DropOldest   bool     `yaml:"drop_oldest"`
	PastEpochs   uint64   `yaml:"past_epochs"`
}

// Directory is the organization's users.
type Directory struct {
	Devices         int      `yaml:"devices"`
	CertificateLife Duration `yaml:"certificate_life"`
	RenewBefore     Duration `yaml:"renew_before"`
	RenewAfter      Duration `yaml:"renew_after"`
	InvitationLife  Duration `yaml:"invitation_life"`
	KeyPackages     int      `yaml:"key_packages"`
	LowWater        int      `yaml:"low_water"`
	ClaimBurst      int      `yaml:"claim_burst"`
	ClaimEvery      Duration `yaml:"claim_every"`
	PairBurst       int      `yaml:"claim_pair_burst"`
	PairEvery       Duration `yaml:"claim_pair_every"`
	UserBurst       int      `yaml:"claim_user_burst"`
	UserEvery       Duration `yaml:"claim_user_every"`
	LastResortBurst int      `yaml:"last_resort_burst"`
	LastResortEvery Duration `yaml:"last_resort_every"`
}

// Files are the encrypted files that members share.
type Files struct {
	File  Size     `yaml:"file"`
	Total Size     `yaml:"total"`
	Age   Duration `yaml:"age"`
}

// Clock is what a node makes of jumps of its machine's clock.
type Clock struct {
	Tolerance Duration `yaml:"tolerance"`
	Confirm   Duration `yaml:"confirm"`
	Downtime  Duration `yaml:"downtime"`
}

// Quota bounds what devices and other organizations have the node store. Sizes of 0: no limit.
type Quota struct {
	Uploads        Size    `yaml:"uploads"`
	Device         Size    `yaml:"device"`
	User           Size    `yaml:"user"`
	Organization   Size    `yaml:"organization"`
	Memory         Size    `yaml:"memory"`
	Reserve        Size    `yaml:"reserve"`
	ReservePercent float64 `yaml:"reserve_percent"`
	Conversations  int     `yaml:"conversations_per_user"`
}

// Rates bound how often devices and other organizations have something ordered.
type Rates struct {
	Conversations          Rate `yaml:"conversations"`
	Codes                  Rate `yaml:"codes"`
	Handshakes             Rate `yaml:"handshakes"`
	ConversationHandshakes Rate `yaml:"conversation_handshakes"`
	OrganizationHandshakes Rate `yaml:"organization_handshakes"`
	Invitations            Rate `yaml:"invitations"`
}

// Rate is Burst at once, and PerMinute after that. A burst of 0 is no limit.
type Rate struct {
	Burst     int     `yaml:"burst"`
	PerMinute float64 `yaml:"per_minute"`
}

// OIDC is an OpenID Connect issuer whose users may enrol devices; unused without a URL.
type OIDC struct {
	URL      string `yaml:"url"`
	Audience string `yaml:"audience"`
	Claim    string `yaml:"claim"`
	BindKey  bool   `yaml:"bind_key"`
	// Groups are those of which a user must be in one, by GroupClaim; none: all users of the issuer may enrol.
	Groups     []string `yaml:"groups"`
	GroupClaim string   `yaml:"group_claim"`
	Scopes     []string `yaml:"scopes"`
	// DeviceFlow lets devices without a browser enrol. SecretFile is of the client, where the issuer wants one for that.
	DeviceFlow bool   `yaml:"device_flow"`
	Flows      int    `yaml:"flows"`
	SecretFile string `yaml:"secret_file"`
}

// SCIM lets an identity provider end users (RFC 7644); unused without a file.
type SCIM struct {
	// TokenFile holds the bearer token of the provider: at least 32 characters.
	TokenFile string `yaml:"token_file"`
}

// Audit is the append-only log of who did what.
type Audit struct {
	// Dir is a folder; Data's "audit" if empty. Load makes it absolute.
	Dir   string `yaml:"dir"`
	Size  Size   `yaml:"size"`
	Files int    `yaml:"files"` // 0: all
}

// Log says what the node writes to standard error.
type Log struct {
	Level  string `yaml:"level"`
	Format string `yaml:"format"`
}

// Default is what the example says, without a domain and a node.
func Default() *Config {
	c := new(Config)
	if err := decode(Example, c); err != nil {
		panic(fmt.Sprintf("config: the embedded example: %v", err)) // a test loads it
	}
	c.Domain, c.Node = "", ""
	return c
}

// Load reads a file over the defaults, applies the environment, as os.Environ lists it, and validates.
func Load(path string, environment []string) (*Config, error) {
	raw, err := read(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, raw, environment)
}

// Parse is Load for what a file holds, or will hold.
func Parse(path string, raw []byte, environment []string) (*Config, error) {
	c := Default()
	if err := decode(raw, c); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := override(c, environment); err != nil {
		return nil, err
	}
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	c.fillZeros()
	c.resolve(filepath.Dir(path))
	return c, nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("configuration: %w: 'mlsfed init' makes one; -c or MLSFED_CONFIG names one elsewhere", err)
	}
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if len(raw) > maxFile {
		return nil, fmt.Errorf("configuration %s has more than %d bytes", path, maxFile)
	}
	return raw, nil
}

// decode reads YAML into c and refuses keys that are not there.
func decode(raw []byte, c *Config) error {
	d := yaml.NewDecoder(bytes.NewReader(raw))
	d.KnownFields(true)
	if err := d.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		return plain(err)
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New("holds more than one document")
	}
	return nil
}

// unknownKey is how the YAML library says that a key is none.
var unknownKey = regexp.MustCompile(`field (\S+) not found in type \S+`)

// plain puts what the YAML library says into the words of who writes the file.
func plain(err error) error {
	var wrong *yaml.TypeError
	if !errors.As(err, &wrong) {
		return err
	}
	lines := make([]string, 0, len(wrong.Errors))
	for _, text := range wrong.Errors {
		lines = append(lines, unknownKey.ReplaceAllString(text, "$1 is no key: 'mlsfed config example' lists them"))
	}
	return errors.New(strings.Join(lines, "; "))
}

// resolve makes paths absolute.
func (c *Config) resolve(folder string) {
	if c.Identity == "" {
		c.Identity = filepath.Join(c.Data, "identity")
	}
	if c.Admin.Socket == "" {
		c.Admin.Socket = filepath.Join(c.Data, "control.sock")
	}
	if c.Audit.Dir == "" {
		c.Audit.Dir = filepath.Join(c.Data, "audit")
	}
	for _, p := range []*string{&c.Data, &c.Audit.Dir, &c.Identity, &c.Admin.Socket, &c.Gateway.TLS.Certificate, &c.Gateway.TLS.Key, &c.OIDC.SecretFile, &c.SCIM.TokenFile} {
		if *p == "" {
			continue
		}
		if !filepath.IsAbs(*p) {
			*p = filepath.Join(folder, *p)
		}
		if abs, err := filepath.Abs(*p); err == nil {
			*p = abs
		}
	}
}

// Validate checks what the form does not. It returns all faults at once.
func (c *Config) Validate() error {
	var faults []error
	fault := func(key, format string, args ...any) {
		faults = append(faults, fmt.Errorf(key+": "+format, args...))
	}
	if err := c.Domain.Check(); err != nil {
		fault("domain", "%v", err)
	}
	if err := c.Node.Check(); err != nil {
		fault("node", "%v", err)
	} else if c.Node.Organization() != c.Domain {
		fault("node", "%s is not a node of %s: wanted one label before the domain", c.Node, c.Domain)
	}
	if c.Data == "" {
		fault("data", "wanted a folder")
	}
	for key, address := range map[string]string{"gateway.listen": c.Gateway.Listen, "federation.listen": c.Federation.Listen} {
		checkAddress(fault, key, address, false)
	}
	for key, address := range map[string]string{"gateway.public": c.Gateway.Public, "federation.advertise": c.Federation.Advertise, "admin.listen": c.Admin.Listen} {
		checkAddress(fault, key, address, true)
	}
	if t := c.Gateway.TLS; (t.Certificate == "") != (t.Key == "") || t.Certificate != "" && len(t.ACME) > 0 {
		fault("gateway.tls", "wanted certificate and key, or acme_domains, or neither for a certificate of the organization's root")
	}
	if c.Consensus.Log != "bolt" && c.Consensus.Log != "pebble" {
		fault("consensus.log", "%q, wanted bolt or pebble", c.Consensus.Log)
	}
	if w := c.Consensus.Witness; w == c.Domain && w != "" {
		fault("consensus.witness", "%s is this organization, which votes in its conversations anyhow: wanted another one", w)
	} else if err := w.Check(); w != "" && err != nil {
		fault("consensus.witness", "%v", err)
	}
	switch c.Log.Level {
	case "debug", "info", "warn", "error":
	default:
		fault("log.level", "%q, wanted debug, info, warn or error", c.Log.Level)
	}
	switch c.Log.Format {
	case "text", "json", "journald":
	default:
		fault("log.format", "%q, wanted text, json or journald", c.Log.Format)
	}
	if n := len(c.Federation.AllowNetworks); n > maxNetworks {
		fault("federation.allow_networks", "%d networks, wanted at most %d", n, maxNetworks)
	}
	for _, s := range c.Federation.AllowNetworks {
		if _, err := parseNetwork(s); err != nil {
			fault("federation.allow_networks", "%v", err)
		}
	}
	c.validateBounds(fault)
	c.validateTogether(fault)
	return errors.Join(faults...)
}

// maxNetworks bounds federation.allow_networks.
const maxNetworks = 256

// parseNetwork reads an IP network in CIDR notation, with no bits after its length.
func parseNetwork(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || p != p.Masked() || p.Addr().Is4In6() {
		return p, fmt.Errorf("%q is not a network: wanted one as 10.0.0.0/8 or fd00:1::/32, with no bits after its length", s)
	}
	return p, nil
}

// Networks are AllowNetworks; those that Validate refuses are left out.
func (f *Federation) Networks() (list []netip.Prefix) {
	for _, s := range f.AllowNetworks {
		if p, err := parseNetwork(s); err == nil {
			list = append(list, p)
		}
	}
	return list
}

// Warnings names settings that are valid and weaken the node.
func (c *Config) Warnings() []string {
	var list []string
	c.violated(doubtful, func(key, text string) { list = append(list, key+": "+text) })
	if c.OIDC.URL != "" && !c.OIDC.BindKey {
		list = append(list, "oidc.bind_key is false: an ID token that leaks before it is used enrols any key; set it to true once all clients name the nonce of their key")
	}
	if c.OIDC.URL != "" && c.OIDC.DeviceFlow {
		list = append(list, "oidc.device_flow is true: who persuades a user to type in a code gets a device of that user enrolled; tell users to type in only codes of their own devices")
	}
	for _, p := range c.Federation.Networks() {
		if p.Bits() == 0 {
			list = append(list, fmt.Sprintf("federation.allow_networks has %v: an admitted organization can have this node connect to anything that it reaches; name the networks that peers are in", p))
		}
	}
	return list
}

func checkAddress(fault func(key, format string, args ...any), key, address string, empty bool) {
	if address == "" && empty {
		return
	}
	if strings.Contains(address, "://") {
		fault(key, "%q is a URL, wanted an address without https://, as n1.a.example:8443", address)
		return
	}
	if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
		fault(key, "%q is not an address: wanted host:port, as 127.0.0.1:8443 or :8443", address)
	} else if !isPort(port) {
		fault(key, "%q: the port is none, wanted 0 to 65535", address)
	}
}
