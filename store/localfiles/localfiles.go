// Package localfiles implements store.Files in a folder of the node.
package localfiles

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/mlsfed/mlsfed/consensus/blob"
	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/wire"
)

// Config has the limits of the files. MaxFile and Now must be set.
type Config struct {
	MaxFile uint64           // bytes of one
	Total   uint64           // bytes of all together; 0: no limit
	Now     func() time.Time // the clock by which files age, which does not jump
	Ledger  blob.Ledger      // charged for each file, by device; nil: no charge
}

// Files implements store.Files.
type Files struct {
	blobs *blob.Store
	now   func() time.Time
}

var _ store.Files = (*Files)(nil)

// Open opens the files in a folder, and makes the folder if there is none.
func Open(dir string, cfg Config) (*Files, error) {
	blobs, err := blob.Open(dir, blob.Limits{MaxBlob: int64(cfg.MaxFile), Quota: int64(cfg.Total), Now: cfg.Now, Ledger: cfg.Ledger})
	if err != nil {
		return nil, err
	}
	return &Files{blobs: blobs, now: cfg.Now}, nil
}

func of(ref wire.BlobRef) blob.Ref { return blob.Ref{Hash: ref.Hash, Size: ref.Size} }

// failure returns an error in the words of package store.
func failure(err error) error {
	for _, v := range []struct{ from, to error }{
		{blob.ErrNotFound, store.ErrFileMissing}, {blob.ErrCorrupt, store.ErrFileMissing}, {blob.ErrMismatch, store.ErrFileMismatch},
		{blob.ErrQuota, store.ErrFileQuota}, {blob.ErrNoSpace, store.ErrFileSpace}, {blob.ErrBadRef, store.ErrFileRange},
	} {
		if errors.Is(err, v.from) {
			return fmt.Errorf("%w: %w", v.to, err)
		}
	}
	return err
}

// Put implements store.Files.
func (f *Files) Put(ctx context.Context, owner wire.DeviceID, ref wire.BlobRef, content io.Reader) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return failure(f.blobs.PutOwned(ctx, string(owner), of(ref), content))
}

// Has implements store.Files.
func (f *Files) Has(ctx context.Context, ref wire.BlobRef) (bool, error) {
	return f.blobs.Has(of(ref)), ctx.Err()
}

// Get implements store.Files.
func (f *Files) Get(ctx context.Context, ref wire.BlobRef, at uint64, limit int) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	data, err := f.blobs.ReadAt(of(ref), at, limit)
	return data, failure(err)
}

// Open implements store.Files.
func (f *Files) Open(ctx context.Context, ref wire.BlobRef) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	in, err := f.blobs.Get(of(ref))
	return in, failure(err)
}

// Delete implements store.Files.
func (f *Files) Delete(ctx context.Context, ref wire.BlobRef) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := f.blobs.Delete(of(ref)); !errors.Is(err, blob.ErrNotFound) {
		return failure(err)
	}
	return nil
}

// Sweep implements store.Files.
func (f *Files) Sweep(ctx context.Context, before wire.Time) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	_, _, err := f.blobs.Sweep(func(blob.Ref) bool { return ctx.Err() != nil }, f.now().Sub(before.Std()))
	return errors.Join(err, ctx.Err())
}

// Used implements store.Files.
func (f *Files) Used(ctx context.Context) (uint64, error) {
	return uint64(f.blobs.Stats().Bytes), ctx.Err()
}

// Close implements store.Files.
func (f *Files) Close() error { return f.blobs.Close() }
