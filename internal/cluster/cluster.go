package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"

	"go.yaml.in/yaml/v3"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/node"
	"github.com/mlsfed/mlsfed/wire"
)

// Options change how the cluster runs.
type Options struct {
	// Edit changes the configuration of a node before it starts. May be nil.
	Edit   func(*config.Config)
	Logger *slog.Logger // nil: silent
	// Binary is an mlsfed program, of this build or another one, that runs the nodes: 'BINARY serve', a process for
	// each node. With "" the nodes run in this process. With a Binary each node has a log file in the organization's
	// folder, since Logger does not reach other processes.
	Binary string
	// TLS is the base of the TLS settings of devices. May be nil.
	TLS *tls.Config
	// Node changes the options of a node that runs in this process. May be nil.
	Node func(*node.Options)
	// Client changes the options of a device before it is opened. May be nil.
	Client func(*client.Options)
}

// Cluster is a set of organizations.
type Cluster struct {
	dir  string
	opts Options
	orgs map[wire.Domain]*member

	mu      sync.Mutex // guards what follows
	devices []*device
}

// member is one organization of the cluster, running or not.
type member struct {
	cfg  *config.Config
	root wire.Hash

	binary string       // the program that runs the node, "" for this one; changed by Upgrade alone
	pids   atomic.Int64 // the id of the node's process, 0 before its first start

	mu      sync.Mutex // guards what follows
	running bool
	node    *node.Node // nil if the node has a process of its own
	cancel  context.CancelFunc
	ended   chan struct{}
	err     error
}

// device is a client that runs in this process.
type device struct {
	*client.Device
	cancel context.CancelFunc
	ended  chan struct{}
	store  interface{ Close() error }
}

// New creates the organizations in a folder and starts nothing.
func New(dir string, o Options, domains ...wire.Domain) (*Cluster, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Cluster{dir: dir, opts: o, orgs: make(map[wire.Domain]*member)}
	for _, d := range domains {
		org, err := c.found(d)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d, err)
		}
		c.orgs[d] = org
	}
	for _, here := range domains {
		for _, there := range domains {
			if here == there {
				continue
			}
			if err := c.admit(here, there); err != nil {
				return nil, fmt.Errorf("%s admits %s: %w", here, there, err)
			}
		}
	}
	return c, nil
}

