package people

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/internal/private"
	"github.com/mlsfed/mlsfed/wire"
)

// profileFile is the name of the file that makes a folder a profile.
const profileFile = "profile.json"

// The other files of such a folder: the store, and its key if nothing else keeps it.
const (
	storeFile = "device.db"
	storeKey  = "store.key"
)

// profile is a folder with one device: profile.json, the encrypted store, and perhaps the store's key.
type profile struct {
	dir  string
	made []string // folders that this process has made for it, the deepest first
	profileSettings
}

// profileSettings is the content of profile.json. Nothing in it is secret.
type profileSettings struct {
	Version int           `json:"version"`
	Device  wire.DeviceID `json:"device"`
	Server  string        `json:"server"` // an invitation without a code: where the device connects
	Key     keyPlace      `json:"key"`
	// Enrolled is false while 'login' has not succeeded.
	Enrolled bool `json:"enrolled"`
	// Wipe reports that the profile is deleted when the organization no longer accepts the device.
	Wipe bool `json:"wipe_when_revoked,omitempty"`
}

const profileVersion = 1

// profilesHome returns the folder that holds the profiles: USER@DOMAIN/DEVICE.
func profilesHome() (string, error) {
	if home := os.Getenv("MLSFED_HOME"); home != "" {
		return home, nil
	}
	if data := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(data) {
		return filepath.Join(data, "mlsfed"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no folder for profiles: %w: set MLSFED_HOME, or use --profile", err)
	}
	return filepath.Join(home, ".local", "share", "mlsfed"), nil
}

// profileDir returns the default folder of the profile of a device.
func profileDir(id wire.DeviceID) (string, error) {
	home, err := profilesHome()
	return filepath.Join(home, cli.PersonName(id.User()), id.Name()), err
}

func readProfile(dir string) (*profile, error) {
	raw, err := os.ReadFile(filepath.Join(dir, profileFile))
	if err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	p := &profile{dir: dir}
	if err := json.Unmarshal(raw, &p.profileSettings); err != nil {
		return nil, fmt.Errorf("profile %s: %w", filepath.Join(dir, profileFile), err)
	}
	if p.Version != profileVersion {
		return nil, fmt.Errorf("profile %s has version %d, this mlsfed knows %d: use a newer one", dir, p.Version, profileVersion)
	}
	if err := p.Device.Check(); err != nil {
		return nil, fmt.Errorf("profile %s: %w", dir, err)
	}
	was, err := private.Narrow(dir)
	if err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	if was != nil {
		fmt.Fprintf(os.Stderr, "mlsfed: the profile %s was open to other users (mode %04o) until now: they may have copied it\n", dir, was.Mode)
	}
	return p, nil
}

// write replaces profile.json.
func (p *profile) write() error {
	raw, err := json.MarshalIndent(p.profileSettings, "", "  ")
	if err != nil {
		return err
	}
	file := filepath.Join(p.dir, profileFile)
	if err := os.WriteFile(file+".new", append(raw, '\n'), 0o600); err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	return nil
}

// server returns where the device connects.
func (p *profile) server() (client.Invitation, error) {
	i, err := client.ParseInvitation(p.Server)
	if err != nil {
		return i, fmt.Errorf("profile %s: server: %w", p.dir, err)
	}
	return i, nil
}

// findProfile returns the profile that is named by a folder, as alice@a.example or as alice@a.example/phone, or the
// only existing one.
func findProfile(named string) (*profile, error) {
	if named != "" {
		if _, err := os.Stat(filepath.Join(named, profileFile)); err == nil {
			return enrolledProfile(named)
		}
	}
	home, err := profilesHome()
	if err != nil {
		return nil, err
	}
	all, err := listProfiles(home)
	if err != nil {
		return nil, err
	}
	var found []*profile
	for _, p := range all {
		if who := cli.PersonName(p.Device.User()); named == "" || named == who || named == who+"/"+p.Device.Name() {
			found = append(found, p)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, fmt.Errorf("%d devices are enrolled here: choose one with --profile: %s", len(found), deviceNames(found))
	case named == "" || len(all) == 0:
		return nil, fmt.Errorf("no device is enrolled in %s: 'mlsfed login LINK' enrols one, with a link from your operator", home)
	}
	return nil, fmt.Errorf("no device is enrolled in %s: choose another --profile: %s", named, deviceNames(all))
}

// isProfileName reports whether a value is the name of a profile, as alice@a.example or alice@a.example/phone, and no
// existing folder.
func isProfileName(named string) bool {
	who, device, withDevice := strings.Cut(named, "/")
	name, domain, ok := strings.Cut(who, "@")
	if !ok {
		return false
	}
	user, err := wire.NewUserID(wire.Domain(domain), name)
	if err == nil && withDevice {
		_, err = wire.NewDeviceID(user, device)
	}
	if err != nil {
		return false
	}
	_, err = os.Stat(named)
	return errors.Is(err, fs.ErrNotExist)
}

func enrolledProfile(dir string) (*profile, error) {
	p, err := readProfile(dir)
	if err == nil && !p.Enrolled {
		err = fmt.Errorf("the device in %s was never enrolled: 'mlsfed login LINK' does it", dir)
	}
	return p, err
}

// listProfiles finds the enrolled devices below a folder.
func listProfiles(home string) ([]*profile, error) {
	files, err := filepath.Glob(filepath.Join(globEscape(home), "*@*", "*", profileFile))
	if err != nil {
		return nil, err
	}
	var list []*profile
	for _, f := range files {
		p, err := readProfile(filepath.Dir(f))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if p.Enrolled {
			list = append(list, p)
		}
	}
	return list, nil
}

// globEscape escapes a path so that it matches itself in a pattern.
func globEscape(path string) string {
	return strings.NewReplacer(`*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

func deviceNames(list []*profile) string {
	var names []string
	for _, p := range list {
		names = append(names, cli.DeviceName(p.Device))
	}
	return strings.Join(names, ", ")
}
