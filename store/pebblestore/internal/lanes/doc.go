// Package lanes implements lanestore.Store in a Pebble database: what other organizations are to get.
package lanes
