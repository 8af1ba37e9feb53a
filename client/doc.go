// Package client is the library that an application embeds to take part in mlsfed: one [Device] for each device of a
// user.
//
//	invitation, err := client.ParseInvitation(link) // of 'mlsfed user invite'
//	key, err := client.KeyFile(file)                // or from the keyring of the system
//	store, err := client.OpenStore(folder, key)
//	device, err := client.Open(client.Options{Store: store, Transport: client.WebSocket(invitation, nil)})
//	me, err := invitation.DeviceID("phone")
//	err = device.Enrol(ctx, client.Enrolment{Device: me, Code: invitation.Code, Root: invitation.Root}) // once
//	go device.Run(ctx)
//	events := device.Subscribe(ctx)
//	id, err := device.Create(ctx, client.CreateOptions{Name: "Lunch"})
//	err = device.Add(ctx, id, "mimi://b.example/u/bob")
//	_, err = device.SendText(ctx, id, "Soup?")
//	for event := range events { ... }
//
// docs/use/embedding.md is an introduction, and the folder examples has programs.
//
// # Calls
//
// A call that needs the node, such as [Device.Create] or [Device.Add], waits for a connection until its context ends,
// so [Device.Run] must run. [Device.SendText] returns when the message is queued on the disk; [Device.SendFile] uploads
// the file first. Calls that read, such as [Device.History], need no connection.
//
// # Messages
//
// [Device.Subscribe] reports new messages while the program runs. [Device.Each] calls a function with each message of a
// conversation from a durable cursor on, so that a program continues where it stopped. A received file is in
// Message.Content.File; [Device.SaveFile] fetches it.
//
// # Errors
//
// [CodeOf] returns the code of an error, and errors.Is(err, client.NotFound) reports whether an error has a code. The
// docstring of a call names its codes. [ErrNotEnrolled], [ErrOffline] and [ErrRunning] have no code.
//
// # Automatic work
//
// While [Device.Run] runs, the device is connected. After a failure it connects again, with a growing delay and
// jitter. It keeps KeyPackages in its organization's directory, commits proposals of other members, repeats commits
// that another commit overtook, holds messages that came before their commit, fetches missing items, rotates its
// keys, and removes revoked devices.
//
// # Durability
//
// A call that changes something writes three things in one transaction, before anything is sent: the state of the
// group, the outgoing message or commit, and the data that the application sees of it. After a crash at any point
// nothing is encrypted twice under one key, queued submissions are sent, and items that were acknowledged to the node
// are stored. See docs/spec/client.md.
//
// # Concurrency
//
// A Device is safe for concurrent use. One goroutine at a time holds its turn and uses its state; a turn ends with
// one transaction. [Open] starts nothing; [Device.Run] owns every goroutine.
//
// # Browsers
//
// The package compiles for js/wasm without files and sockets: there the application passes its own [Store] and
// [Transport].
package client
