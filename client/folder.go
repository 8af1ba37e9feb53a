//go:build !js

package client

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/mlsfed/mlsfed/internal/private"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/mlscore/boltstore"
)

// storeFile is the name of the store in the folder of a device.
const storeFile = "device.db"

// storeOptions lets a device with a long history start at once. Results that it computes from a store that turns out
// to be damaged are never written, and so never sent.
var storeOptions = boltstore.Options{VerifyLater: true}

// OpenStore opens or creates the store of a device in a folder (not a file). The folder is created if needed, belongs
// to the device alone, and is locked while the store is open. The store is encrypted under a key of boltstore.KeySize
// random bytes, from the keyring of the operating system or from KeyFile. The caller closes the store after Run has
// returned. If others have access to the folder, OpenStore restricts it to its owner or returns an error. The other
// errors are those of boltstore.Open.
func OpenStore(folder string, key Secret) (*boltstore.Store, error) {
	if _, err := private.MakeFolder(folder); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	return boltstore.Open(filepath.Join(folder, storeFile), key, storeOptions)
}

// OpenStoreWithPassphrase is OpenStore with a passphrase that a person remembers.
func OpenStoreWithPassphrase(folder string, passphrase Secret) (*boltstore.Store, error) {
	if _, err := private.MakeFolder(folder); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	return boltstore.OpenWithPassphrase(filepath.Join(folder, storeFile), passphrase, storeOptions)
}

// NewStoreKey makes a key for OpenStore.
func NewStoreKey() Secret {
	b := make([]byte, boltstore.KeySize)
	_, _ = rand.Read(b) // cannot fail: crypto/rand ends the process
	key := mlscore.NewSecret(b)
	clear(b)
	return key
}

// KeyFile reads a store's key from a file, or creates both. The key protects against an attacker who gets the folder
// without the file. If others can read the file, KeyFile restricts it to its owner or returns an error.
func KeyFile(path string) (Secret, error) {
	if _, err := private.Narrow(path); err != nil {
		return Secret{}, fmt.Errorf("key file: %w", err)
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key := NewStoreKey()
		return key, writeKey(path, key)
	}
	if err != nil {
		return Secret{}, fmt.Errorf("key file: %w", err)
	}
	defer clear(b)
	if len(b) != boltstore.KeySize {
		return Secret{}, fmt.Errorf("key file %s: %d bytes, wanted %d", path, len(b), boltstore.KeySize)
	}
	return mlscore.NewSecret(b), nil
}

// writeKey writes the file whole or not at all, readable by its owner only.
func writeKey(path string, key Secret) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	_, err = f.Write(key.Bytes())
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		err = errors.Join(fmt.Errorf("key file: %w", err), os.Remove(path))
	}
	return err
}
