package node

import (
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/consensus"
	"github.com/mlsfed/mlsfed/consensus/blob"
	"github.com/mlsfed/mlsfed/internal/quota"
	"github.com/mlsfed/mlsfed/wire"
)

// newAccount returns the account that charges what the node stores for devices and other organizations.
func newAccount(c *config.Quota, disk quota.Disk) *quota.Account {
	return quota.New(quota.Limits{
		Parts: uint64(c.Uploads), Device: uint64(c.Device), User: uint64(c.User), Organization: uint64(c.Organization),
	}, disk)
}

// ledger charges the blobs of one store.
type ledger struct {
	account *quota.Account
	kind    quota.Kind
}

var _ blob.Ledger = ledger{}

// Charge implements blob.Ledger.
func (l ledger) Charge(owner string, n uint64) error {
	return l.account.Charge(quota.Owner(owner), l.kind, n)
}

// Room implements blob.Ledger.
func (l ledger) Room(owner string, n uint64) error { return l.account.Room(quota.Owner(owner), n) }

// Adopt implements blob.Ledger.
func (l ledger) Adopt(owner string, n uint64) { l.account.Adopt(quota.Owner(owner), l.kind, n) }

// Release implements blob.Ledger.
func (l ledger) Release(owner string, n uint64) { l.account.Release(quota.Owner(owner), l.kind, n) }

// orderAccount charges logs and snapshots.
type orderAccount struct{ account *quota.Account }

var _ consensus.Account = orderAccount{}

func storedAs(what consensus.Stored) quota.Kind {
	if what == consensus.StoredSnapshot {
		return quota.Snapshots
	}
	return quota.Logs
}

// Charge implements consensus.Account.
func (a orderAccount) Charge(org wire.Domain, what consensus.Stored, n uint64) error {
	return a.account.Charge(quota.Owner(org), storedAs(what), n)
}

// Adopt implements consensus.Account.
func (a orderAccount) Adopt(org wire.Domain, what consensus.Stored, n uint64) {
	a.account.Adopt(quota.Owner(org), storedAs(what), n)
}

// Release implements consensus.Account.
func (a orderAccount) Release(org wire.Domain, what consensus.Stored, n uint64) {
	a.account.Release(quota.Owner(org), storedAs(what), n)
}

// Room implements consensus.Account.
func (a orderAccount) Room() error { return a.account.Room(quota.Foreign, 0) }
