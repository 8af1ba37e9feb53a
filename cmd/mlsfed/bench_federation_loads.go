package main

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/test/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

const linksMetric = "mlsfed_federation_links"

// cluster makes organizations whose nodes are processes, and starts none.
func (b *federationBench) cluster(dir string, domains ...wire.Domain) (*cluster.Cluster, error) {
	return cluster.New(dir, cluster.Options{Binary: b.node, Edit: func(c *config.Config) {
		c.Admin.Socket = filepath.Join(dir, string(c.Domain)+".sock")
		c.Gateway.EnrolPerMinute, c.Gateway.ConnectPerSec, c.Gateway.FramesPerSecond = 1e6, 1e4, 1e5
		c.Directory.ClaimBurst = 10_000
	}}, domains...)
}

func benchDomains(prefix string, n int) []wire.Domain {
	list := make([]wire.Domain, n)
	for i := range list {
		list[i] = wire.Domain(fmt.Sprintf("%s%04d.example", prefix, i))
	}
	return list
}

// idle measures the nodes while nothing happens, and prints what one of them costs.
func (b *federationBench) idle(ctx context.Context, c *cluster.Cluster, name string, n int, domains ...wire.Domain) error {
	if err := sleepUntil(ctx, b.settle); err != nil {
		return err
	}
	processors := func() (sum time.Duration, err error) {
		for _, d := range domains {
			p, err := c.Processor(ctx, d)
			if err != nil {
				return 0, err
			}
			sum += p
		}
		return sum, nil
	}
	traffic := func() (sum float64) {
		for _, d := range domains {
			read, written, err := c.Traffic(d)
			if err != nil {
				b.table.progress("%v", err)
			}
			sum += float64(read + written)
		}
		return sum
	}
	processor, err := processors()
	if err != nil {
		return err
	}
	begun, bytes := time.Now(), traffic() // without what the question about the processor costs
	if err := sleepUntil(ctx, b.window); err != nil {
		return err
	}
	per := time.Since(begun).Seconds() * float64(len(domains))
	bytes = traffic() - bytes
	later, err := processors()
	if err != nil {
		return err
	}
	return errors.Join(
		b.row(name+"/idle-processor", n, (later-processor).Seconds()/per*100, "%"),
		b.row(name+"/idle-traffic", n, bytes/per/1000, "kB/s"))
}

