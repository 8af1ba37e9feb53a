package client

import "github.com/mlsfed/mlsfed/wire"

// Code says what kind of failure an error is: errors.Is(err, client.Denied) holds for whatever wraps an error of that
// code, and CodeOf returns it.
type Code = wire.Code

// The codes that applications act on. The others are in package wire; a Device deals with them by itself.
const (
	// Denied: an invitation, token or certificate is not accepted, or the rules do not let this user do it.
	Denied = wire.Denied
	// Exists: the device is enrolled already, the name is taken, or the user is a member already.
	Exists = wire.Exists
	// NotFound: there is no such user or device.
	NotFound = wire.NotFound
	// NoneLeft: no device of the user has a KeyPackage left: one of them has to be online to bring some.
	NoneLeft = wire.NoneLeft
	// NotAdmitted: the own organization does not talk to the other one: its operator can change that.
	NotAdmitted = wire.NotAdmitted
	// UnknownConversation: this device has no such conversation.
	UnknownConversation = wire.UnknownConversation
	// Closed: the conversation has ended, or this device is out of it.
	Closed = wire.Closed
	// StaleEpoch: others change the group too often at once: try again later.
	StaleEpoch = wire.StaleEpoch
	// NoQuorum: no majority of the conversation's nodes can be reached. What waits is tried again by itself.
	NoQuorum = wire.NoQuorum
	// Unavailable: a node stops or cannot be reached. What waits is tried again by itself.
	Unavailable = wire.Unavailable
	// Busy: over a rate: try again after a while.
	Busy = wire.Busy
	// Quota: over a quota: wait, delete something, or ask the operator.
	Quota = wire.Quota
	// TooLarge: over a limit: make it smaller, or send a file.
	TooLarge = wire.TooLarge
	// Invalid: not allowed in this state.
	Invalid = wire.Invalid
	// Malformed: an argument breaks a rule of its form.
	Malformed = wire.Malformed
	// Version: made by a newer build: upgrade.
	Version = wire.Version
)

// CodeOf is the code of an error: "" for nil, and "internal" for one that has none, such as a failure of the network
// or of a disk.
func CodeOf(err error) Code { return wire.CodeOf(err) }
