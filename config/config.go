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

// Config is the configuration of one node. The annotated example describes each key.
type Config struct {
	Domain wire.Domain `yaml:"domain"`
	Node   wire.NodeID `yaml:"node"`
	// OrdersOnly makes the node one without devices.
	OrdersOnly bool `yaml:"orders_only"`
	// Data is a folder. Load makes it absolute: relative ones count from the file's folder.
	Data string `yaml:"data"`
	// Identity is the folder of keys, certificates and peers; Data's "identity" if empty.
	Identity   string     `yaml:"identity"`
	Storage    string     `yaml:"storage"` // pebble or postgres
	Postgres   Postgres   `yaml:"postgres"`
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

// The values of Config.Storage.
const (
	StoragePebble   = "pebble"
	StoragePostgres = "postgres"
)

// Postgres configures the database of a node whose storage is postgres.
type Postgres struct {
	URL         string `yaml:"url"`
	Connections int    `yaml:"connections"`
	Durability  string `yaml:"durability"` // local or quorum
}

// The values of Postgres.Durability.
const (
	DurabilityLocal  = "local"
	DurabilityQuorum = "quorum"
)

// Gateway configures the listener for devices.
type Gateway struct {
	Listen          string    `yaml:"listen"`
	Public          string    `yaml:"public"`
	Origins         []string  `yaml:"origins"`
	TLS             TLS       `yaml:"tls"`
	MaxFrame        Size      `yaml:"max_frame"`
	Window          int       `yaml:"window"`
	Requests        int       `yaml:"requests"`
	HeldPerUser     Size      `yaml:"held_per_user"`
	HeldPerSession  Size      `yaml:"held_per_session"`
	Overloads       int       `yaml:"overloads"`
	Sessions        int       `yaml:"sessions"`
	SessionsDevice  int       `yaml:"sessions_per_device"`
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

// Strangers limits peers that have not proved their identity.
type Strangers struct {
	Unproved          int      `yaml:"unproved"`
	Failures          int      `yaml:"failures"`
	FailuresPerMinute float64  `yaml:"failures_per_minute"`
	ShutFirst         Duration `yaml:"shut_first"`
	ShutLast          Duration `yaml:"shut_last"`
	SlowedPerSecond   float64  `yaml:"slowed_per_second"`
}

// TLS is the source of the gateway's certificate: files, ACME, or, if neither is set, the organization's own root.
type TLS struct {
	Certificate string   `yaml:"certificate"`
	Key         string   `yaml:"key"`
	ACME        []string `yaml:"acme_domains"`
	Email       string   `yaml:"acme_email"`
}

// Federation configures the links with other organizations' nodes.
type Federation struct {
	Listen         string    `yaml:"listen"`
	Advertise      string    `yaml:"advertise"`
	CallTimeout    Duration  `yaml:"call_timeout"`
	CallsPerSecond float64   `yaml:"calls_per_second"`
	BytesPerSecond Size      `yaml:"bytes_per_second"`
	OutboxExpire   Duration  `yaml:"outbox_expire"`
	OutboxItems    uint64    `yaml:"outbox_items"`
	OutboxBytes    Size      `yaml:"outbox_bytes"`
	OutboxShares   int       `yaml:"outbox_shares"`
	OutboxShareFor Duration  `yaml:"outbox_share_for"`
	AllowNetworks  []string  `yaml:"allow_networks"`
	Strangers      Strangers `yaml:"strangers"`
}

// Admin configures the listener for the operator's own machines.
type Admin struct {
	Listen string `yaml:"listen"`
	Socket string `yaml:"socket"`
}

// Consensus configures the ordering of conversations.
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
	Upsets          int      `yaml:"upsets"`
	Upset           Duration `yaml:"upset"`
	Terms           int      `yaml:"terms"`
	Term            Duration `yaml:"term"`
	Compare         Duration `yaml:"compare"`
	Lost            Duration `yaml:"lost"`
	Idle            Duration `yaml:"idle"`
	RecentBytes     Size     `yaml:"recent_bytes"`
	RecentEntries   int      `yaml:"recent_entries"`
	Organizations   int      `yaml:"organizations"`
	Commit          Size     `yaml:"commit"`
	Memory          Size     `yaml:"memory"`
	// Witness is an organization that may vote without members, proposed for new conversations; "" for none.
	Witness wire.Domain `yaml:"witness"`
}

// Mailbox configures what waits for devices.
type Mailbox struct {
	Items uint64 `yaml:"items"`
	Bytes Size   `yaml:"bytes"`
	// Organization bounds the bytes that one other organization has in all streams together.
	Organization Size     `yaml:"organization"`
	Age          Duration `yaml:"age"`
	DropOldest   bool     `yaml:"drop_oldest"`
	PastEpochs   uint64   `yaml:"past_epochs"`
}

// Directory configures the organization's users.
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
	AddressBurst    int      `yaml:"address_burst"`
	AddressEvery    Duration `yaml:"address_every"`
	LastResortBurst int      `yaml:"last_resort_burst"`
	LastResortEvery Duration `yaml:"last_resort_every"`
}

