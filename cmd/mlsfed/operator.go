package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/config"
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

// control speaks to the running node of a configuration.
type control struct {
	cfg    *config.Config
	client *http.Client
}

func newControl(path string) (*control, error) {
	cfg, err := loadConfig(path)
	if err != nil {
		return nil, err
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", cfg.Admin.Socket)
		if err != nil {
			return nil, fmt.Errorf("no node answers at %s (%w): is 'mlsfed serve' running with this configuration?", cfg.Admin.Socket, err)
		}
		return conn, nil
	}
	return &control{cfg, &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}, nil
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
	return nil, &refused
}

// printJSON writes a value for programs.
func printJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
