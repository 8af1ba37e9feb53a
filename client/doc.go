// Package client is what an application embeds to take part in mlsfed: one [Device] for each device of
// a user.
//
//	store, err := client.OpenStore(filepath.Join(dir, "device.db"), key)
//	device, err := client.Open(client.Options{Store: store, Transport: client.WebSocket(invitation, nil)})
//	err = device.Enrol(ctx, client.Enrolment{Device: id, Code: invitation.Code}) // once
//	go device.Run(ctx)
//	id, err := device.Create(ctx, client.CreateOptions{Name: "Lunch"})
//	err = device.Add(ctx, id, "mimi://b.example/u/bob")
//	_, err = device.SendText(ctx, id, "Soup?")
//	for event := range device.Subscribe(ctx) { ... }
//
// # What it does by itself
//
// While [Device.Run] runs, the device is connected, and connects again after a failure, later each time
// and with jitter. It keeps KeyPackages at its organization's directory, commits what others proposed,
// commits again what another commit overtook, holds messages that came before their commit, fetches
// what it missed, rotates its keys, and removes revoked devices.
//
// # What is on disk when
//
// A call that changes something writes the state of the group, the message or commit that goes out, and
// what the application sees of it in one transaction, before anything is sent. After a crash at any
// point nothing is encrypted twice under one key, what was queued is sent, and what was acknowledged to
// the node is stored. See docs/client.md.
//
// # Concurrency
//
// A Device is safe for concurrent use. Its state belongs to whoever holds its turn, one at a time; a
// turn ends with one transaction. [Open] starts nothing; [Device.Run] owns every goroutine.
//
// # Browsers
//
// The package compiles for js/wasm without files and sockets: there the application hands in its own
// [Store] and [Transport].
package client
