package blob

import (
	"errors"
	"fmt"
	"syscall"
)

var (
	// ErrNotFound is returned for a blob that is not stored.
	ErrNotFound = errors.New("blob: not stored here")
	// ErrCorrupt is returned when a blob is read whose content differs from its Ref. The blob has been removed: fetch
	// it again from another replica.
	ErrCorrupt = errors.New("blob: content damaged")
	// ErrMismatch is returned by PutExpected when the content differs from the Ref.
	ErrMismatch = errors.New("blob: content differs from its reference")
	// ErrTooLarge is returned for a blob above Limits.MaxBlob.
	ErrTooLarge = errors.New("blob: too large")
	// ErrQuota is returned when the store would exceed Limits.Quota.
	ErrQuota = errors.New("blob: quota exceeded")
	// ErrNoSpace is returned when the disk is full. Nothing was stored.
	ErrNoSpace = errors.New("blob: no space on disk")
	// ErrPinned is returned by Delete for a blob that a conversation needs.
	ErrPinned = errors.New("blob: pinned")
	// ErrBadRef is returned for a malformed reference.
	ErrBadRef = errors.New("blob: malformed reference")
	// ErrBadName is returned for a conversation's name that is empty or too long.
	ErrBadName = errors.New("blob: malformed name of a conversation")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("blob: store closed")
	// ErrLocked is returned by Open when another store has the folder open.
	ErrLocked = errors.New("blob: folder is in use by another process")
)

// failure wraps an error of the file system, and identifies a full disk.
func failure(op string, err error) error {
	for _, no := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if errors.Is(err, no) {
			return fmt.Errorf("blob: %s: %w: %w", op, ErrNoSpace, err)
		}
	}
	return fmt.Errorf("blob: %s: %w", op, err)
}
