package federation

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

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

const linksMetric = "mlsfed_federation_links"

// cluster creates organizations whose nodes are processes, and starts none of them.
func (b *bench) cluster(dir string, domains ...wire.Domain) (*cluster.Cluster, error) {
	return cluster.New(dir, cluster.Options{Binary: b.Node, Edit: func(c *config.Config) {
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

// idle measures the nodes while nothing happens, and prints the costs of one node.
func (b *bench) idle(ctx context.Context, c *cluster.Cluster, name string, n int, domains ...wire.Domain) error {
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
				b.Table.Progress("%v", err)
			}
			sum += float64(read + written)
		}
		return sum
	}
	processor, err := processors()
	if err != nil {
		return err
	}
	begun, bytes := time.Now(), traffic() // without the cost of reading the processor time
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

// measureMesh runs the part 'mesh'.
func (b *bench) measureMesh(ctx context.Context, dir string, n int) (err error) {
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
func (b *bench) measureChange(ctx context.Context, c *cluster.Cluster, domains []wire.Domain) error {
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
	bundles []*organization.Bundle
	all     sync.WaitGroup
	stop    context.CancelFunc

	mu  sync.Mutex // guards err
	err error
}

// partnersOf starts n nodes that admit one organization and know its address.
func partnersOf(ctx context.Context, dir, prefix string, n int, of *organization.Bundle) (*partners, error) {
	ctx, stop := context.WithCancel(ctx)
	p := &partners{stop: stop}
	for _, d := range benchDomains(prefix, n) {
		home := filepath.Join(dir, string(d))
		err := organization.Init(home, organization.InitOptions{Domain: d})
		var id *organization.Identity
		var peers *organization.Peers
		if err == nil {
			id, err = organization.LoadIdentity(home)
		}
		if err == nil {
			peers, err = organization.OpenPeers(filepath.Join(home, "peers"))
		}
		if err == nil {
			err = peers.Add(of)
		}
		var f *federation.Federation
		if err == nil {
			f, err = federation.New(federation.Config{Identity: id, Peers: peers, Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)})
		}
		var bundle *organization.Bundle
		if err == nil {
			bundle, err = organization.NewBundle(d, id.Root)
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

// bundleOf returns the bundle of an organization of a cluster.
func bundleOf(c *cluster.Cluster, d wire.Domain) (*organization.Bundle, error) {
	return organization.ReadBundle(filepath.Join(c.Config(d).Identity, "bundle.json"))
}

func admitAll(c *cluster.Cluster, d wire.Domain, bundles []*organization.Bundle) (time.Duration, error) {
	begun := time.Now()
	peers, err := organization.PeersIn(filepath.Join(c.Config(d).Identity, "peers"))
	if err == nil {
		err = errors.Join(peers.AddAll(bundles)...)
	}
	return time.Since(begun), err
}

// measureHub runs the part 'hub'.
func (b *bench) measureHub(ctx context.Context, dir string, n int) (err error) {
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
	return errors.Join(b.row("hub/memory", n, (full-bare)/float64(n)/1000, "kB"), b.row("hub/status", n, harness.Milliseconds(time.Since(begun)), "ms"))
}

// deadOrganization returns the bundle, with one seed, of an organization whose key does not exist any more.
func deadOrganization(d wire.Domain, address string, serial int64) (*organization.Bundle, error) {
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
	return organization.NewBundle(d, root, organization.Seed{Node: wire.NodeID("n1." + d), Address: address})
}

// countDials closes and counts the connections to a listener until stop is called.
func countDials(l net.Listener, dials *atomic.Int64) (stop func() error) {
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
	return func() error {
		err := l.Close()
		<-accepting
		return err
	}
}

// measureDead runs the part 'dead'.
func (b *bench) measureDead(ctx context.Context, dir string, n int) (err error) {
	const one wire.Domain = "one.example"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var dials atomic.Int64
	stop := countDials(l, &dials)
	defer func() { err = errors.Join(err, stop()) }()
	c, err := b.cluster(dir, one)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	bundles := make([]*organization.Bundle, n-1)
	for i, d := range benchDomains("d", n-1) {
		if bundles[i], err = deadOrganization(d, l.Addr().String(), int64(i+1)); err != nil {
			return err
		}
	}
	own, err := bundleOf(c, one)
	if err != nil {
		return err
	}
	own.Seeds = nil // the live organization waits to be dialed
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
func (p *partners) listening(ctx context.Context, dir string, of *organization.Bundle) (*organization.Bundle, error) {
	home := filepath.Join(dir, "live")
	if err := organization.Init(home, organization.InitOptions{Domain: "zzz.example"}); err != nil {
		return nil, err
	}
	id, err := organization.LoadIdentity(home)
	if err != nil {
		return nil, err
	}
	peers, err := organization.OpenPeers(filepath.Join(home, "peers"))
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
	return organization.NewBundle(id.Domain, id.Root, organization.Seed{Node: id.Node, Address: f.Address()})
}
