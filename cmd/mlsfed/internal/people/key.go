package people

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/zalando/go-keyring"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/mlscore/boltstore"
)

// keyPlace records where the key of a profile's store is.
type keyPlace struct {
	In   string `json:"in"`             // keyInKeyring, keyInFile or keyFromPassphrase
	Name string `json:"name,omitempty"` // in the keyring
}

// The places.
const (
	keyInKeyring      = "keyring"
	keyInFile         = "file"
	keyFromPassphrase = "passphrase"
)

// keyringService is the name of the application in the operating system's keyring.
const keyringService = "mlsfed"

// passphraseVariable names the environment variable with the passphrase file, for a command without the flag.
const passphraseVariable = "MLSFED_PASSPHRASE_FILE"

// choosePlace decides where the key of a new profile is kept: in the wanted place, or in the keyring if there is one,
// or in a file.
func choosePlace(p *profile, wanted, passphraseFile string) error {
	if wanted == "" && passphraseFile != "" {
		wanted = keyFromPassphrase
	}
	switch wanted {
	case keyInFile, keyFromPassphrase:
		p.Key = keyPlace{In: wanted}
		return nil
	case keyInKeyring, "":
	default:
		return cli.UsageError(fmt.Errorf("--key %q: wanted keyring, file or passphrase", wanted))
	}
	var id [4]byte
	_, _ = rand.Read(id[:]) // cannot fail: crypto/rand ends the process
	name := cli.DeviceName(p.Device) + " " + hex.EncodeToString(id[:])
	err := storeInKeyring(name)
	if err == nil {
		p.Key = keyPlace{In: keyInKeyring, Name: name}
		return nil
	}
	if wanted == keyInKeyring {
		return fmt.Errorf("the keyring takes no key (%w): use --key file or --passphrase-file", err)
	}
	p.Key = keyPlace{In: keyInFile}
	return nil
}

// errNoKeyring reports that nothing on this machine keeps keys.
var errNoKeyring = errors.New("no keyring is running")

func storeInKeyring(name string) error {
	if !keyringRuns() {
		return errNoKeyring
	}
	key := client.NewStoreKey()
	return keyring.Set(keyringService, name, hex.EncodeToString(key.Bytes()))
}

// keyringRuns keeps the keyring's library from starting a D-Bus daemon of its own.
func keyringRuns() bool {
	switch runtime.GOOS {
	case "darwin", "windows":
		return true
	}
	if os.Getenv("DBUS_SESSION_BUS_ADDRESS") != "" {
		return true
	}
	_, err := os.Stat(fmt.Sprintf("/run/user/%d/bus", os.Getuid()))
	return err == nil
}

// openStore opens the encrypted store of a profile.
func openStore(p *profile, passphraseFile string) (*boltstore.Store, error) {
	store, err := openStoreWith(p, passphraseFile)
	switch {
	case errors.Is(err, boltstore.ErrInUse):
		return nil, cli.PlainError(err, fmt.Sprintf("%s is in use by another mlsfed, which does not let others use it meanwhile: try again when that has ended", cli.DeviceName(p.Device)))
	case errors.Is(err, boltstore.ErrWrongKey) && p.Key.In == keyFromPassphrase:
		return nil, fmt.Errorf("the passphrase is not the one that %s was enrolled with", cli.DeviceName(p.Device))
	}
	return store, err
}

func openStoreWith(p *profile, passphraseFile string) (*boltstore.Store, error) {
	switch p.Key.In {
	case keyFromPassphrase:
		secret, err := readPassphrase(p, passphraseFile)
		if err != nil {
			return nil, err
		}
		return client.OpenStoreWithPassphrase(p.dir, secret)
	case keyInKeyring:
		text, err := keyring.Get(keyringService, p.Key.Name)
		if err != nil {
			return nil, fmt.Errorf("the key %q of the store cannot be had from the keyring: %w", p.Key.Name, err)
		}
		raw, err := hex.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("the key %q in the keyring is none", p.Key.Name)
		}
		return client.OpenStore(p.dir, mlscore.NewSecret(raw))
	case keyInFile:
		if p.Enrolled { // a missing key must not be replaced by a new key, which would open nothing
			if _, err := os.Stat(p.keyFile()); err != nil {
				return nil, fmt.Errorf("the key of the store: %w", err)
			}
		}
		key, err := client.KeyFile(p.keyFile())
		if err != nil {
			return nil, err
		}
		return client.OpenStore(p.dir, key)
	}
	return nil, fmt.Errorf("profile %s: its key is in %q, which this mlsfed does not know: use a newer one", p.dir, p.Key.In)
}

func (p *profile) keyFile() string { return filepath.Join(p.dir, storeKey) }

// maxPassphrase bounds a file with a passphrase, in bytes.
const maxPassphrase = 4096

func readPassphrase(p *profile, file string) (mlscore.Secret, error) {
	if file == "" {
		return mlscore.Secret{}, fmt.Errorf("the store of %s opens with a passphrase: name the file that holds it with --passphrase-file or %s", cli.DeviceName(p.Device), passphraseVariable)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return mlscore.Secret{}, fmt.Errorf("passphrase: %w", err)
	}
	defer clear(raw)
	line, _, _ := bytes.Cut(raw, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 || len(line) > maxPassphrase {
		return mlscore.Secret{}, fmt.Errorf("passphrase: the first line of %s has %d bytes, wanted 1 to %d", file, len(line), maxPassphrase)
	}
	return mlscore.NewSecret(line), nil
}

// forgetKey removes what choosePlace and openStore have created for a profile that is not used.
func (p *profile) forgetKey() error {
	if p.Key.In == keyInKeyring {
		return keyring.Delete(keyringService, p.Key.Name)
	}
	return nil
}
