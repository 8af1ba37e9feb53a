// Package platform holds what the operating systems do differently: locks on files, free space on disk, owners of
// files, and error numbers. Each function exists on every system that the project builds for; its documentation
// states on which systems it does less.
package platform

import "errors"

// ErrLocked is returned by TryLock and TryShare when another process holds the file.
var ErrLocked = errors.New("the file is locked by another process")

// Owner is what the system knows about a file in addition to fs.FileInfo.
type Owner struct {
	User, Group int
	Links       int // names of the file
}
