package directory

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// Restored is to be called once on a database that comes from a backup, before the directory is used:
// KeyPackages and invitations in it may have been used since, so all are dropped. Devices hand in new
// KeyPackages when they see that none are left. What was revoked since the backup has to be revoked again.
func (d *Directory) Restored() error {
	b := d.db.NewBatch()
	defer b.Close()
	for _, kind := range []byte{kindKeyPackage, kindInvitation, kindClaim} {
		from := d.key(kind)
		if err := b.DeleteRange(from, behind(from), nil); err != nil {
			return fmt.Errorf("directory: %w", err)
		}
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	return nil
}
