// Program bot is a device that answers each message with its text: what a bot needs, with package client alone.
//
//	go run github.com/mlsfed/mlsfed/examples/bot@latest FOLDER LINK    # once: enrols, with a link of 'mlsfed user invite'
//	go run github.com/mlsfed/mlsfed/examples/bot@latest FOLDER         # from then on
//
// It handles each message once, also those that came while it did not run: the cursor "bot" of each conversation is in
// the device's store.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"sync"

	"github.com/mlsfed/mlsfed/client"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if len(os.Args) < 2 || len(os.Args) > 3 {
		log.Fatal("usage: bot FOLDER [LINK]")
	}
	if err := run(ctx, os.Args[1], append(os.Args[2:], "")[0]); err != nil {
		log.Fatal(err)
	}
}

// run enrols the device in a folder, if there is a link, and answers until ctx ends.
func run(ctx context.Context, folder, link string) error {
	server, err := remembered(folder, link)
	if err != nil {
		return err
	}
	key, err := client.KeyFile(filepath.Join(folder, "key")) // better: in the keyring of the system
	if err != nil {
		return err
	}
	store, err := client.OpenStore(filepath.Join(folder, "store"), key) // a folder of its own
	if err != nil {
		return err
	}
	defer store.Close()
	device, err := client.Open(client.Options{Store: store, Transport: client.WebSocket(server, nil)})
	if err != nil {
		return err
	}
	if _, err := device.ID(ctx); errors.Is(err, client.ErrNotEnrolled) {
		err = enrol(ctx, device, link)
		if err != nil {
			return err
		}
	} else if err != nil {
		return err
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	all.Go(func() { cancel(device.Run(ctx)) }) // it returns when ctx ends, or when a person has to act
	answerAll(ctx, device)
	all.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// remembered is where the device connects: the link without its code, which is kept for later starts.
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

func enrol(ctx context.Context, device *client.Device, link string) error {
	i, err := client.ParseInvitation(link)
	if err != nil {
		return err
	}
	id, err := i.DeviceID("bot")
	if err != nil {
		return err
	}
	err = device.Enrol(ctx, client.Enrolment{Device: id, Code: i.Code, Root: i.Root})
	switch client.CodeOf(err) {
	case client.Denied:
		return fmt.Errorf("%w: the link was used, or has expired: ask for another one", err)
	case client.Exists:
		return fmt.Errorf("%w: another device of this user is called bot", err)
	}
	return err
}

// answerAll answers in all conversations of the device, those that are to come too, until ctx ends.
func answerAll(ctx context.Context, device *client.Device) {
	events := device.Subscribe(ctx) // before the conversations are listed, so that none falls between
	var all sync.WaitGroup
	defer all.Wait()
	answering := make(map[string]bool)
	look := func() {
		list, err := device.Conversations(ctx)
		if err != nil {
			return // ctx has ended, or Run ends with the same failure
		}
		for _, c := range list {
			if key := string(c.ID); !answering[key] {
				answering[key] = true
				all.Go(func() { answer(ctx, device, c) })
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

// answer answers the messages of one conversation, each once, but for those of the bot's own user.
func answer(ctx context.Context, device *client.Device, c client.Conversation) {
	self, err := device.ID(ctx)
	if err != nil {
		return
	}
	err = device.Each(ctx, c.ID, "bot", func(ctx context.Context, m *client.Message) error {
		if m.Sender.User() == self.User() || m.Content.Text == "" {
			return nil
		}
		_, err := device.SendText(ctx, c.ID, "You said: "+m.Content.Text)
		return err
	})
	if err != nil && ctx.Err() == nil {
		log.Printf("conversation %v: %v", c.ID, err)
	}
}
