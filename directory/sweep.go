package directory

import (
	"context"

	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/wire"
)

// Sweep removes KeyPackages, invitations, tokens, claims and revocations that have ended, buckets that are
// full, and the addresses of devices that were revoked.
func (d *Directory) Sweep(ctx context.Context) error {
	count := d.count()
	return d.store.Sweep(ctx, recordstore.Times{Now: d.now(), Count: count, Claims: count - wire.Time(d.cfg.ClaimMemory.Milliseconds())})
}