// measureMesh is the part 'mesh'.
func (b *federationBench) measureMesh(ctx context.Context, dir string, n int) (err error) {
	domains := benchDomains("m", n)
	c, err := b.cluster(dir, domains...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.StartAll(ctx); err != nil {
		return err
	}
	lacking := 0
	took, _, err := b.await(ctx, "links", func() (bool, string, error) {
		lacking = n * (n - 1)
		for _, d := range domains {
			links, err := c.Metric(ctx, d, linksMetric)
			if err != nil {
				return false, "", err
			}
			lacking -= int(links)
		}
		return lacking <= 0, fmt.Sprintf("%d of %d lack", lacking, n*(n-1)), nil
	})
	if err != nil {
		return err
	}
	if err := errors.Join(b.row("mesh/links", n, took.Seconds(), "s"), b.row("mesh/lacking", n, float64(lacking), "links")); err != nil {
		return err
	}
	if err := b.idle(ctx, c, "mesh", n, domains...); err != nil {
		return err
	}
	return b.measureChange(ctx, c, domains)
}

// measureChange restarts a node, and measures from its start until all others have its new record.
func (b *federationBench) measureChange(ctx context.Context, c *cluster.Cluster, domains []wire.Domain) error {
	changed, waiting := domains[0], domains[1:]
	if err := c.Stop(changed); err != nil {
		return err
	}
	begun := time.Now()
	if err := c.Start(ctx, changed); err != nil {
		return err
	}
	took, _, err := b.await(ctx, "record", func() (bool, string, error) {
		for len(waiting) > 0 {
			s, err := c.Status(ctx, waiting[0])
			if err != nil {
				return false, "", err
			}
			for _, p := range s.Peers.Peers {
				if p.Domain == changed && (len(p.Nodes) == 0 || p.Nodes[0].Recorded.Before(begun.Add(-time.Millisecond))) {
					return false, fmt.Sprintf("%d nodes have the old one", len(waiting)), nil
				}
			}
			waiting = waiting[1:]
		}
		return true, "", nil
	})
	if err != nil {
		return err
	}
	return b.row("mesh/record", len(domains), took.Seconds(), "s")
}

// partners are nodes of other organizations in this process.
type partners struct {
	bundles []*federation.Bundle
	all     sync.WaitGroup
	stop    context.CancelFunc

	mu  sync.Mutex // guards err
	err error
}

// partnersOf starts n nodes that admit one organization, and know where it is.
func partnersOf(ctx context.Context, dir, prefix string, n int, of *federation.Bundle) (*partners, error) {
	ctx, stop := context.WithCancel(ctx)
	p := &partners{stop: stop}
	for _, d := range benchDomains(prefix, n) {
		home := filepath.Join(dir, string(d))
		err := federation.Init(home, federation.InitOptions{Domain: d})
		var id *federation.Identity
		var peers *federation.Peers
		if err == nil {
			id, err = federation.LoadIdentity(home)
		}
		if err == nil {
			peers, err = federation.OpenPeers(filepath.Join(home, "peers"))
		}
		if err == nil {
			err = peers.Add(of)
		}
		var f *federation.Federation
		if err == nil {
			f, err = federation.New(federation.Config{Identity: id, Peers: peers, Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)})
		}
		var bundle *federation.Bundle
		if err == nil {
			bundle, err = federation.NewBundle(d, id.Root)
		}
		if err != nil {
			return p, err
		}
		p.bundles = append(p.bundles, bundle)
		p.all.Go(func() {
			if err := f.Run(ctx); err != nil {
				p.mu.Lock()
				p.err = errors.Join(p.err, err)
				p.mu.Unlock()
			}
		})
	}
	return p, nil
}

func (p *partners) close() error {
	p.stop()
	p.all.Wait()
	return p.err
}

// bundleOf is the bundle of an organization of a cluster.
func bundleOf(c *cluster.Cluster, d wire.Domain) (*federation.Bundle, error) {
	return federation.ReadBundle(filepath.Join(c.Config(d).Identity, "bundle.json"))
}

func admitAll(c *cluster.Cluster, d wire.Domain, bundles []*federation.Bundle) (time.Duration, error) {
	begun := time.Now()
	peers, err := federation.PeersIn(filepath.Join(c.Config(d).Identity, "peers"))
	for _, other := range bundles {
		if err == nil {
			err = peers.Add(other)
		}
	}
	return time.Since(begun), err
}

// measureHub is the part 'hub'.
func (b *federationBench) measureHub(ctx context.Context, dir string, n int) (err error) {
	const hub wire.Domain = "hub.example"
	c, err := b.cluster(dir, hub)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	bundle, err := bundleOf(c, hub)
	if err != nil {
		return err
	}
	if err := c.Start(ctx, hub); err != nil {
		return err
	}
	bare, err := c.Metric(ctx, hub, "process_resident_memory_bytes")
	if err != nil {
		return err
	}
	p, err := partnersOf(ctx, dir, "p", n, bundle)
	defer func() { err = errors.Join(err, p.close()) }()
	if err != nil {
		return err
	}
	if _, err := admitAll(c, hub, p.bundles); err != nil {
		return err
	}
	links := 0
	took, _, err := b.await(ctx, "links", func() (bool, string, error) {
		up, err := c.Metric(ctx, hub, linksMetric)
		links = int(up)
		return links >= n, fmt.Sprintf("%d of %d", links, n), err
	})
	if err != nil {
		return err
	}
	if err := errors.Join(b.row("hub/links", n, took.Seconds(), "s"), b.row("hub/lacking", n, float64(n-links), "links")); err != nil {
		return err
	}
	if err := b.idle(ctx, c, "hub", n, hub); err != nil {
		return err
	}
	full, err := c.Metric(ctx, hub, "process_resident_memory_bytes")
	if err != nil {
		return err
	}
	begun := time.Now()
	if _, err := c.Status(ctx, hub); err != nil {
		return err
	}
	return errors.Join(b.row("hub/memory", n, (full-bare)/float64(n)/1000, "kB"), b.row("hub/status", n, inMilliseconds(time.Since(begun)), "ms"))
}