// Files configures the encrypted files that members share.
type Files struct {
	File  Size     `yaml:"file"`
	Total Size     `yaml:"total"`
	Age   Duration `yaml:"age"`
}

// Clock configures how a node handles jumps of its machine's clock.
type Clock struct {
	Tolerance Duration `yaml:"tolerance"`
	Confirm   Duration `yaml:"confirm"`
	Downtime  Duration `yaml:"downtime"`
}

// Quota bounds what the node stores for devices and other organizations. A size of 0 is no limit.
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

// Rates bounds how often devices and other organizations may request ordering.
type Rates struct {
	Conversations          Rate `yaml:"conversations"`
	Codes                  Rate `yaml:"codes"`
	Handshakes             Rate `yaml:"handshakes"`
	ConversationHandshakes Rate `yaml:"conversation_handshakes"`
	OrganizationHandshakes Rate `yaml:"organization_handshakes"`
	Invitations            Rate `yaml:"invitations"`
	Calls                  Rate `yaml:"calls"`
}

// Rate allows Burst at once, and PerMinute after that. A burst of 0 is no limit.
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
	// Groups lists groups of which a user must be in at least one, by GroupClaim; without groups all users of the
	// issuer may enrol.
	Groups     []string `yaml:"groups"`
	GroupClaim string   `yaml:"group_claim"`
	Scopes     []string `yaml:"scopes"`
	// DeviceFlow lets devices without a browser enrol. SecretFile holds the client's secret, if the issuer requires
	// one for that.
	DeviceFlow bool   `yaml:"device_flow"`
	Flows      int    `yaml:"flows"`
	SecretFile string `yaml:"secret_file"`
}

// SCIM lets an identity provider end the accounts of users (RFC 7644); unused without a file.
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

// Log configures what the node writes to standard error.
type Log struct {
	Level  string `yaml:"level"`
	Format string `yaml:"format"`
}

// Default returns the configuration of the example, without a domain and a node.
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

// Parse is Load for the content of a file, which need not exist yet.
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

// decode reads YAML into c and refuses unknown keys.
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

// unknownKey matches the YAML library's error for an unknown key.
var unknownKey = regexp.MustCompile(`field (\S+) not found in type \S+`)

// plain replaces the errors of the YAML library by texts for the author of the file.
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

// Validate checks what the format does not ensure. It returns all faults at once.
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
	switch c.Storage {
	case StoragePebble:
	case StoragePostgres:
		if c.Postgres.URL == "" {
			fault("postgres.url", "is empty, and storage is postgres: wanted the address of a database, as postgres://mlsfed@db.a.example/mlsfed")
		}
	default:
		fault("storage", "%q, wanted pebble or postgres", c.Storage)
	}
	if d := c.Postgres.Durability; d != DurabilityLocal && d != DurabilityQuorum {
		fault("postgres.durability", "%q, wanted local or quorum", d)
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

// parseNetwork parses an IP network in CIDR notation, whose bits after the prefix length are 0.
func parseNetwork(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || p != p.Masked() || p.Addr().Is4In6() {
		return p, fmt.Errorf("%q is not a network: wanted one as 10.0.0.0/8 or fd00:1::/32, with no bits after its length", s)
	}
	return p, nil
}

// Networks returns AllowNetworks without those that Validate refuses.
func (f *Federation) Networks() (list []netip.Prefix) {
	for _, s := range f.AllowNetworks {
		if p, err := parseNetwork(s); err == nil {
			list = append(list, p)
		}
	}
	return list
}

// Warnings returns the settings that are valid and weaken the node.
func (c *Config) Warnings() []string {
	var list []string
	c.violated(doubtful, func(key, text string) { list = append(list, key+": "+text) })
	if c.OIDC.URL != "" && !c.OIDC.BindKey {
		list = append(list, "oidc.bind_key is false: an ID token that leaks before it is used enrols any key; set it to true once all clients name the nonce of their key")
	}
	if c.OIDC.URL != "" && c.OIDC.DeviceFlow {
		list = append(list, "oidc.device_flow is true: a person who persuades a user to type in a code gets a device of that user enrolled; ask users to type in only codes of their own devices")
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
	if host, port, err := net.SplitHostPort(address); err != nil || port == "" || !isHost(host) {
		fault(key, "%q is not an address: wanted host:port, as 127.0.0.1:8443 or :8443", address)
	} else if !isPort(port) {
		fault(key, "%q: the port is none, wanted 0 to 65535", address)
	}
}
