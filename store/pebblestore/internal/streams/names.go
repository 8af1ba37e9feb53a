package streams

import "github.com/mlsfed/mlsfed/mailbox"

// The words of package mailbox, by the names that this package uses.
type (
	Ack          = mailbox.Ack
	Box          = mailbox.Box
	Config       = mailbox.Config
	Gap          = mailbox.Gap
	ID           = mailbox.ID
	Item         = mailbox.Item
	Kind         = mailbox.Kind
	Limit        = mailbox.Limit
	Page         = mailbox.Page
	Put          = mailbox.Put
	Reader       = mailbox.Reader
	Result       = mailbox.Result
	ReaderState  = mailbox.ReaderState
	Stream       = mailbox.Stream
	Subscription = mailbox.Subscription
	Totals       = mailbox.Totals[uint64]
	Watchers     = mailbox.Watchers
)

// The constants that this package uses.
const (
	KindEntry   = mailbox.KindEntry
	KindMessage = mailbox.KindMessage
	OverQuota   = mailbox.OverQuota
	OverShare   = mailbox.OverShare
	OverSender  = mailbox.OverSender
	Expired     = mailbox.Expired
	maxKept     = mailbox.MaxKept
)

// NewWatchers makes watchers without subscriptions.
func NewWatchers() *Watchers { return mailbox.NewWatchers() }

// newTotals makes the totals of the senders.
func newTotals() *Totals { return mailbox.NewTotals[uint64]() }
