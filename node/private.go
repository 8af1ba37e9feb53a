package node

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/internal/private"
)

// secrets returns the folders and files to which only the node's own user may have access, without the keys of the
// identity: a key is not loaded if other users can read it.
func secrets(cfg *config.Config) []string {
	list := []string{cfg.Data, cfg.Identity}
	if key := cfg.Gateway.TLS.Key; key != "" {
		list = append(list, key)
	}
	for _, secret := range []string{cfg.OIDC.SecretFile, cfg.SCIM.TokenFile} {
		if secret != "" {
			list = append(list, secret)
		}
	}
	return list
}

// CheckPrivate returns an error for each folder or file that is open to other users of the machine.
func CheckPrivate(cfg *config.Config) (open []error) {
	list := secrets(cfg)
	for _, name := range organization.KeyFiles {
		list = append(list, filepath.Join(cfg.Identity, name))
	}
	for _, path := range list {
		if err := private.Check(path); err != nil {
			open = append(open, err)
		}
	}
	return open
}

// narrow removes the access of other users. If that fails, the start is refused: a user who can write into the data
// folder can act as the node, and a user who can read a key can act as its organization.
func narrow(cfg *config.Config, log *slog.Logger) error {
	var faults []error
	for _, path := range secrets(cfg) {
		was, err := private.Narrow(path)
		if err != nil {
			faults = append(faults, err)
		}
		if was != nil {
			log.Warn("a folder or file of the node was open to other users; they may have read it", "path", was.Path, "mode", fmt.Sprintf("%04o", was.Mode))
		}
	}
	return errors.Join(faults...)
}
