package store

import (
	"context"
	"errors"
	"io"

	"github.com/mlsfed/mlsfed/wire"
)

// Files keeps the files that members share, each whole and by its hash. It is safe for concurrent use. Package filestest
// checks an implementation against this contract.
//
// An upload that is not complete is not a file: the node that a device uploads to keeps its parts.
type Files interface {
	// Put stores the file that content holds, and charges the owner for it ("": the node itself) before anything is
	// written. The file is on
	// disk as a whole when Put returns, or not at all. A file that is stored already is not read and not charged again;
	// its age begins again. The error is ErrFileMismatch if content is not the file, ErrFileQuota if all files together
	// would exceed the limit, ErrFileSpace if the disk is full, or what the account of the owner says.
	Put(ctx context.Context, owner wire.DeviceID, ref wire.BlobRef, content io.Reader) error
	// Has reports whether a file is stored.
	Has(ctx context.Context, ref wire.BlobRef) (bool, error)
	// Get reads at most limit bytes at an offset, and fewer only at the end. It does not verify them: the reader of the
	// whole checks the hash. The error is ErrFileMissing, or ErrFileRange for an offset beyond the end.
	Get(ctx context.Context, ref wire.BlobRef, at uint64, limit int) ([]byte, error)
	// Open reads a whole file, and verifies the hash at its end. The error is ErrFileMissing.
	Open(ctx context.Context, ref wire.BlobRef) (io.ReadCloser, error)
	// Delete removes a file and gives the charged bytes back. A missing file is no error.
	Delete(ctx context.Context, ref wire.BlobRef) error
	// Sweep removes the files that nobody has put since a time of the clock that does not jump. A file that is put
	// meanwhile stays.
	Sweep(ctx context.Context, before wire.Time) error
	// Used returns the bytes of all files, with those that are being written.
	Used(ctx context.Context) (uint64, error)
	// Close ends the use of the files.
	Close() error
}

// The errors of Files.
var (
	ErrFileMissing  = errors.New("the file is not stored")
	ErrFileMismatch = errors.New("the content does not have the hash and the size of the file")
	ErrFileQuota    = errors.New("all files together would exceed the limit")
	ErrFileSpace    = errors.New("the disk is full")
	ErrFileRange    = errors.New("the offset is beyond the end of the file")
)
