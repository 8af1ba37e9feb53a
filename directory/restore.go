package directory

import (
	"context"
	"fmt"
)

// Restored is to be called once on a store that comes from a backup, before the directory is used: KeyPackages and
// invitations in it may have been used since, so all are dropped. Devices hand in new KeyPackages when they see that
// none are left. Devices that were revoked since the backup have to be revoked again.
func (d *Directory) Restored(ctx context.Context) error {
	if err := d.store.Restored(ctx); err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	return nil
}
