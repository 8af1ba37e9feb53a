// Program bot is a device that answers each message with the message's text. It shows all that a bot needs, with
// package client alone.
//
//	go run github.com/mlsfed/mlsfed/examples/bot@latest FOLDER LINK    # once: enrols, with a link of 'mlsfed user invite'
//	go run github.com/mlsfed/mlsfed/examples/bot@latest FOLDER         # from then on
//
// The program handles each message once, also messages that came while it did not run: the cursor "bot" of each
// conversation is in the device's store.
package main

import (
	"context"
	"errors"
	"log"
	"os"
	"os/signal"
	"sync"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/examples/device"
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

// run enrols the device in a folder if there is a link, and answers messages until ctx ends.
func run(ctx context.Context, folder, link string) error {
	bot, closeStore, err := device.Open(ctx, folder, link, "bot", client.Options{})
	if err != nil {
		return err
	}
	defer closeStore()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	all.Go(func() { cancel(bot.Run(ctx)) }) // Run returns when ctx ends, or when a person has to act
	device.EachConversation(ctx, bot, func(ctx context.Context, c client.Conversation) { answer(ctx, bot, c) })
	all.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// answer answers each message of one conversation once, except messages of the bot's own user.
func answer(ctx context.Context, bot *client.Device, c client.Conversation) {
	self, err := bot.ID(ctx)
	if err != nil {
		return
	}
	err = bot.Each(ctx, c.ID, "bot", func(ctx context.Context, m *client.Message) error {
		if m.Sender.User() == self.User() || m.Content.Text == "" {
			return nil
		}
		_, err := bot.SendText(ctx, c.ID, "You said: "+m.Content.Text)
		return err
	})
	if err != nil && ctx.Err() == nil {
		log.Printf("conversation %v: %v", c.ID, err)
	}
}
