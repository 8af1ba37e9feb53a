// Package device opens the device of an example in a folder, and enrols the device the first time. A real app keeps
// the key in the keyring of the system, and reports more than these errors do.
package device

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/mlsfed/mlsfed/client"
)

// Open opens the device in a folder. With a link of 'mlsfed user invite' it enrols the device under a
// name; later starts need no link. The caller calls closeStore after Run has returned.
func Open(ctx context.Context, folder, link, name string, options client.Options) (_ *client.Device, closeStore func() error, err error) {
	server, err := remembered(folder, link)
	if err != nil {
		return nil, nil, err
	}
	key, err := client.KeyFile(filepath.Join(folder, "key"))
	if err != nil {
		return nil, nil, err
	}
	store, err := client.OpenStore(filepath.Join(folder, "store"), key) // the store's own folder
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, store.Close())
		}
	}()
	options.Store, options.Transport = store, client.WebSocket(server, nil)
	d, err := client.Open(options)
	if err != nil {
		return nil, nil, err
	}
	if _, err := d.ID(ctx); errors.Is(err, client.ErrNotEnrolled) {
		if err := enrol(ctx, d, link, name); err != nil {
			return nil, nil, err
		}
	} else if err != nil {
		return nil, nil, err
	}
	return d, store.Close, nil
}

// remembered returns the server to which the device connects: the link without its code, which is kept for later
// starts.
func remembered(folder, link string) (client.Invitation, error) {
	file := filepath.Join(folder, "server")
	if link == "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return client.Invitation{}, fmt.Errorf("%w: call it with a link the first time", err)
		}
		return client.ParseInvitation(string(text))
	}
	i, err := client.ParseInvitation(link)
	if err != nil {
		return i, err
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return i, err
	}
	return i, os.WriteFile(file, []byte(i.Server().String()), 0o600)
}

func enrol(ctx context.Context, d *client.Device, link, name string) error {
	i, err := client.ParseInvitation(link)
	if err != nil {
		return err
	}
	id, err := i.DeviceID(name)
	if err != nil {
		return err
	}
	err = d.Enrol(ctx, client.Enrolment{Device: id, Code: i.Code, Root: i.Root})
	switch client.CodeOf(err) {
	case client.Denied:
		return fmt.Errorf("%w: the link was used, or has expired: ask for another one", err)
	case client.Exists:
		return fmt.Errorf("%w: another device of this user is called %s", err, name)
	}
	return err
}

// EachConversation calls start in a separate goroutine for each conversation of the device, including later ones. It
// returns when ctx has ended and all calls have returned.
func EachConversation(ctx context.Context, d *client.Device, start func(context.Context, client.Conversation)) {
	events := d.Subscribe(ctx) // before the conversations are listed, so that none is missed
	var calls sync.WaitGroup
	defer calls.Wait()
	started := make(map[string]bool)
	look := func() {
		list, err := d.Conversations(ctx)
		if err != nil {
			return // ctx has ended, or Run returns the same failure
		}
		for _, c := range list {
			if key := string(c.ID); !started[key] {
				started[key] = true
				calls.Go(func() { start(ctx, c) })
			}
		}
	}
	look()
	for e := range events {
		if e.Type == client.EventJoined || e.Type == client.EventMissed {
			look()
		}
	}
}
