package people

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/internal/private"
	"github.com/mlsfed/mlsfed/wire"
)

// loginOptions holds the flags of login in addition to the flags of all commands for people.
type loginOptions struct {
	*Options
	device  string
	key     string
	service serviceOptions
	wipe    bool
}

func newLogin() *cobra.Command {
	c := &cobra.Command{
		Use:   "login LINK | --oidc DOMAIN",
		Short: "Enrol this device with a link, or by your organization's login service",
		Long: `login makes this machine one of your devices. The link works once: your operator makes it with
'mlsfed user invite', or you on another device of yours with 'mlsfed devices --invite'.

With --oidc it opens a browser, in which you log in at your organization's login service, if your operator has set one
up. With --device-code it shows a code instead, which you type in on another machine.

The device's keys and messages are kept in a folder of their own, encrypted. The key of that store is
kept in the keyring of the operating system; where there is none, in a file next to the store, which
protects only a store that is copied without it; or it is derived from a passphrase.

Profiles are looked for in MLSFED_HOME, or ~/.local/share/mlsfed. A command that finds several asks
which one is meant: --profile alice@a.example/phone.`,
		Example: `  mlsfed login 'mlsfed://n1.a.example:8443/ABCD-…?domain=a.example&user=alice&root=9f86d0…'
  mlsfed login --device phone --passphrase-file pass.txt LINK
  mlsfed login --oidc a.example
  mlsfed login --oidc a.example --device-code`,
		GroupID: cli.GroupPeople,
	}
	o := &loginOptions{Options: AddFlags(c)}
	f := c.Flags()
	f.StringVar(&o.device, "device", "", "name of this device, as phone (default: the machine's name)")
	f.StringVar(&o.key, "key", "", "where the key of the store is: keyring, file or passphrase")
	f.BoolVar(&o.wipe, "wipe-when-revoked", false, "delete this device's keys and messages when the organization does not accept it any more, unless its certificate had ended before")
	f.StringVar(&o.service.domain, "oidc", "", "log in at the login service of this organization, as a.example")
	f.BoolVar(&o.service.deviceCode, "device-code", false, "with --oidc: show a code to type in on another machine")
	f.StringVar(&o.service.server, "server", "", "with --oidc: host:port of the node (default: what https://DOMAIN/.well-known/mlsfed says)")
	f.StringVar(&o.service.root, "root", "", "with --oidc: SHA-256 of the organization's root, where systems do not trust the node's certificate")
	c.Args = func(c *cobra.Command, args []string) error {
		if o.service.domain == "" {
			if o.service.deviceCode || o.service.server != "" || o.service.root != "" {
				return errors.New("--device-code, --server and --root go with --oidc")
			}
			return cli.Exactly(1, "the link that you were given (in quotes: it holds a &)")(c, args)
		}
		return cobra.NoArgs(c, args)
	}
	f.Lookup("profile").Usage = "folder to make (default: USER@DOMAIN/DEVICE in MLSFED_HOME or ~/.local/share/mlsfed)"
	c.RunE = func(c *cobra.Command, args []string) error {
		if o.service.domain == "" {
			return o.run(c, args[0])
		}
		who, err := o.service.identify(c)
		if err != nil {
			return err
		}
		return o.enrolAs(c, who.server, client.Enrolment{Token: who.token, Key: who.key, Root: who.server.Root})
	}
	return c
}

func (o *loginOptions) run(c *cobra.Command, link string) error {
	i, err := client.ParseInvitation(link)
	if err == nil && i.Code == "" {
		err = errors.New("the link holds no code: copy it whole, or ask for another one")
	}
	switch {
	case err == nil:
	case strings.HasPrefix(link, "mlsfed://") && !strings.Contains(link, "&user="):
		return cli.UsageError(errors.New("the link is cut off: copy it whole, and put it in quotes, since a shell ends a command at its '&'"))
	default:
		return cli.UsageError(cli.Plain(err))
	}
	return o.enrolAs(c, i, client.Enrolment{Code: i.Code, Root: i.Root})
}

// enrolAs enrols a device of the user that a server's address names.
func (o *loginOptions) enrolAs(c *cobra.Command, i client.Invitation, e client.Enrolment) error {
	id, err := i.DeviceID(o.deviceName())
	if err != nil {
		return cli.UsageError(fmt.Errorf("--device: %w", err))
	}
	prof, fresh, err := o.prepare(i, id)
	if err != nil {
		return err
	}
	e.Device = id
	asked, err := o.enrol(c, prof, i, e)
	switch {
	case err == nil || prof.Enrolled:
		return err
	case asked && !isRefusal(err):
		again := "with the same link"
		if e.Code == "" {
			again = "with the same --device, and log in again"
		}
		return fmt.Errorf("%w: whether it has enrolled the device is not known, so call this again %s", err, again)
	case fresh:
		return errors.Join(err, prof.undo()) // no device was enrolled, so nothing is kept
	}
	return err
}

