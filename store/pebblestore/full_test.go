package pebblestore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/mlsfed/mlsfed/internal/platform/disktest"
	"github.com/mlsfed/mlsfed/internal/quota"
)

// TestDatabaseWaitsForRoom: a write of the database that finds the disk full, to the last byte, waits and is made
// when there is room. Without that, Pebble ends the process.
func TestDatabaseWaitsForRoom(t *testing.T) {
	dir := t.TempDir()
	disktest.Mount(t, dir, 32<<20)
	full := NewFullDisk(&quota.Folder{Path: dir, Reserve: 1 << 20})
	notes := make(chan bool, 64)
	full.Serve(func(full bool) { notes <- full })
	db, err := pebble.Open(filepath.Join(dir, "db"), &pebble.Options{FS: full.wrap(vfs.Default), Logger: quiet{full}})
	if err != nil {
		t.Fatal(err)
	}
	value := make([]byte, 64<<10)
	for i := range value {
		value[i] = byte(i * i >> 3)
	}
	write := func(n int) error { return db.Set(fmt.Appendf(nil, "key %d", n), value, pebble.Sync) }
	if err := write(0); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	if err := fill(ballast); err != nil {
		t.Fatal(err)
	}
	const writes = 40 // 2.5 MiB: more than what the log has preallocated
	done := make(chan error, 1)
	go func() {
		for n := 1; n <= writes; n++ {
			if err := write(n); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	select {
	case waits := <-notes:
		if !waits {
			t.Fatal("a write goes on that did not wait")
		}
	case err := <-done:
		t.Fatalf("the writes ended with a full disk: %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for n := range writes + 1 {
		_, closer, err := db.Get(fmt.Appendf(nil, "key %d", n))
		if err != nil {
			t.Fatalf("key %d: %v", n, err)
		}
		closer.Close()
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	runtime.KeepAlive(full)
}

// fill writes a file until the disk has not a byte left.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	for size := 1 << 20; size >= 1; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				return errors.Join(err, f.Close())
			}
			size /= 16
		}
	}
	return f.Close()
}
