// Program bridge carries messages between conversations and another network. It is a skeleton for a real bridge.
//
//	bridge -network 127.0.0.1:7070 FOLDER LINK    # once: enrols, with a link of 'mlsfed user invite'
//	bridge -network 127.0.0.1:7070 FOLDER         # from then on
//
// The other network is a TCP server that speaks JSON, one object in each line. Replace network.go by the library of
// your network; this file contains the parts that every bridge needs:
//
//   - Outgoing messages are sent in order, and the cursor "bridge" of their conversation moves when the other
//     network has acknowledged a message. So no message is lost when either side stops. A message whose
//     acknowledgement is lost is sent again, under the same id.
//   - An incoming message is acknowledged when it is durable in this device's store.
//   - Messages of the bridge itself are not sent to the other network.
//
// The bridge is a member of the conversations, and reads them. Messages are no longer end-to-end encrypted on the
// other side: the name of the bridge should make that clear to the members.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/examples/device"
)

// pause is how long the bridge waits before it connects to the other network again.
const pause = time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	address := flag.String("network", "127.0.0.1:7070", "host:port of the other network")
	flag.Parse()
	if flag.NArg() < 1 || flag.NArg() > 2 {
		log.Fatal("usage: bridge [-network HOST:PORT] FOLDER [LINK]")
	}
	if err := run(ctx, *address, flag.Arg(0), flag.Arg(1)); err != nil {
		log.Fatal(err)
	}
}

// run carries messages until ctx ends, or until a person has to act.
func run(ctx context.Context, address, folder, link string) error {
	d, closeStore, err := device.Open(ctx, folder, link, "bridge", client.Options{})
	if err != nil {
		return err
	}
	defer closeStore()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	running.Go(func() { cancel(d.Run(ctx)) })
	for ctx.Err() == nil {
		if err := carry(ctx, d, address); err != nil && ctx.Err() == nil {
			log.Printf("%s: %v; again in %v", address, err, pause)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	running.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// carry connects to the other network and carries messages both ways until one direction fails.
func carry(ctx context.Context, d *client.Device, address string) error {
	n, err := dial(ctx, address)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer n.close()
	defer context.AfterFunc(ctx, n.close)() // ends a blocked read
	var ways sync.WaitGroup
	ways.Go(func() { cancel(n.read(func(m *message) error { return comeIn(ctx, d, m) })) })
	device.EachConversation(ctx, d, func(ctx context.Context, c client.Conversation) {
		if err := goOut(ctx, d, n, c); err != nil {
			cancel(err)
		}
	})
	ways.Wait()
	return context.Cause(ctx)
}

// goOut sends the messages of one conversation to the other network, beginning with those that came while the bridge
// did not run.
func goOut(ctx context.Context, d *client.Device, n *network, c client.Conversation) error {
	self, err := d.ID(ctx)
	if err != nil {
		return err
	}
	return d.Each(ctx, c.ID, "bridge", func(ctx context.Context, m *client.Message) error {
		if m.Sender.User() == self.User() || m.Content.Text == "" {
			return nil
		}
		return n.send(ctx, &message{
			ID:           fmt.Sprintf("%x", m.ID[:]),
			Conversation: c.ID.String(),
			From:         m.Sender.User().Name() + "@" + string(m.Sender.Organization()),
			Text:         m.Content.Text,
		})
	})
}

// comeIn sends a message of the other network into its conversation. The other network has its own names: the text
// names the author, since the sender is the bridge.
func comeIn(ctx context.Context, d *client.Device, m *message) error {
	list, err := d.Conversations(ctx)
	if err != nil {
		return err
	}
	for _, c := range list {
		if c.ID.String() == m.Conversation {
			_, err := d.SendText(ctx, c.ID, m.From+": "+m.Text)
			return err
		}
	}
	log.Printf("a message for conversation %q, in which the bridge is not, is dropped", m.Conversation)
	return nil
}