// deadOrganization makes the bundle of an organization of which nobody has the key, with one seed.
func deadOrganization(d wire.Domain, address string, serial int64) (*federation.Bundle, error) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: string(d)}, DNSNames: []string{string(d)},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(nil, template, template, public, private)
	if err != nil {
		return nil, err
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return federation.NewBundle(d, root, federation.Seed{Node: wire.NodeID("n1." + d), Address: address})
}

// measureDead is the part 'dead'.
func (b *federationBench) measureDead(ctx context.Context, dir string, n int) (err error) {
	const one wire.Domain = "one.example"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var dials atomic.Int64
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			dials.Add(1)
			conn.Close()
		}
	}()
	defer func() {
		err = errors.Join(err, l.Close())
		<-accepting
	}()
	c, err := b.cluster(dir, one)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	bundles := make([]*federation.Bundle, n-1)
	for i, d := range benchDomains("d", n-1) {
		if bundles[i], err = deadOrganization(d, l.Addr().String(), int64(i+1)); err != nil {
			return err
		}
	}
	own, err := bundleOf(c, one)
	if err != nil {
		return err
	}
	own.Seeds = nil // the one that lives waits to be dialed
	p, err := partnersOf(ctx, dir, "zz", 0, own)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	live, err := p.listening(ctx, dir, own)
	if err != nil {
		return err
	}
	took, err := admitAll(c, one, append(bundles, live))
	if err != nil {
		return err
	}
	if err := b.row("dead/admit", n, took.Seconds(), "s"); err != nil {
		return err
	}
	begun := time.Now()
	if err := c.Start(ctx, one); err != nil {
		return err
	}
	if err := b.row("dead/start", n, time.Since(begun).Seconds(), "s"); err != nil {
		return err
	}
	if took, _, err = b.await(ctx, "the one that lives", func() (bool, string, error) {
		links, err := c.Metric(ctx, one, linksMetric)
		return links > 0, fmt.Sprintf("%d attempts so far", dials.Load()), err
	}); err != nil {
		return err
	}
	if err := b.row("dead/live", n, took.Seconds(), "s"); err != nil {
		return err
	}
	if err := sleepUntil(ctx, b.settle); err != nil {
		return err
	}
	settle := b.settle
	b.settle = 0
	defer func() { b.settle = settle }()
	before, from := dials.Load(), time.Now()
	if err := b.idle(ctx, c, "dead", n, one); err != nil {
		return err
	}
	return b.row("dead/dials", n, float64(dials.Load()-before)/time.Since(from).Seconds(), "per s")
}

