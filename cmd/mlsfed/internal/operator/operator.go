package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/internal/platform"
	"github.com/mlsfed/mlsfed/node"
	"github.com/mlsfed/mlsfed/wire"
)

// defaultConfig is the configuration file if neither a flag nor MLSFED_CONFIG names one.
const defaultConfig = "mlsfed.yaml"

// addConfigFlag adds --config to a command that concerns a node.
func addConfigFlag(c *cobra.Command) *string {
	path := defaultConfig
	if named := os.Getenv("MLSFED_CONFIG"); named != "" {
		path = named
	}
	return c.Flags().StringP("config", "c", path, "configuration file of the node (or MLSFED_CONFIG)")
}

// loadConfig reads the configuration of a node that runs on this system.
func loadConfig(path string) (*config.Config, error) {
	if err := node.Supported(); err != nil {
		return nil, err
	}
	return config.Load(path, os.Environ())
}

// operator is a running command that concerns a node.
type operator struct {
	cfg        *config.Config
	file       string // the configuration's
	json       bool
	out, notes io.Writer
}

// newOperator adds the flag and the action to a command that concerns a node.
func newOperator(c *cobra.Command, do func(ctx context.Context, o *operator, args []string) error) *cobra.Command {
	path := addConfigFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 1 && c.Name() == "check" { // config check FILE
			*path = args[0]
		}
		cfg, err := loadConfig(*path)
		if err != nil {
			return err
		}
		asJSON, _ := c.Flags().GetBool("json") // false for a command without it
		return do(c.Context(), &operator{cfg: cfg, file: *path, json: asJSON, out: c.OutOrStdout(), notes: c.ErrOrStderr()}, args)
	}
	return c
}

// user reads the name of one of the organization's users.
func (o *operator) user(name string) (wire.UserID, error) {
	u, err := cli.ParseUser(o.cfg.Domain, name)
	if err != nil {
		return "", cli.UsageError(err)
	}
	if u.Organization() != o.cfg.Domain {
		return "", cli.UsageError(fmt.Errorf("%s is not a user of %s: ask the operator of %s", cli.PersonName(u), o.cfg.Domain, u.Organization()))
	}
	return u, nil
}

// control is a client of the running node of a configuration.
type control struct {
	client *http.Client
}

// control returns a client of the node.
func (o *operator) control() *control { return newControl(o.cfg) }

func newControl(cfg *config.Config) *control {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", cfg.Admin.Socket)
		switch {
		case errors.Is(err, fs.ErrNotExist), platform.Refused(err):
			return nil, fmt.Errorf("no node answers at %s: start it with 'mlsfed serve' and the same configuration", cfg.Admin.Socket)
		case errors.Is(err, fs.ErrPermission):
			return nil, fmt.Errorf("%s may not be opened: only the user who runs the node may ask it", cfg.Admin.Socket)
		case err != nil:
			return nil, fmt.Errorf("the node cannot be asked: %w", err)
		}
		return conn, nil
	}
	return &control{&http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// ask sends a JSON request, and fills answer.
func (c *control) ask(ctx context.Context, method, path string, request, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	r, err := c.send(ctx, method, path, request)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if err := json.NewDecoder(io.LimitReader(r.Body, 256<<20)).Decode(answer); err != nil {
		return fmt.Errorf("the node's answer: %w", err)
	}
	return nil
}

// post is like ask, for a request whose answer has no content.
func (c *control) post(ctx context.Context, path string, request any) error {
	return c.ask(ctx, http.MethodPost, path, request, new(struct{}))
}

// status asks for what 'mlsfed status' shows.
func (c *control) status(ctx context.Context) (*node.Status, error) {
	s := new(node.Status)
	return s, c.ask(ctx, http.MethodGet, "/status", nil, s)
}

func (c *control) send(ctx context.Context, method, path string, request any) (*http.Response, error) {
	var body io.Reader
	if request != nil {
		raw, err := json.Marshal(request)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(raw)
	}
	q, err := http.NewRequestWithContext(ctx, method, "http://node"+path, body)
	if err != nil {
		return nil, err
	}
	r, err := c.client.Do(q)
	if err != nil {
		if inner := errors.Unwrap(err); inner != nil {
			err = inner // without the address, which is not a real one
		}
		return nil, err
	}
	if r.StatusCode == http.StatusOK {
		return r, nil
	}
	defer r.Body.Close()
	var refused wire.Error
	if err := json.NewDecoder(io.LimitReader(r.Body, wire.MaxError)).Decode(&refused); err != nil || refused.Code == "" {
		return nil, fmt.Errorf("the node answers %s", r.Status)
	}
	return nil, cli.Plain(&refused)
}
