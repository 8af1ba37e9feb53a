package operator

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/internal/audit"
	"github.com/mlsfed/mlsfed/node"
	"github.com/mlsfed/mlsfed/wire"
)

// initOptions are the flags of init.
type initOptions struct {
	domain, dir, node                  string
	gateway, public, links, advertised string
}

func newInit() *cobra.Command {
	var o initOptions
	c := &cobra.Command{
		Use:   "init --domain DOMAIN",
		Short: "Make an organization: root key, first node, configuration, bundle",
		Long: `init makes an organization and its first node in one folder that only you can read:

  mlsfed.yaml            the configuration, annotated
  data/identity/         root key and certificate, node key and certificate
  bundle.json            what other organizations admit: mlsfed peer add bundle.json

The root key signs nodes and devices. A node runs without it: move data/identity/root.key to a safe
place if devices are to be enrolled, and certificates renewed, only when it is brought back.`,
		Example: `  mlsfed init --domain a.example
  mlsfed init --domain a.example --public chat.a.example:8443 --advertise n1.a.example:7443`,
		GroupID: cli.GroupOperators,
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return runInit(c, o) },
	}
	f := c.Flags()
	f.StringVar(&o.domain, "domain", "", "the organization's domain, as a.example")
	f.StringVar(&o.dir, "dir", "", "folder to make (default: the domain)")
	f.StringVar(&o.node, "node", "", "name of the node (default: n1 of the domain)")
	f.StringVar(&o.gateway, "gateway", "127.0.0.1:8443", "address to listen on for devices")
	f.StringVar(&o.public, "public", "", "host:port at which devices reach it (default: the one of --gateway)")
	f.StringVar(&o.links, "federation", "127.0.0.1:7443", "address to listen on for other organizations")
	f.StringVar(&o.advertised, "advertise", "", "host:port at which they reach it (default: the one of --federation)")
	if err := c.MarkFlagRequired("domain"); err != nil {
		panic(err) // the flag is declared above
	}
	return c
}

func runInit(c *cobra.Command, o initOptions) error {
	if err := node.Supported(); err != nil {
		return err
	}
	domain, err := wire.ParseDomain(o.domain)
	if err != nil {
		return cli.UsageError(fmt.Errorf("--domain: %w: wanted one as a.example, in lower-case letters, digits, '-' and '.'", err))
	}
	if o.dir == "" {
		o.dir = o.domain
	}
	if o.node == "" {
		o.node = "n1." + o.domain
	}
	if o.advertised == "" {
		o.advertised = o.links
	}
	if host, _, err := net.SplitHostPort(o.advertised); err != nil || host == "" {
		return cli.UsageError(fmt.Errorf("--advertise %q: wanted host:port, as others reach this node", o.advertised))
	}
	file, raw, err := newFolder("init", o.dir, map[string]any{
		"domain": o.domain, "node": o.node, "gateway.listen": o.gateway, "gateway.public": o.public,
		"federation.listen": o.links, "federation.advertise": o.advertised,
	})
	if err != nil {
		return err
	}
	identity := filepath.Join(o.dir, "data", "identity")
	err = organization.Init(identity, organization.InitOptions{Domain: domain, Node: wire.NodeID(o.node), Address: o.advertised})
	if err != nil {
		return cli.Plain(err)
	}
	bundle := filepath.Join(o.dir, "bundle.json")
	if err := copyFile(filepath.Join(identity, "bundle.json"), bundle); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	if cfg, err := config.Load(file, nil); err == nil {
		record(cfg, c.ErrOrStderr(), audit.OrganizationMade, o.domain, map[string]string{"node": o.node})
	}
	fmt.Fprintf(c.OutOrStdout(), `%s is made in %s.

  start its node          mlsfed serve -c %s
  invite a user           mlsfed user invite alice -c %s
  admit another one       mlsfed peer add THEIR-bundle.json -c %s
  hand out                %s
  keep safe               %s
`, domain, o.dir, file, file, file, bundle, filepath.Join(identity, "root.key"))
	return nil
}

// newFolder creates a node's folder, for its owner only. It returns the path of the configuration and its content:
// the annotated example with values for some keys. It creates nothing if the values are invalid.
func newFolder(op, dir string, values map[string]any) (file string, raw []byte, err error) {
	file = filepath.Join(dir, defaultConfig)
	if _, err := os.Stat(file); err == nil {
		return "", nil, fmt.Errorf("%s: %s exists already: choose another folder with --dir", op, file)
	}
	raw = fill(config.Example, values)
	if _, err := config.Parse(file, raw, nil); err != nil {
		return "", nil, cli.UsageError(fmt.Errorf("%s: nothing was made: %w", op, err))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, fmt.Errorf("%s: %w", op, err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return "", nil, fmt.Errorf("%s: %w", op, err)
	}
	return file, raw, nil
}

// fill sets keys of the annotated example, "key" or "section.key", and leaves the rest as it is.
func fill(example []byte, values map[string]any) []byte {
	section := ""
	line := regexp.MustCompile(`^( *)([a-z_]+):`)
	lines := bytes.Split(example, []byte("\n"))
	for i, l := range lines {
		m := line.FindSubmatch(l)
		if m == nil {
			continue
		}
		key := string(m[2])
		if len(m[1]) == 0 {
			section = key
		} else {
			key = section + "." + key
		}
		if v, ok := values[key]; ok {
			if text, ok := v.(string); ok {
				v = strconv.Quote(text)
			}
			lines[i] = fmt.Appendf(nil, "%s%s: %v", m[1], m[2], v)
		}
	}
	return bytes.Join(lines, []byte("\n"))
}

func copyFile(from, to string) error {
	raw, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, raw, 0o644)
}