// listening starts one more partner, and returns its bundle with the node as its seed.
func (p *partners) listening(ctx context.Context, dir string, of *federation.Bundle) (*federation.Bundle, error) {
	home := filepath.Join(dir, "live")
	if err := federation.Init(home, federation.InitOptions{Domain: "zzz.example"}); err != nil {
		return nil, err
	}
	id, err := federation.LoadIdentity(home)
	if err != nil {
		return nil, err
	}
	peers, err := federation.OpenPeers(filepath.Join(home, "peers"))
	if err == nil {
		err = peers.Add(of)
	}
	if err != nil {
		return nil, err
	}
	f, err := federation.New(federation.Config{Identity: id, Peers: peers, Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	run, stop := context.WithCancel(ctx)
	p.all.Go(func() { _ = f.Run(run) })
	before := p.stop
	p.stop = func() { stop(); before() }
	select {
	case <-f.Ready():
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return federation.NewBundle(id.Domain, id.Root, federation.Seed{Node: id.Node, Address: f.Address()})
}

// measureConversation is the part 'conversation'.
func (b *federationBench) measureConversation(ctx context.Context, dir string, n int) (err error) {
	domains := benchDomains("c", n)
	c, err := b.cluster(dir, domains...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.StartAll(ctx); err != nil {
		return err
	}
	devices := make([]*client.Device, n)
	users := make([]wire.UserID, n)
	for i, d := range domains {
		if devices[i], err = c.Device(ctx, d, "user", "device"); err != nil {
			return err
		}
		if users[i], err = wire.NewUserID(d, "user"); err != nil {
			return err
		}
	}
	id, err := devices[0].Create(ctx, client.CreateOptions{Name: "bench"})
	if err != nil {
		return err
	}
	begun := time.Now()
	if err := devices[0].Add(ctx, id, users[1:]...); err != nil {
		return err
	}
	if err := b.row("conversation/add", n, time.Since(begun).Seconds(), "s"); err != nil {
		return err
	}
	voters := time.Duration(0)
	took, _, err := b.await(ctx, "replicas", func() (bool, string, error) {
		s, err := c.Status(ctx, domains[0])
		if err != nil || len(s.Conversations) == 0 {
			return false, "no conversation yet", err
		}
		v := s.Conversations[0]
		if odd := n - 1 + n%2; voters == 0 && len(v.Voters) >= min(5, odd) {
			voters = time.Since(begun)
		}
		return voters > 0 && len(v.Voters)+len(v.Learners) >= n, fmt.Sprintf("%d voters, %d learners", len(v.Voters), len(v.Learners)), nil
	})
	if err != nil {
		return err
	}
	if err := errors.Join(b.row("conversation/voters", n, voters.Seconds(), "s"), b.row("conversation/replicas", n, took.Seconds(), "s")); err != nil {
		return err
	}
	return b.measureCommits(ctx, c, id, devices, domains)
}

// measureCommits makes commits that change keys alone, and prints what all nodes write for one.
func (b *federationBench) measureCommits(ctx context.Context, c *cluster.Cluster, id wire.ConversationID, devices []*client.Device, domains []wire.Domain) error {
	n := len(domains)
	for _, v := range devices {
		if err := cluster.Await(ctx, v, func() (bool, error) {
			cv, err := v.Conversation(ctx, id)
			if wire.CodeOf(err) == wire.UnknownConversation {
				return false, nil
			}
			return err == nil && cv.State == client.StateActive && cv.Members == n, err
		}); err != nil {
			return err
		}
	}
	written := func() (sum uint64, err error) {
		for _, d := range domains {
			_, w, err := c.Traffic(d)
			if err != nil {
				return 0, err
			}
			sum += w
		}
		return sum, nil
	}
	const commits = 5
	before, err := written()
	if err != nil {
		b.table.progress("%v", err)
		return nil
	}
	for i := range commits {
		v := devices[i%len(devices)]
		if err := v.UpdateKeys(ctx, id); err != nil {
			return fmt.Errorf("commit %d: %w", i, err)
		}
		cv, err := v.Conversation(ctx, id)
		if err != nil {
			return err
		}
		for _, other := range devices {
			if err := cluster.Await(ctx, other, func() (bool, error) {
				now, err := other.Conversation(ctx, id)
				return err == nil && now.Epoch >= cv.Epoch, err
			}); err != nil {
				return err
			}
		}
	}
	after, err := written()
	if err != nil {
		return err
	}
	return b.row("conversation/commit", n, float64(after-before)/commits/1000, "kB")
}
