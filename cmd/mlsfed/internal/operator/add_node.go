package operator

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/internal/audit"
	"github.com/mlsfed/mlsfed/wire"
)

// addNodeOptions are the flags of add-node.
type addNodeOptions struct {
	dir, gateway, links, advertised string
}

func newAddNode() *cobra.Command {
	var o addNodeOptions
	c := &cobra.Command{
		Use:   "add-node NODE",
		Short: "Make a further node of the organization, which orders conversations",
		Long: `add-node makes a further node of an organization in a folder of its own. Bring that folder to the
node's machine, and serve it there. The command needs the root key, and leaves it where it is.

The node holds replicas of conversations: with it, the organization keeps its vote in a conversation while
another of its nodes is away. Devices stay on the node that enrolled them, and are offline while that one is.
The organizations that are admitted now are admitted by it too; later changes (mlsfed peer) are made on each
node.`,
		Example: `  mlsfed add-node n2.a.example --advertise n2.a.example:7443 -c a.example/mlsfed.yaml`,
		GroupID: cli.GroupOperators,
		Args:    cobra.ExactArgs(1),
	}
	path := addConfigFlag(c)
	f := c.Flags()
	f.StringVar(&o.dir, "dir", "", "folder to make (default: the node's name)")
	f.StringVar(&o.gateway, "gateway", "127.0.0.1:8443", "address to listen on for health checks")
	f.StringVar(&o.links, "federation", "127.0.0.1:7443", "address to listen on for other nodes")
	f.StringVar(&o.advertised, "advertise", "", "host:port at which they reach it (default: the one of --federation)")
	c.RunE = func(c *cobra.Command, args []string) error { return runAddNode(c, *path, wire.NodeID(args[0]), o) }
	return c
}

func runAddNode(c *cobra.Command, path string, node wire.NodeID, o addNodeOptions) error {
	cfg, err := loadConfig(path)
	if err != nil {
		return err
	}
	if err := node.Check(); err != nil || node.Organization() != cfg.Domain {
		return cli.UsageError(fmt.Errorf("%q is not a node of %s: wanted one label before it, as n2.%s", string(node), cfg.Domain, cfg.Domain))
	}
	if o.dir == "" {
		o.dir = string(node)
	}
	if o.advertised == "" {
		o.advertised = o.links
	}
	if host, _, err := net.SplitHostPort(o.advertised); err != nil || host == "" {
		return cli.UsageError(fmt.Errorf("--advertise %q: wanted host:port, as others reach this node", o.advertised))
	}
	first, err := organization.LoadIdentity(cfg.Identity)
	if err != nil {
		return err
	}
	if first.Authority == nil {
		return fmt.Errorf("add-node: the root key of %s is not in %s: bring it back while this is done", cfg.Domain, cfg.Identity)
	}
	if first.Node == node {
		return fmt.Errorf("add-node: %s is the node of %s already: choose another name", node, path)
	}
	file, raw, err := newFolder("add-node", o.dir, map[string]any{
		"domain": string(cfg.Domain), "node": string(node), "orders_only": true, "gateway.listen": o.gateway,
		"federation.listen": o.links, "federation.advertise": o.advertised,
	})
	if err != nil {
		return err
	}
	identity := filepath.Join(o.dir, "data", "identity")
	if err := organization.InitNode(identity, first.Authority, organization.InitOptions{Node: node}); err != nil {
		return err
	}
	// The new node finds the other nodes at the bundle's seeds.
	if err := copyFile(filepath.Join(cfg.Identity, "bundle.json"), filepath.Join(identity, "bundle.json")); err != nil {
		return fmt.Errorf("add-node: %w", err)
	}
	switch err := os.CopyFS(filepath.Join(identity, "peers"), os.DirFS(filepath.Join(cfg.Identity, "peers"))); {
	case errors.Is(err, fs.ErrNotExist): // none is admitted yet
	case err != nil:
		return fmt.Errorf("add-node: admitted organizations: %w", err)
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		return fmt.Errorf("add-node: %w", err)
	}
	record(cfg, c.ErrOrStderr(), audit.NodeAdded, string(node), nil)
	fmt.Fprintf(c.OutOrStdout(), "%s is made in %s. Serve it on its machine: mlsfed serve -c %s\n", node, o.dir, file)
	return nil
}
