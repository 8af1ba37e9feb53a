//go:build !js

package client_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

// Opening a device: a folder with its store, a key for the store, and the node that an invitation names.
func ExampleOpen() {
	folder, err := os.MkdirTemp("", "device")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(folder) }()
	invitation, err := client.ParseInvitation("mlsfed://n1.a.example:8443/CODE?domain=a.example&user=alice")
	if err != nil {
		fmt.Println(err)
		return
	}
	key, err := client.KeyFile(filepath.Join(folder, "key"))
	if err != nil {
		fmt.Println(err)
		return
	}
	store, err := client.OpenStore(folder, key)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = store.Close() }()
	device, err := client.Open(client.Options{Store: store, Transport: client.WebSocket(invitation, nil)})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = device.ID(context.Background())
	fmt.Println(err) // next: device.Enrol(ctx, client.Enrolment{...}), once
	// Output: the device is not enrolled
}

// Creating a conversation.
func ExampleDevice_Create() {
	world := client.NewExampleWorld()
	defer world.Close()
	alice := world.Alice
	ctx := context.Background()

	id, err := alice.Create(ctx, client.CreateOptions{Name: "Lunch"})
	if err != nil {
		fmt.Println(err)
		return
	}
	lunch, err := alice.Conversation(ctx, id)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(lunch.Rules.Name, lunch.State, lunch.Members)
	// Output: Lunch active 1
}

// Adding people of another organization, with all their devices.
func ExampleDevice_Add() {
	world := client.NewExampleWorld()
	defer world.Close()
	alice := world.Alice
	ctx := context.Background()

	id, err := alice.Create(ctx, client.CreateOptions{Name: "Lunch"})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := alice.Add(ctx, id, "mimi://b.example/u/bob"); err != nil {
		fmt.Println(err)
		return
	}
	members, err := alice.Members(ctx, id)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, m := range members {
		fmt.Println(m.Device, m.Admin)
	}
	world.Wait(client.EventJoined)
	fmt.Println("bob has joined")
	// Output:
	// mimi://a.example/d/alice/phone true
	// mimi://b.example/d/bob/phone false
	// bob has joined
}

// Reading the messages that came while a program did not run: once the device has caught up, all of them are in the
// history.
func ExampleDevice_CatchUp() {
	world := client.NewExampleWorld()
	defer world.Close()
	alice, bob := world.Alice, world.Bob
	ctx := context.Background()
	id := world.Conversation()
	for _, text := range []string{"Soup?", "At noon."} {
		if _, err := alice.SendText(ctx, id, text); err != nil {
			fmt.Println(err)
			return
		}
	}
	world.Sent(id)

	if err := bob.CatchUp(ctx); err != nil {
		fmt.Println(err)
		return
	}
	page, err := bob.History(ctx, id, client.Query{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, m := range page.Messages {
		fmt.Println(m.Content.Text)
	}
	// Output:
	// Soup?
	// At noon.
}

// Receiving: a loop over events. The store already contains the data of an event.
func ExampleDevice_Subscribe() {
	world := client.NewExampleWorld()
	defer world.Close()
	alice, bob := world.Alice, world.Bob
	ctx := context.Background()
	id := world.Conversation()

	events := bob.Subscribe(ctx) // before the messages that it has to receive
	if _, err := alice.SendText(ctx, id, "Soup?"); err != nil {
		fmt.Println(err)
		return
	}
	for e := range events {
		switch e.Type {
		case client.EventMessage:
			fmt.Printf("%s: %s\n", e.Message.Sender, e.Message.Content.Text)
			return
		case client.EventDivergence, client.EventTrust, client.EventPoison:
			fmt.Println("show this to people:", e.Err)
		case client.EventDelayed:
			fmt.Println("waits:", e.Err)
		}
	}
	// Output: mimi://a.example/d/alice/phone: Soup?
}

// Sending and receiving. A message that Send has taken is sent even if the process ends or the network fails.
func ExampleDevice_Send() {
	world := client.NewExampleWorld()
	defer world.Close()
	alice, bob := world.Alice, world.Bob
	ctx := context.Background()
	id := world.Conversation()

	received := bob.Subscribe(ctx)
	if _, err := alice.SendText(ctx, id, "Soup?"); err != nil {
		fmt.Println(err)
		return
	}
	for e := range received {
		if e.Type == client.EventMessage {
			fmt.Printf("%s: %s\n", e.Message.Sender, e.Message.Content.Text)
			break
		}
	}
	page, err := bob.History(ctx, id, client.Query{Search: "soup"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(len(page.Messages), "found")
	// Output:
	// mimi://a.example/d/alice/phone: Soup?
	// 1 found
}

// Sending a file: it is encrypted here, and travels as a blob that the message names.
func ExampleDevice_SendFile() {
	world := client.NewExampleWorld()
	defer world.Close()
	alice, bob := world.Alice, world.Bob
	ctx := context.Background()
	id := world.Conversation()

	received := bob.Subscribe(ctx)
	menu := strings.NewReader("Soup, bread, tea")
	if _, err := alice.SendFile(ctx, id, "menu.txt", menu, menu.Size(), "Today's"); err != nil {
		fmt.Println(err)
		return
	}
	var file *client.File
	for e := range received {
		if e.Type == client.EventMessage {
			file = e.Message.Content.File
			break
		}
	}
	var content bytes.Buffer
	if err := bob.SaveFile(ctx, id, file, &content, 0); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s, %d bytes: %s\n", file.Name, file.Size, content.String())
	// Output: menu.txt, 16 bytes: Soup, bread, tea
}

// A link for a second device of the same user, as text or in a QR code.
func ExampleInvitation() {
	i := client.Invitation{Host: "n1.a.example:8443", Code: "K7QX-2MPA", Domain: "a.example", User: "alice"}
	fmt.Println(i)
	device, err := i.DeviceID("laptop")
	fmt.Println(device, err)
	_, err = client.ParseInvitation("https://a.example")
	fmt.Println(wire.CodeOf(err))
	// Output:
	// mlsfed://n1.a.example:8443/K7QX-2MPA?domain=a.example&user=alice
	// mimi://a.example/d/alice/laptop <nil>
	// malformed
}
