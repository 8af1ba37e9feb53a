package streams

import (
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
)

// Tune sets what a mailbox wants of the database that it shares: filters, since nearly every append
// looks up an id that is not there, and room for a burst.
func Tune(o *pebble.Options) *pebble.Options {
	if o == nil {
		o = &pebble.Options{}
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	o.CacheSize = 64 << 20 // of which the filters are the better part
	o.MemTableSize = 16 << 20
	o.MemTableStopWritesThreshold = 4
	o.L0CompactionThreshold = 4
	return o
}
