package node

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/directory"
	"github.com/mlsfed/mlsfed/internal/audit"
	"github.com/mlsfed/mlsfed/internal/scim"
	"github.com/mlsfed/mlsfed/wire"
)

// maxSecret bounds a file with a secret, in bytes.
const maxSecret = 4 << 10

// readSecret reads a secret from a file; "" without one.
func readSecret(key, path string) (string, error) {
	if path == "" {
		return "", nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	secret := strings.TrimSpace(string(raw))
	if len(raw) > maxSecret || secret == "" {
		return "", fmt.Errorf("%s: %s holds %d bytes, wanted a secret of at most %d", key, path, len(raw), maxSecret)
	}
	return secret, nil
}

// accounts is the view of an identity provider on the users of the organization.
type accounts struct {
	domain    wire.Domain
	directory *directory.Directory
	online    *online
	audit     *auditor
}

var _ scim.Accounts = (*accounts)(nil)

// byProvider is the name of the identity provider in the audit log.
const byProvider = "scim:"

func (a *accounts) id(name string) (wire.UserID, error) { return wire.NewUserID(a.domain, name) }

func scimUser(a directory.Account) scim.User {
	return scim.User{Name: a.User.Name(), External: a.External, Active: a.Active, Created: a.Created.Std(), Modified: a.Modified.Std()}
}

// List implements scim.Accounts.
func (a *accounts) List(ctx context.Context) ([]scim.User, error) {
	all, err := a.directory.Accounts(ctx)
	list := make([]scim.User, 0, len(all))
	for _, v := range all {
		list = append(list, scimUser(v))
	}
	return list, err
}

// Get implements scim.Accounts.
func (a *accounts) Get(ctx context.Context, name string) (scim.User, error) {
	u, err := a.id(name)
	if err != nil {
		return scim.User{}, err
	}
	v, err := a.directory.Account(ctx, u)
	return scimUser(v), err
}

// Set implements scim.Accounts.
func (a *accounts) Set(ctx context.Context, name, external string, active bool) (scim.User, error) {
	u, err := a.id(name)
	if err != nil {
		return scim.User{}, err
	}
	before, err := a.directory.Account(ctx, u)
	if err != nil && wire.CodeOf(err) != wire.NotFound {
		return scim.User{}, err
	}
	ended, err := a.directory.SetAccount(ctx, u, external, active)
	if err != nil {
		return scim.User{}, err
	}
	switch {
	case !active && (before.Active || len(ended) > 0):
		a.ended(ctx, u, ended)
	case active && err == nil && before.User != "" && !before.Active:
		a.audit.note(audit.UserResumed, byProvider, string(u), nil)
	}
	v, err := a.directory.Account(ctx, u)
	return scimUser(v), err
}

// Delete implements scim.Accounts.
func (a *accounts) Delete(ctx context.Context, name string) error {
	u, err := a.id(name)
	if err != nil {
		return err
	}
	ended, err := a.directory.DeleteAccount(ctx, u)
	if err != nil {
		return err
	}
	a.ended(ctx, u, ended)
	return nil
}

func (a *accounts) ended(ctx context.Context, u wire.UserID, devices []wire.DeviceID) {
	a.audit.note(audit.UserEnded, byProvider, string(u), map[string]string{"devices": strconv.Itoa(len(devices))})
	for _, d := range devices {
		a.online.revoked(ctx, d)
	}
}

// provision returns the handler that serves an identity provider, nil without a token.
func provision(cfg *config.Config, users *accounts, log *slog.Logger) (http.Handler, error) {
	token, err := readSecret("scim.token_file", cfg.SCIM.TokenFile)
	if err != nil || token == "" {
		return nil, err
	}
	return scim.New(scim.Config{
		Domain: cfg.Domain, Token: token, Accounts: users,
		Fault: func(err error) { log.Error("a request of the identity provider failed", "error", err) },
	})
}

// wellKnown returns the document by which clients find this node.
func wellKnown(domain wire.Domain, address, pin string) any {
	w := map[string]string{"domain": string(domain), "gateway": address}
	if pin != "" {
		w["root"] = pin
	}
	return w
}
