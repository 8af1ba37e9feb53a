package pebblestore_test

import (
	"testing"

	"github.com/mlsfed/mlsfed/federation/outbox/lanestest"
	"github.com/mlsfed/mlsfed/federation/outbox/lanestore"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/store/pebblestore/pebbletest"
)

func TestLanesConformance(t *testing.T) {
	lanestest.Run(t, func(testing.TB) lanestest.Place { return lanePlace{pebbletest.Memory()} })
}

// lanePlace implements lanestest.Place on a disk in memory.
type lanePlace struct{ disk *pebbletest.Disk }

// Open implements lanestest.Place.
func (p lanePlace) Open(t testing.TB) (lanestore.Store, func()) {
	s, stop := p.disk.Running(t, mailbox.Config{})
	return s.Lanes(), stop
}

// Crash implements lanestest.Place.
func (p lanePlace) Crash(testing.TB) lanestest.Place { return lanePlace{p.disk.Crash()} }