// found creates one organization.
func (c *Cluster) found(d wire.Domain) (*member, error) {
	cfg := config.Default()
	cfg.Domain, cfg.Node = d, wire.NodeID("n1."+string(d))
	cfg.Data = filepath.Join(c.dir, string(d), "data")
	cfg.Identity = filepath.Join(cfg.Data, "identity")
	cfg.Admin.Socket = filepath.Join(cfg.Data, "control.sock")
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	cfg.Gateway.Listen, cfg.Federation.Listen = ports[0], ports[1]
	cfg.Federation.Advertise = cfg.Federation.Listen
	if c.opts.Binary != "" {
		cfg.Admin.Listen = ports[2] // reports when the node is ready, and its processor time
	}
	if c.opts.Edit != nil {
		c.opts.Edit(cfg)
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	err = organization.Init(cfg.Identity, organization.InitOptions{Domain: d, Node: cfg.Node, Address: cfg.Federation.Advertise})
	if err != nil {
		return nil, err
	}
	id, err := organization.LoadIdentity(cfg.Identity)
	if err != nil {
		return nil, err
	}
	raw, err := settings(cfg)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(c.File(d), raw, 0o600); err != nil {
		return nil, err
	}
	return &member{cfg: cfg, root: sha256.Sum256(id.Root.Raw), binary: c.opts.Binary}, nil
}

// File returns the path of an organization's configuration file, as for 'mlsfed serve'.
func (c *Cluster) File(d wire.Domain) string { return filepath.Join(c.dir, string(d), "mlsfed.yaml") }

// settings returns a configuration file with only the settings that differ from the defaults: a build that lacks a
// later setting can read the file too, and each build keeps its own defaults.
func settings(cfg *config.Config) ([]byte, error) {
	var set, defaults map[string]any
	for _, v := range []struct {
		cfg *config.Config
		to  *map[string]any
	}{{cfg, &set}, {config.Default(), &defaults}} {
		raw, err := yaml.Marshal(v.cfg)
		if err != nil {
			return nil, err
		}
		if err := yaml.Unmarshal(raw, v.to); err != nil {
			return nil, err
		}
	}
	without(set, defaults)
	return yaml.Marshal(set)
}

// without removes from a map, and from the maps in it, the values that are equal in another map.
func without(set, other map[string]any) {
	for key, value := range set {
		inner, ok := value.(map[string]any)
		innerOther, okOther := other[key].(map[string]any)
		if ok && okOther {
			if without(inner, innerOther); len(inner) == 0 {
				delete(set, key)
			}
		} else if there, ok := other[key]; ok && reflect.DeepEqual(value, there) {
			delete(set, key)
		}
	}
}

// givenPorts holds the ports that freePorts has returned.
var givenPorts sync.Map

// freePorts finds free addresses on loopback. The ports are below the range of outgoing connections, since a port of
// that range could be in use when the node starts. One process returns no port twice.
func freePorts(n int) (list []string, err error) {
	for tries := 0; len(list) < n; tries++ {
		port := 10_000 + rand.IntN(22_000)
		if _, given := givenPorts.LoadOrStore(port, true); given && tries < 100_000 {
			continue
		}
		l, e := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if e != nil && tries < 100_000 {
			continue
		}
		if e != nil {
			return nil, e
		}
		list = append(list, l.Addr().String())
		defer func() { err = errors.Join(err, l.Close()) }() // after all have been found
	}
	return list, nil
}

func (c *Cluster) admit(here, there wire.Domain) error {
	b, err := organization.ReadBundle(filepath.Join(c.orgs[there].cfg.Identity, "bundle.json"))
	if err != nil {
		return err
	}
	peers, err := organization.PeersIn(filepath.Join(c.orgs[here].cfg.Identity, "peers"))
	if err != nil {
		return err
	}
	return peers.Add(b)
}

// StartAll starts every organization.
func (c *Cluster) StartAll(ctx context.Context) error {
	for d := range c.orgs {
		if err := c.Start(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// Start runs an organization's node and returns when it serves.
func (c *Cluster) Start(ctx context.Context, d wire.Domain) error {
	o := c.orgs[d]
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.running {
		return fmt.Errorf("%s runs already", d)
	}
	serve, ready, err := c.prepare(d, o)
	if err != nil {
		return err
	}
	run, cancel := context.WithCancel(context.Background())
	o.running, o.cancel, o.ended, o.err = true, cancel, make(chan struct{}), nil
	go func() {
		defer close(o.ended)
		o.err = serve(run)
	}()
	select {
	case <-ready:
		return nil
	case <-o.ended:
		err = fmt.Errorf("%s ended: %w", d, o.err)
	case <-ctx.Done():
		cancel()
		<-o.ended
		err = ctx.Err()
	}
	cancel()
	o.running, o.node = false, nil
	return err
}

// Upgrade stops an organization's node, which has a process of its own, and runs its data in this process, with this
// build.
func (c *Cluster) Upgrade(ctx context.Context, d wire.Domain) error {
	if err := c.Stop(d); err != nil {
		return err
	}
	c.orgs[d].binary = ""
	return c.Start(ctx, d)
}

// prepare returns a function that runs an organization's node until its context ends, and a channel that is closed
// when the node serves.
func (c *Cluster) prepare(d wire.Domain, o *member) (serve func(context.Context) error, ready <-chan struct{}, err error) {
	if o.binary != "" {
		p := &process{started: func(pid int) {
			o.pids.Store(int64(pid))
		}, binary: o.binary, file: c.File(d), log: c.Log(d), admin: o.cfg.Admin.Listen, ready: make(chan struct{})}
		return p.run, p.ready, nil
	}
	options := node.Options{Version: "cluster", Logger: c.opts.Logger.With("node", o.cfg.Node)}
	if c.opts.Node != nil {
		c.opts.Node(&options)
	}
	o.node, err = node.New(o.cfg, options)
	if err != nil {
		return nil, nil, err
	}
	return o.node.Run, o.node.Ready(), nil
}

// Stop stops an organization's node in order. Its devices try to reconnect.
func (c *Cluster) Stop(d wire.Domain) error {
	o := c.orgs[d]
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.running {
		return nil
	}
	o.cancel()
	<-o.ended
	o.running, o.node = false, nil
	return o.err
}

// Config returns an organization's configuration. Do not change it while the node runs.
func (c *Cluster) Config(d wire.Domain) *config.Config { return c.orgs[d].cfg }

// Node returns an organization's running node, nil if the node does not run or has a process of its own.
func (c *Cluster) Node(d wire.Domain) *node.Node {
	o := c.orgs[d]
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.node
}

// Invite returns a link for one device of a user, created through the control socket of the organization's node,
// which may run in another process.
func (c *Cluster) Invite(ctx context.Context, d wire.Domain, user string) (client.Invitation, error) {
	o := c.orgs[d]
	id, err := wire.NewUserID(d, user)
	if err != nil {
		return client.Invitation{}, err
	}
	var i node.Invitation
	if err := c.Control(ctx, d, "/users/invite", map[string]any{"user": id, "seconds": 3600}, &i); err != nil {
		return client.Invitation{}, fmt.Errorf("invite %s: %w", id, err)
	}
	return client.Invitation{Host: i.Gateway, Code: i.Code, Domain: d, User: user, Root: o.root}, nil
}

// control returns an HTTP client for the control socket.
func (o *member) control() *http.Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", o.cfg.Admin.Socket)
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
}

// Control posts to the control socket of an organization's node, as the operator's commands do. A refusal of the node
// is a *wire.Error.
func (c *Cluster) Control(ctx context.Context, d wire.Domain, path string, request, answer any) error {
	o := c.orgs[d]
	raw, err := json.Marshal(request)
	if err != nil {
		return err
	}
	return o.exchange(ctx, http.MethodPost, path, raw, answer)
}

// Status returns the status of an organization's node.
func (c *Cluster) Status(ctx context.Context, d wire.Domain) (*node.Status, error) {
	s := new(node.Status)
	return s, c.orgs[d].exchange(ctx, http.MethodGet, "/status", nil, s)
}

func (o *member) exchange(ctx context.Context, method, path string, request []byte, answer any) error {
	q, err := http.NewRequestWithContext(ctx, method, "http://node"+path, bytes.NewReader(request))
	if err != nil {
		return err
	}
	r, err := o.control().Do(q)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		refused := new(wire.Error)
		if err := json.NewDecoder(io.LimitReader(r.Body, wire.MaxError)).Decode(refused); err != nil {
			return fmt.Errorf("the node answers %s", r.Status)
		}
		return refused
	}
	return json.NewDecoder(r.Body).Decode(answer)
}

// Backup writes an archive of an organization's running node.
func (c *Cluster) Backup(ctx context.Context, d wire.Domain, out io.Writer) error {
	o := c.orgs[d]
	q, err := http.NewRequestWithContext(ctx, "GET", "http://node/backup", nil)
	if err != nil {
		return err
	}
	r, err := o.control().Do(q)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("backup of %s: %s", d, r.Status)
	}
	_, err = io.Copy(out, r.Body)
	return err
}

// Device enrols a device and runs it until Close. Its store is in the cluster's folder.
func (c *Cluster) Device(ctx context.Context, d wire.Domain, user, name string) (*client.Device, error) {
	link, err := c.Invite(ctx, d, user)
	if err != nil {
		return nil, err
	}
	return c.Enrol(ctx, link, name)
}

// Enrol enrols a device by a link and runs it until Close. Each of with changes the options of this device.
func (c *Cluster) Enrol(ctx context.Context, link client.Invitation, name string, with ...func(*client.Options)) (*client.Device, error) {
	return c.EnrolAs(ctx, link, name, client.Enrolment{Code: link.Code}, with...)
}

// EnrolAs is Enrol with the fields of an enrolment other than the device and the root.
func (c *Cluster) EnrolAs(ctx context.Context, link client.Invitation, name string, e client.Enrolment, with ...func(*client.Options)) (*client.Device, error) {
	return c.open(link, name, with, func(v *client.Device, id wire.DeviceID) error {
		e.Device, e.Root = id, link.Root
		return v.Enrol(ctx, e)
	})
}

// Server returns where devices of an organization connect: a link without a code.
func (c *Cluster) Server(d wire.Domain, user string) client.Invitation {
	o := c.orgs[d]
	host := o.cfg.Gateway.Public
	if host == "" {
		host = o.cfg.Gateway.Listen
	}
	return client.Invitation{Host: host, Domain: d, User: user, Root: o.root}
}

// Resume opens the store of a device that StopDevice has ended, and runs it again. Each of with changes the
// options of this device.
func (c *Cluster) Resume(d wire.Domain, user, name string, with ...func(*client.Options)) (*client.Device, error) {
	return c.open(c.Server(d, user), name, with, func(*client.Device, wire.DeviceID) error { return nil })
}

func (c *Cluster) open(link client.Invitation, name string, with []func(*client.Options), prepare func(*client.Device, wire.DeviceID) error) (*client.Device, error) {
	id, err := link.DeviceID(name)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(c.dir, string(link.Domain), "devices", link.User, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	key, err := client.KeyFile(filepath.Join(dir, "key"))
	if err != nil {
		return nil, err
	}
	store, err := client.OpenStore(dir, key)
	if err != nil {
		return nil, err
	}
	o := client.Options{Store: store, Transport: client.WebSocket(link, c.opts.TLS), Log: c.opts.Logger.With("device", id)}
	if c.opts.Client != nil {
		c.opts.Client(&o)
	}
	for _, change := range with {
		change(&o)
	}
	v, err := client.Open(o)
	if err == nil {
		err = prepare(v, id)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", id, err), store.Close())
	}
	run, cancel := context.WithCancel(context.Background())
	running := &device{Device: v, cancel: cancel, ended: make(chan struct{}), store: store}
	go func() {
		defer close(running.ended)
		if err := v.Run(run); err != nil && run.Err() == nil {
			c.opts.Logger.Error("device ended", "device", id, "error", err)
		}
	}()
	c.mu.Lock()
	c.devices = append(c.devices, running)
	c.mu.Unlock()
	return v, nil
}

// StopDevice ends a device as if its process had ended, and closes its store.
func (c *Cluster) StopDevice(v *client.Device) error {
	c.mu.Lock()
	var found *device
	kept := c.devices[:0]
	for _, d := range c.devices {
		if d.Device == v {
			found = d
		} else {
			kept = append(kept, d)
		}
	}
	c.devices = kept
	c.mu.Unlock()
	if found == nil {
		return nil
	}
	found.cancel()
	<-found.ended
	return found.store.Close()
}

// Close ends all devices, then all nodes.
func (c *Cluster) Close() error {
	c.mu.Lock()
	list := append([]*device{}, c.devices...)
	c.mu.Unlock()
	var errs []error
	for _, d := range list {
		errs = append(errs, c.StopDevice(d.Device))
	}
	var stopping sync.WaitGroup
	var mu sync.Mutex // guards errs
	for d := range c.orgs {
		stopping.Go(func() { // all at once, since a node that stops later waits for those that have stopped
			err := c.Stop(d)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	stopping.Wait()
	return errors.Join(errs...)
}
