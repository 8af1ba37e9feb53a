package boltstore

import (
	"encoding/hex"
	"errors"
	"fmt"
)

// The kinds of failure, for errors.Is.
var (
	// ErrWrongKey: the key or the passphrase is not that of the file.
	ErrWrongKey = errors.New("wrong key")
	// ErrInUse: a process, this one or another, has the file open.
	ErrInUse = errors.New("in use")
	// ErrDamaged: the file is not as it was written. See DamagedError.
	ErrDamaged = errors.New("damaged")
	// ErrVersion: a newer release wrote the file.
	ErrVersion = errors.New("unsupported version")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("closed")
	// ErrFailed: the disk failed while a batch was written, and whether the batch is on it is not
	// known. Nothing more is read or written; open the file again to see.
	ErrFailed = errors.New("failed")
)

// DamagedError says what of a file is damaged.
type DamagedError struct {
	Path   string
	Key    []byte // of the damaged record; nil if it is the file's structure
	Detail string
}

// Error names the file and the record, in hexadecimal: docs/state.md says how to read it.
func (e *DamagedError) Error() string {
	if e.Key == nil {
		return fmt.Sprintf("store %s is damaged: %s", e.Path, e.Detail)
	}
	return fmt.Sprintf("store %s is damaged: record %s: %s", e.Path, keyName(e.Key), e.Detail)
}

// Is makes it an ErrDamaged.
func (e *DamagedError) Is(target error) bool { return target == ErrDamaged }

// keyName prints a record's key, cut to a length that an error can bear.
func keyName(key []byte) string {
	const most = 64
	if len(key) <= most {
		return hex.EncodeToString(key)
	}
	return fmt.Sprintf("%s... (%d bytes)", hex.EncodeToString(key[:most]), len(key))
}