// deviceName returns the given name, or the machine's name as far as names of devices allow.
func (o *loginOptions) deviceName() string {
	if o.device != "" {
		return o.device
	}
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	host, _, _ = strings.Cut(strings.ToLower(host), ".")
	name := strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return -1
	}, host)
	if name == "" || len(name) > wire.MaxName {
		return "device"
	}
	return name
}

// prepare creates the profile, or finds the profile of an unfinished attempt.
func (o *loginOptions) prepare(i client.Invitation, id wire.DeviceID) (p *profile, fresh bool, err error) {
	dir := o.profile
	if dir == "" || isProfileName(dir) { // as MLSFED_PROFILE names the one that other commands use
		if dir, err = profileDir(id); err != nil {
			return nil, false, err
		}
	}
	server := i.Server()
	switch old, err := readProfile(dir); {
	case err == nil && old.Enrolled:
		return nil, false, fmt.Errorf("%s is enrolled in %s already: choose another name with --device, or end that one with 'mlsfed logout' first", cli.DeviceName(old.Device), dir)
	case err == nil && old.Device == id && (o.key != "" || o.passphraseFile != "") && old.Key.In != cmp.Or(o.key, keyFromPassphrase):
		return nil, false, fmt.Errorf("%s holds an attempt to enrol whose key is in another place (%s): remove that folder first", dir, old.Key.In)
	case err == nil && old.Device == id:
		old.Server = server.String()
		return old, false, old.write()
	case err == nil:
		return nil, false, fmt.Errorf("%s holds an attempt to enrol %s: choose another folder with --profile", dir, cli.DeviceName(old.Device))
	case !errors.Is(err, os.ErrNotExist):
		return nil, false, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, false, fmt.Errorf("login: %w", err)
	}
	for _, name := range []string{storeFile, storeKey} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return nil, false, fmt.Errorf("%s holds a %s without a %s, as of a device that was enrolled before: choose another folder with --profile", dir, name, profileFile)
		}
	}
	p = &profile{dir: dir, made: missingFolders(dir), profileSettings: profileSettings{Version: profileVersion, Device: id, Server: server.String(), Wipe: o.wipe}}
	if _, err = private.MakeFolder(dir); err != nil {
		err = fmt.Errorf("login: %w", err)
	}
	if err == nil {
		err = choosePlace(p, o.key, o.passphraseFile)
	}
	if err == nil {
		err = p.write()
	}
	if err != nil {
		return nil, false, errors.Join(err, p.undo())
	}
	return p, true, nil
}

// enrol asks the node for a certificate and waits until other devices can add this one. asked reports that the node
// may have got the request.
func (o *loginOptions) enrol(c *cobra.Command, prof *profile, i client.Invitation, e client.Enrolment) (asked bool, err error) {
	store, err := openStore(prof, o.passphraseFile)
	if err != nil {
		return false, err
	}
	p := newPerson(c, prof, o.Options, i)
	if err := p.open(store, commandTiming()); err != nil {
		return false, errors.Join(err, store.Close())
	}
	asked, err = o.enrolAt(c.Context(), p, i.Domain, e)
	if err == nil {
		err = p.run(c.Context(), func(ctx context.Context, p *Person) error { return p.upToDate(ctx) })
	}
	if err = errors.Join(err, store.Close()); err != nil {
		return asked, err
	}
	return asked, o.reportDevice(p)
}

func (o *loginOptions) enrolAt(ctx context.Context, p *Person, domain wire.Domain, e client.Enrolment) (asked bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	var wrote atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { wrote.Store(true) }})
	err = p.Enrol(ctx, e)
	switch {
	case err == nil:
	case !isRefusal(err):
		return wrote.Load(), fmt.Errorf("the node of %s cannot be reached: %w", domain, cli.Plain(err))
	case wire.CodeOf(err) == wire.Exists: // by the device: an earlier attempt got this far; by the node: the name is taken
		if _, notYet := p.ID(ctx); notYet != nil {
			return true, cli.Plain(err)
		}
	default:
		return true, cli.Plain(err)
	}
	p.profile.Enrolled = true
	return true, p.profile.write()
}

// isRefusal reports whether an error is an answer of the node, as opposed to a failure to get an answer.
func isRefusal(err error) bool {
	var e *wire.Error
	return errors.As(err, &e)
}

func (o *loginOptions) reportDevice(p *Person) error {
	if o.JSON {
		return cli.PrintJSON(p.out, map[string]any{"device": cli.DeviceName(p.DeviceID), "profile": p.profile.dir, "key": p.profile.Key.In})
	}
	fmt.Fprintf(p.out, "This device is %s now.\nprofile: %s\n", cli.DeviceName(p.DeviceID), p.profile.dir)
	if p.profile.Key.In == keyInFile {
		fmt.Fprintf(p.notes, "The key of its store is in a file next to it, %s: there is no keyring here.\nA person who gets the folder can read your messages. --passphrase-file protects better.\n", filepath.Base(p.profile.keyFile()))
	}
	return nil
}
