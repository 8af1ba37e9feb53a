package boltstore

import (
	"encoding/hex"
	"errors"
	"fmt"
)

// The kinds of failure, for errors.Is.
var (
	// ErrWrongKey: the file has another key or passphrase.
	ErrWrongKey = errors.New("wrong key")
	// ErrInUse: a process, this one or another, has the file open.
	ErrInUse = errors.New("in use")
	// ErrDamaged: the content of the file was changed. See DamagedError.
	ErrDamaged = errors.New("damaged")
	// ErrVersion: a newer release wrote the file.
	ErrVersion = errors.New("unsupported version")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("closed")
	// ErrFailed: the disk failed while a batch was written, and it is not known whether the batch is on the disk. The
	// store reads and writes nothing more; open the file again.
	ErrFailed = errors.New("failed")
)

// DamagedError reports the damaged part of a file.
type DamagedError struct {
	Path   string
	Key    []byte // of the damaged record; nil if it is the file's structure
	Detail string
}

// Error returns a text with the file and the record's key in hexadecimal, which docs/spec/state.md explains.
func (e *DamagedError) Error() string {
	if e.Key == nil {
		return fmt.Sprintf("store %s is damaged: %s", e.Path, e.Detail)
	}
	return fmt.Sprintf("store %s is damaged: record %s: %s", e.Path, keyName(e.Key), e.Detail)
}

// Is reports whether target is ErrDamaged.
func (e *DamagedError) Is(target error) bool { return target == ErrDamaged }

// keyName formats a record's key, cut to a length that suits an error text.
func keyName(key []byte) string {
	const most = 64
	if len(key) <= most {
		return hex.EncodeToString(key)
	}
	return fmt.Sprintf("%s... (%d bytes)", hex.EncodeToString(key[:most]), len(key))
}
