package discovery

import (
	"time"

	"github.com/mlsfed/mlsfed/federation/lineage"
)

// Limits of a look-up and of a Cache. docs/reach.md has a table of them.
const (
	MaxTXT       = 512                 // bytes of the TXT record
	MaxAddresses = 16                  // addresses of a name
	MaxHeader    = 8 << 10             // bytes of the headers of an answer
	MaxBody      = lineage.MaxDocument // bytes of its body
	maxReceived  = 512 << 10           // bytes that one connection reads, TLS included

	MaxEntries  = 4096 // domains of a Cache with a document, and as many without
	MaxUnderWay = 16   // look-ups of a Cache at once

	keepGood    = 24 * time.Hour   // a document, give or take a tenth
	refreshGood = 12 * time.Hour   // a document that is used after this time is fetched again in the background
	keepAgain   = 2 * time.Minute  // a failure of a domain that had a document
	keepFailure = 10 * time.Minute // the first failure of another domain; each further one twice as long
	keepFailed  = time.Hour        // at most
)

// Timeouts are the deadlines of the stages of a look-up.
type Timeouts struct {
	DNS     time.Duration // for the TXT record, and again for the addresses
	Connect time.Duration // to one of the addresses
	TLS     time.Duration
	Header  time.Duration
	Total   time.Duration // all stages together
}

// DefaultTimeouts are the deadlines of a node.
func DefaultTimeouts() Timeouts {
	return Timeouts{DNS: 3 * time.Second, Connect: 3 * time.Second, TLS: 3 * time.Second, Header: 3 * time.Second, Total: 8 * time.Second}
}
