package node

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/private"
)

// secrets are the folders and files that only the node's own user may have access to, without the keys of the
// identity: those refuse to be loaded if others can read them.
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

// CheckPrivate returns what is open to other users of the machine, as an error for each.
func CheckPrivate(cfg *config.Config) (open []error) {
	list := secrets(cfg)
	for _, name := range federation.KeyFiles {
		list = append(list, filepath.Join(cfg.Identity, name))
	}
	for _, path := range list {
		if err := private.Check(path); err != nil {
			open = append(open, err)
		}
	}
	return open
}

// narrow takes access from others. What cannot be narrowed refuses the start: who can write into the data folder is
// the node, and who can read a key is its organization.
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
