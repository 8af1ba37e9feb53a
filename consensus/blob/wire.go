package blob

import (
	"context"
	"io"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// Wire is a Store for callers that name blobs as entries do. It implements the interface that package consensus
// requires.
type Wire struct{ Store *Store }

// Put does the work of Store.PutOwned.
func (w Wire) Put(owner string, ref wire.BlobRef, content io.Reader) error {
	return w.Store.PutOwned(context.Background(), owner, fromWire(ref), content)
}

// Get does the work of Store.Get.
func (w Wire) Get(ref wire.BlobRef) (io.ReadCloser, error) { return w.Store.Get(fromWire(ref)) }

// Has returns the result of Store.Has, or ErrClosed.
func (w Wire) Has(ref wire.BlobRef) (bool, error) {
	return w.Store.Has(fromWire(ref)), w.Store.usable()
}

// Sweep deletes blobs that were stored before a time, are not pinned, and for which keep returns false.
func (w Wire) Sweep(before time.Time, keep func(wire.BlobRef) bool) error {
	_, _, err := w.Store.Sweep(func(ref Ref) bool {
		return keep(wire.BlobRef{Hash: ref.Hash, Size: ref.Size})
	}, time.Since(before))
	return err
}

func fromWire(ref wire.BlobRef) Ref { return Ref{Hash: ref.Hash, Size: ref.Size} }
