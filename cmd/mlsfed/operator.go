package main

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
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/node"
	"github.com/mlsfed/mlsfed/wire"
)

// defaultConfig is the configuration file where neither a flag nor MLSFED_CONFIG names one.
const defaultConfig = "mlsfed.yaml"

// addConfigFlag adds --config to a command that concerns a node.
func addConfigFlag(c *cobra.Command) *string {
	path := defaultConfig
	if named := os.Getenv("MLSFED_CONFIG"); named != "" {
		path = named
	}
	return c.Flags().StringP("config", "c", path, "configuration file of the node (or MLSFED_CONFIG)")
}

func loadConfig(path string) (*config.Config, error) { return config.Load(path, os.Environ()) }

// operator is a command that concerns a node, at work.
type operator struct {
	cfg        *config.Config
	file       string // the configuration's
	json       bool
	out, notes io.Writer
}

// newOperator gives a command that concerns a node its flag and what it does.
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
		return do(c.Context(), &operator{cfg, *path, asJSON, c.OutOrStdout(), c.ErrOrStderr()}, args)
	}
	return c
}

// printing adds --json to a command that has something for programs.
func printing(c *cobra.Command) *cobra.Command {
	c.Flags().Bool("json", false, "print JSON, one object a line")
	return c
}

// user reads the name of one of the organization's users.
func (o *operator) user(name string) (wire.UserID, error) {
	u, err := userID(o.cfg.Domain, name)
	if err != nil {
		return "", usageError{err}
	}
	if u.Organization() != o.cfg.Domain {
		return "", usageError{fmt.Errorf("%s is not a user of %s: ask the operator of %s", personName(u), o.cfg.Domain, u.Organization())}
	}
	return u, nil
}

// userID takes alice@a.example, alice for a user of a domain, or an identifier.
func userID(domain wire.Domain, s string) (wire.UserID, error) {
	if strings.HasPrefix(s, "mimi:") {
		return wire.ParseUserID(s)
	}
	name, of, other := strings.Cut(s, "@")
	if other {
		domain = wire.Domain(of)
	}
	u, err := wire.NewUserID(domain, name)
	if wrong := domain.Check(); wrong != nil && strings.ContainsFunc(of, func(r rune) bool { return r > unicode.MaxASCII }) {
		return "", fmt.Errorf("%q names no user: %w", s, wrong) // it says how such a domain is written
	}
	if err != nil {
		return "", fmt.Errorf("%q names no user: wanted one as alice@a.example, in lower-case letters, digits, '-', '.', '_' and '~'", s)
	}
	return u, nil
}

// control speaks to the running node of a configuration.
type control struct {
	client *http.Client
}

// control prepares to ask the node.
func (o *operator) control() *control { return newControl(o.cfg) }

func newControl(cfg *config.Config) *control {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", cfg.Admin.Socket)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
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

// tell is ask for what is answered by nothing but success.
func (c *control) tell(ctx context.Context, path string, request any) error {
	return c.ask(ctx, http.MethodPost, path, request, new(struct{}))
}

// status asks what 'mlsfed status' shows.
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
			err = inner // without the address that is none
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
	return nil, plain(&refused)
}

// printJSON writes an object for programs, in a line.
func printJSON(out io.Writer, v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // a link is to be copied as it is
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := out.Write(escapeJSON(b.Bytes()))
	return err
}

// printList writes objects for programs, each in a line; nothing for none.
func printList[T any](out io.Writer, list []T) error {
	for _, v := range list {
		if err := printJSON(out, v); err != nil {
			return err
		}
	}
	return nil
}
